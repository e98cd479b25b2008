"""Does a map follow the model? Compare maps before and after its weights are drawn anew."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from usu_core._checks import check_choice, check_finite, check_tensor
from usu_core.metrics._correlation import spearman

ORDERS = ("cascading", "independent")


@dataclass(frozen=True)
class Randomisation:
    """Similarity of each map to the map of the intact model.

    Attributes:
        layers: Names of the layers, in the order in which they were drawn anew.
        similarity: (B, len(layers)). A map that follows the model drops far below 1.
    """

    layers: tuple[str, ...]
    similarity: Tensor


def model_randomisation(
    attribute: Callable[[nn.Module], Tensor],
    model: nn.Module,
    *,
    order: str = "cascading",
    layers: Sequence[str] | None = None,
    similarity: Callable[[Tensor, Tensor], Tensor] = spearman,
    seed: int = 0,
) -> Randomisation:
    """Draw layers anew, from the output to the input, and compare the maps.

    The sanity check of Adebayo et al., 2018: a map that stays the same did not depend on what the
    model has learnt. Layers use their own ``reset_parameters``; parameters that it leaves alone,
    and those of modules without one, are drawn from a normal distribution with the mean and spread
    they have. Integer parameters stay as they are. The model's parameters, buffers, gradients and
    modes and torch's random state are restored, also on errors and interrupts.

    Args:
        attribute: Takes the model, returns maps (B, ...). It meets the same random state at every
            call. Take absolute values in it to compare without signs.
        model: The model, changed in place while this runs.
        order: ``"cascading"``, where drawn layers stay so, or ``"independent"``, where each is
            restored before the next.
        layers: Names of modules, such as ``"layer4.1.conv2"``, or of whole blocks, drawn in this
            order with all inside them. By default every module with parameters of its own, last
            registered first, and these parameters alone.
        similarity: Compares maps (B, ...) twice to (B,), such as :func:`spearman`.
        seed: Seed of the new weights.

    Returns:
        The names and the similarities.

    Raises:
        TypeError: If ``attribute`` returns no tensor.
        ValueError: If a layer does not exist or has no parameters, a map is not finite, or shapes
            change.

    Cost:
        ``1 + len(layers)`` calls of ``attribute``, and one copy of the model's weights.

    Example:
        >>> model = torch.nn.Linear(64, 1)
        >>> weights = lambda model: model.weight.detach()
        >>> result = model_randomisation(weights, model, layers=[""])
        >>> result.similarity.shape, bool(result.similarity < 0.99)
        (torch.Size([1, 1]), True)
    """
    check_choice("order", order, ORDERS)
    parts = dict(model.named_modules())
    whole = layers is not None
    if layers is None:
        layers = [name for name in reversed(parts) if _own(parts[name])]
    for name in layers:
        if name not in parts or not any(_own(part) for part in parts[name].modules()):
            raise ValueError(
                f"layers must name modules of the model that have parameters, got {name!r}. See "
                "[name for name, _ in model.named_modules()]."
            )
    if not layers:
        raise ValueError("model must have parameters to draw anew, got none.")
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    columns = []
    with torch.random.fork_rng(devices), _kept(model) as restore:
        own = _maps(attribute, model, seed, devices)
        for k, name in enumerate(layers):
            if order == "independent":
                restore()
            _seed(seed + 1 + k, devices)
            _draw(parts[name].modules() if whole else (parts[name],))
            columns.append(similarity(own, _maps(attribute, model, seed, devices)))
    return Randomisation(tuple(layers), torch.stack(columns, 1))


def _maps(
    attribute: Callable[[nn.Module], Tensor], model: nn.Module, seed: int, devices: list[int]
) -> Tensor:
    _seed(seed, devices)
    # A view of the weights would change with them.
    found = check_tensor("attribute(model)", attribute(model)).detach().clone()
    check_finite("attribute(model)", found)
    return found


def _own(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that can be drawn and belong to no part of the module."""
    own = module.parameters(recurse=False)
    return [p for p in own if p.is_floating_point() or p.is_complex()]


def _draw(parts: Iterable[nn.Module]) -> None:
    """Draw the modules' own parameters anew, from torch's random state."""
    with torch.no_grad():
        for part in parts:
            learnt = [(parameter, parameter.clone()) for parameter in _own(part)]
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
            for parameter, value in learnt:
                # ``weight_norm`` and ``spectral_norm`` keep what a module's own reset cannot reach.
                if torch.equal(parameter, value):
                    spread, mean = torch.std_mean(parameter, correction=0)
                    parameter.normal_().mul_(spread).add_(mean)


def _seed(seed: int, devices: list[int]) -> None:
    """Seed the CPU and the model's devices, and no others, for only these are restored."""
    torch.default_generator.manual_seed(seed)
    for device in devices:
        torch.cuda.default_generators[device].manual_seed(seed)


@contextmanager
def _kept(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Restore values, gradients and modes at the end; what is yielded restores them at once."""
    tensors = [(t, t.detach().clone()) for t in (*model.parameters(), *model.buffers())]
    flags = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    # Backward passes add to a gradient in place.
    tensors += [(g, g.detach().clone()) for _, _, g in flags if g is not None]
    modes = [(module, module.training) for module in model.modules()]
    # A forward pass may put another tensor in a buffer's place.
    held = [(module, dict(module._parameters), dict(module._buffers)) for module in model.modules()]

    def restore() -> None:
        for module, parameters, buffers in held:
            module._parameters.update(parameters)
            module._buffers.update(buffers)
        for module, training in modes:
            module.training = training
        for parameter, required, gradient in flags:
            parameter.requires_grad_(required)
            parameter.grad = gradient
        with torch.no_grad():
            for tensor, value in tensors:
                # What cannot be written to, such as an expanded buffer, has not changed.
                if not torch.equal(tensor, value):
                    tensor.copy_(value)

    try:
        yield restore
    finally:
        restore()
