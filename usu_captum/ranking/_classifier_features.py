"""The explained classifier's own features and gradients, read where it computes them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from usu_captum._layout import lay_out, needs_layout, token_grid
from usu_captum._models import bare_module, evaluating, in_its_dtype
from usu_captum._options import Options
from usu_core._tokens import TokenGrid


class _Layout(NamedTuple):
    """What the model says of a layer's output; asking it walks through all its modules."""

    needed: bool
    grid: TokenGrid | None


class ClassifierEncoder(nn.Module):
    """Stages of a classifier, captured by hooks that are gone when the pass ends.

    The classifier is neither trained nor part of the network's state, and runs in evaluation mode.

    With ``gradients`` a stage holds twice the channels: the features, and their products with the
    gradient of the class's logit over the mean logit, in units of the products' root mean square.
    The image is then the first stage, averaged to the size of the finest layer. Summed over
    channels, such products are input x gradient and HiResCAM. After the stages comes an activation
    map (B, 1, h, w) of the last one: the mean of HiResCAM and Grad-CAM, each brought to mean 0 and
    deviation 1. In front of a global average they are the same; elsewhere the first knows where a
    gradient counts, and the second averages out the noise of a transformer's gradients.

    Args:
        classifier: The module that is explained.
        layers: Names in ``classifier.named_modules()``, finest first; each must run once, and give
            one spatial map (B, C, h, w), or tokens whose grid the model tells. What a later layer
            writes into such a map in place is read as it wrote it.
        gradients: Read gradients too.

    Raises:
        ValueError: If a layer does not exist, or is not run once, or gives no map, or has no
            gradient, or the last is of a single pixel where gradients are read.

    Cost:
        One forward pass of the classifier, in its weights' dtype and without autocast if there are
        gradients, and then a backward pass.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> images = torch.rand(2, 3, 8, 8)
        >>> [tuple(stage.shape) for stage in ClassifierEncoder(net, ["1"])(images)]
        [(2, 4, 6, 6)]
        >>> encoder = ClassifierEncoder(net, ["1"], gradients=True)
        >>> [tuple(stage.shape) for stage in encoder(images, torch.tensor([0, 1]))]
        [(2, 6, 6, 6), (2, 8, 6, 6), (2, 1, 6, 6)]
    """

    trainable = False

    def __init__(
        self, classifier: nn.Module, layers: Sequence[str], *, gradients: bool = False
    ) -> None:
        super().__init__()
        classifier = bare_module(classifier)
        known = dict(classifier.named_modules())
        for name in layers:
            if name not in known:
                raise ValueError(
                    f"layers must be modules of the classifier, got {name!r}. Try one of "
                    f"{', '.join([key for key in known if key][-5:])}."
                )
        if not layers:
            raise ValueError("layers must name at least one module, got none.")
        # In a tuple, so that it is no submodule: not trained, moved, saved or switched in mode.
        self._classifier = (classifier,)
        self.layers = tuple(layers)
        self.gradients = gradients
        self._layouts: dict[tuple[str, torch.Size], _Layout] = {}

    @property
    def classifier(self) -> nn.Module:
        """The module whose features are read."""
        return self._classifier[0]

    def forward(self, images: Tensor, targets: Tensor | None = None) -> list[Tensor]:
        """Return the stages of images (B, C, H, W), without gradient.

        Targets (B,) are needed for, and only for, the gradients.
        """
        if self.gradients:
            if targets is None:
                raise ValueError(
                    "targets must name the classes whose gradients are read, got None."
                )
            return self._products(images, targets)
        with self._captured() as found, torch.no_grad():
            self.classifier(in_its_dtype(self.classifier, images))
        return self._maps(found, images)

    def _products(self, images: Tensor, targets: Tensor) -> list[Tensor]:
        # Tensors made in inference mode cannot be differentiated, their copies outside it can;
        # half precision would round small gradients away.
        exact = torch.autocast(images.device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), exact:
            inputs = in_its_dtype(self.classifier, images.detach().float()).clone()
            inputs.requires_grad_()
            with self._captured() as found:
                logits = self.classifier(inputs)
            features = [inputs.float(), *self._maps(found, inputs)]
            chosen = logits.gather(1, targets.to(logits.device).clone()[:, None]).sum()
            outputs = [found[name] for name in self.layers]
            slopes = _gradients(chosen - logits.mean(1).sum(), [inputs, *outputs])
        laid_out = self._maps(dict(zip(self.layers, slopes[1:], strict=True)), inputs)
        stages = []
        for stage, gradient in zip(features, [slopes[0].float(), *laid_out], strict=True):
            stages.append(torch.cat([stage.detach(), stage.detach() * gradient], 1))
        height, width = stages[1].shape[2:]
        stages[0] = functional.adaptive_avg_pool2d(stages[0], (height, width))
        if stages[-1][0, 0].numel() == 1:
            raise ValueError(
                "layers must end in a map of several pixels to read gradients, got a single one "
                f"from {self.layers[-1]!r}. Try leaving it out."
            )
        start = _activation_map(stages[-1], laid_out[-1])
        return [*(_in_own_units(stage) for stage in stages), start]

    @contextmanager
    def _captured(self) -> Iterator[dict[str, Any]]:
        """Keep what the layers put out, with the classifier in evaluation mode."""
        found: dict[str, Any] = {}

        def keep(name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                if name in found:
                    raise ValueError(
                        f"layers must run once, got {name!r}, which runs again. Try the layer "
                        "before or after it."
                    )
                found[name] = output

            return hook

        handles = []
        try:
            for name in self.layers:
                layer = self.classifier.get_submodule(name)
                handles.append(layer.register_forward_hook(keep(name)))
            with evaluating(self.classifier):
                yield found
        finally:
            for handle in handles:
                handle.remove()

    def _maps(self, found: dict[str, Any], images: Tensor) -> list[Tensor]:
        return [self._map(name, found.get(name), images) for name in self.layers]

    def _map(self, name: str, output: Any, images: Tensor) -> Tensor:
        if not isinstance(output, Tensor):
            what = "nothing" if output is None else type(output).__name__
            raise ValueError(f"layers must each give one tensor, got {what} from {name!r}.")
        layer = self.classifier.get_submodule(name)
        key = (name, images.shape[2:])
        if key not in self._layouts:
            self._layouts[key] = _Layout(
                needs_layout(self.classifier, layer, Options()),
                token_grid(self.classifier, images, layer),
            )
        layout = self._layouts[key]
        if not layout.needed and output.dim() == images.dim() and len(output) == len(images):
            return output.float()
        options = Options(grid=layout.grid)
        return lay_out(output, images, self.classifier, layer, options).float()


def _gradients(score: Tensor, sources: Sequence[Tensor]) -> list[Tensor]:
    found: Sequence[Tensor | None] = [None]
    if score.requires_grad and all(source.requires_grad for source in sources):
        found = torch.autograd.grad(score, sources, allow_unused=True)
    if any(gradient is None for gradient in found):
        raise ValueError(
            "classifier must be differentiable in its layers and images to read gradients, got "
            "outputs without one. Try without torch.no_grad() and .detach() in it."
        )
    return [gradient for gradient in found if gradient is not None]


def _activation_map(stage: Tensor, gradients: Tensor) -> Tensor:
    """Return the mean of HiResCAM and Grad-CAM of a stage in equal units, (B, 1, h, w)."""
    features, products = stage.chunk(2, 1)
    weights = gradients.mean((2, 3), keepdim=True)
    return (sum_to_map(products) + sum_to_map(features * weights)) / 2


def sum_to_map(stage: Tensor) -> Tensor:
    """Return the sum over channels (B, 1, h, w); mean 0 and deviation 1 per image.

    Of a constant map the rounding is not blown up, and zeros stay.
    """
    cells = stage.sum(1, keepdim=True)
    mean, spread = cells.mean((2, 3), keepdim=True), cells.std((2, 3), keepdim=True)
    limits = torch.finfo(cells.dtype)
    rounding = limits.eps * cells.abs().amax((2, 3), keepdim=True)
    return (cells - mean) / (spread + rounding).clamp(min=limits.tiny)


def _in_own_units(stage: Tensor) -> Tensor:
    """Divide the products (B, 2C, h, w) hold by each image's root mean square; zeros stay."""
    features, products = stage.chunk(2, 1)
    size = products.square().mean((1, 2, 3), keepdim=True).sqrt()
    return torch.cat([features, products / size.where(size > 0, 1.0)], 1)
