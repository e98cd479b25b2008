"""The explained classifier's own features, read where it computes them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from usu_captum._layout import lay_out, needs_layout, token_grid
from usu_captum._models import evaluating
from usu_captum._options import Options
from usu_core._tokens import TokenGrid


class _Layout(NamedTuple):
    """What the model says of a layer's output; asking it walks through all its modules."""

    needed: bool
    grid: TokenGrid | None


class ClassifierEncoder(nn.Module):
    """Stages of a classifier, captured by hooks that are gone when the pass ends.

    The classifier is neither trained nor part of the network's state, and runs in evaluation mode.

    Args:
        classifier: The module that is explained.
        layers: Names in ``classifier.named_modules()``, finest first; each must give one spatial
            map (B, C, h, w), or tokens whose grid the model tells.

    Raises:
        ValueError: If a layer does not exist, or is not run, or gives no map.

    Cost:
        One forward pass of the classifier.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
        >>> [tuple(stage.shape) for stage in ClassifierEncoder(net, ["1"])(torch.rand(2, 3, 8, 8))]
        [(2, 4, 6, 6)]
    """

    trainable = False

    def __init__(self, classifier: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
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
        self._layouts: dict[tuple[str, torch.Size], _Layout] = {}

    @property
    def classifier(self) -> nn.Module:
        """The module whose features are read."""
        return self._classifier[0]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return one map (B, C_i, h_i, w_i) per layer for images (B, C, H, W); no gradients."""
        modules = dict(self.classifier.named_modules())
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                found[name] = output

            return hook

        handles = []
        try:
            handles += [modules[name].register_forward_hook(keep(name)) for name in self.layers]
            with evaluating(self.classifier), torch.no_grad():
                self.classifier(images)
        finally:
            for handle in handles:
                handle.remove()
        return [self._map(name, modules[name], found.get(name), images) for name in self.layers]

    def _map(self, name: str, layer: nn.Module, output: Any, images: Tensor) -> Tensor:
        if not isinstance(output, Tensor):
            what = "nothing" if output is None else type(output).__name__
            raise ValueError(f"layers must each give one tensor, got {what} from {name!r}.")
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


def default_stages(classifier: nn.Module, images: Tensor, count: int = 4) -> tuple[str, ...]:
    """Return the names of up to ``count`` layers to read a classifier's features from.

    Of a vision transformer, the blocks that end its quarters; of everything else, the last map of
    each size, finest first.

    Args:
        classifier: A module.
        images: (B, C, H, W); the classifier is run on them once.
        count: How many, at most.

    Raises:
        ValueError: If no module gives a spatial map.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        >>> default_stages(net, torch.rand(1, 1, 8, 8))
        ('1', '2')
    """
    names = {module: name for name, module in classifier.named_modules() if name}
    for module in classifier.modules():
        encoder: Any = getattr(module, "encoder", None)
        blocks: Any = getattr(module, "blocks", None) or getattr(encoder, "layers", None)
        if blocks is not None and token_grid(module, images) is not None:
            total = len(blocks)
            ends = sorted({-(-(i + 1) * total // count) - 1 for i in range(count)})
            return tuple(names[blocks[i]] for i in ends)
    last: dict[tuple[int, int], str] = {}

    def record(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() in (3, 4) and len(output) == len(images):
            try:
                shape = lay_out(output, images, classifier, module, Options()).shape
            except ValueError:
                return  # Not a map: tokens whose grid the model does not tell, for one.
            if min(shape[2:]) > 1:
                last[int(shape[2]), int(shape[3])] = names[module]

    handles = []
    try:
        handles += [module.register_forward_hook(record) for module in names]
        with evaluating(classifier), torch.no_grad():
            classifier(images)
    finally:
        for handle in handles:
            handle.remove()
    if not last:
        raise ValueError(
            "classifier must have a layer with a spatial output, got none in "
            f'{type(classifier).__name__}. Try encoder="timm:resnet18".'
        )
    finest_first = sorted(last, key=lambda size: -size[0] * size[1])
    return tuple(last[size] for size in finest_first[-count:])
