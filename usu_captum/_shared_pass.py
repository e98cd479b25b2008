"""One forward pass for Grad-CAM and for gradient scores: what makes ``usu-fast`` fast."""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from captum import attr as captum_attr
from captum._utils.common import _select_targets
from torch import Tensor, nn

from usu_captum._attribute import Attribute
from usu_captum._layout import is_channels_first
from usu_captum._options import Options
from usu_captum._score import ForwardScore
from usu_core import GradientScorer, interpolate
from usu_core._precision import wide
from usu_core._tokens import is_attention, is_scaled
from usu_core.scoring import class_scores


class SharedPass:
    """Captum's own forward pass, recorded so that scores can be differentiated in it.

    The gradient is taken at the last activations before the explained layer that are at least four
    times as fine along each axis, or at the image if there are none: a map of gradient times
    activation there is as good a guide as one at the image, and the backward pass is shorter.

    Args:
        model: The module Captum runs, in evaluation mode.
        layer: The explained layer.
        image: The image, (B, C, *pixels).

    Attributes:
        inputs: To be given to Captum: the image, or a copy that requires a gradient if it does not.
    """

    def __init__(self, model: nn.Module, layer: nn.Module, image: Tensor) -> None:
        self._model, self._layer = model, layer
        # A gradient that the caller wants has to reach the very image; the model may write into
        # a copy, though not into a leaf.
        self._image = image if image.requires_grad else image.detach().clone().requires_grad_()
        with torch.enable_grad():
            self.inputs = image if image.requires_grad else self._image.clone()
        # Captum's result hangs on the graph, unless gradients are off where it is called.
        self._keeps_graph = torch.is_grad_enabled()
        self._outputs: Any = None
        self._fine: list[tuple[nn.Module, Tensor]] = []
        self._cells: tuple[int, ...] = ()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the model's output and the activations on the way while the block runs."""
        handles = [module.register_forward_hook(self._record) for module in self._model.modules()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _record(self, module: nn.Module, args: Any, output: Any) -> None:
        if module is self._model:
            self._outputs = output
        if self._cells or not isinstance(output, Tensor) or output.dim() != self.inputs.dim():
            return
        if module is self._layer:
            self._cells = tuple(output.shape[2:])
        else:
            self._fine.append((module, output))

    def effects(self, target: Any, output: str) -> Tensor | None:
        """Return |gradient · activation| of each pixel, ``None`` if the pass has no graph."""
        outputs, self._outputs = self._outputs, None
        recorded, self._fine = self._fine, []
        if not isinstance(outputs, Tensor) or not outputs.requires_grad:
            return None
        fine = (value for module, value in reversed(recorded) if self._is_fine(module, value))
        guide = next(fine, self._image)
        with torch.enable_grad():
            values = _select_targets(class_scores(outputs, output), target)
            (gradient,) = torch.autograd.grad(
                values.sum(), guide, allow_unused=True, retain_graph=self._keeps_graph
            )
        if gradient is None:
            return None
        effect = (wide(gradient) * wide(guide)).detach().sum(1, keepdim=True).abs().float()
        return interpolate(effect, self.inputs.shape[2:], "nearest").squeeze(1)

    def _is_fine(self, module: nn.Module, value: Tensor) -> bool:
        size, pixels = value.shape[2:], self.inputs.shape[2:]
        if not self._cells or not value.requires_grad or len(value) != len(self.inputs):
            return False
        is_between = all(
            4 * c <= s <= p for s, c, p in zip(size, self._cells, pixels, strict=False)
        )
        return (
            is_between
            and is_scaled(size, pixels)
            and is_channels_first(value, self.inputs, self._model, module)
            and not is_attention(value)
        )


class SharedScore(ForwardScore):
    """A forward score that knows its pixels' effects from a recorded pass."""

    def __init__(self, shared: SharedPass, forward_func: Any, target: Any, *args: Any) -> None:
        super().__init__(forward_func, target, *args)
        self._shared, self._given_target = shared, target

    def pixel_effects(self, images: Tensor, output: str) -> Tensor | None:
        """Return the effects (B, *pixels) at the recorded images; ``None`` for others."""
        if images.shape != self._shared.inputs.shape:
            return None
        return self._shared.effects(self._given_target, output)


def shared_pass(
    method: Any, captum: Attribute, inputs: Any, arguments: dict[str, Any], options: Options
) -> SharedPass | None:
    """Return a pass to share, or ``None`` where Captum's could not serve both ends.

    That is: Grad-CAM of a single input, a module in evaluation mode (scores are made in it), a
    gradient scorer, and a Captum that lets the graph be kept (0.8 and later). A fill that was
    chosen is of the image, and asks for the gradient there.
    """
    scorer = getattr(options.resolved, "scorer", None)
    if isinstance(inputs, tuple) and len(inputs) == 1:
        (inputs,) = inputs
    if not isinstance(scorer, GradientScorer) or not isinstance(inputs, Tensor):
        return None
    if isinstance(scorer.fill, Tensor) or scorer.fill != GradientScorer.fill:
        return None
    if not isinstance(method, captum_attr.LayerGradCam) or method.device_ids is not None:
        return None
    model = method.forward_func
    if not isinstance(model, nn.Module) or isinstance(model, nn.DataParallel):
        return None
    if any(module.training for module in model.modules()) or not inputs.is_floating_point():
        return None
    if "grad_kwargs" not in signature(captum).parameters or arguments.get("grad_kwargs"):
        return None
    return SharedPass(model, method.layer, inputs)
