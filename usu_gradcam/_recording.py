"""Which target layer each record of a CAM is of.

The library keeps activations and gradients in the order of the calls, and takes the nth for the
nth layer's. A layer that is called twice, not at all, or without a gradient shifts all others.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from usu_gradcam._context import assigned


@dataclass
class Calls:
    """The calls of a CAM's target layers during one explanation.

    Attributes:
        layers: The layer of each activation recorded.
        graded: The number of the activation that each gradient recorded belongs to.
    """

    layers: list[nn.Module] = field(default_factory=list)
    graded: list[int] = field(default_factory=list)

    def note(self, layer: nn.Module, given: Any, output: Any) -> None:
        """Take note of a call: a forward hook, behind those of the library."""
        number, graded = len(self.layers), self.graded
        self.layers.append(layer)
        if getattr(output, "requires_grad", False):
            output.register_hook(lambda gradient: graded.insert(0, number))


_CALLS: ContextVar[Mapping[Any, Calls]] = ContextVar("usu_gradcam_calls")


@contextmanager
def noting(cam: Any) -> Iterator[None]:
    """Take note of the calls of a CAM's target layers."""
    calls = Calls()
    handles = [layer.register_forward_hook(calls.note) for layer in cam.target_layers]
    try:
        with assigned(_CALLS, {**_CALLS.get({}), cam.activations_and_grads: calls}):
            yield
    finally:
        for handle in handles:
            handle.remove()


def records(cam: Any) -> list[tuple[Any, Any]]:
    """Return each target layer's activation and gradient, ``None`` for what it has not.

    Those of its first call: what the library takes from a layer that is its only one.
    """
    recorded = cam.activations_and_grads
    activations, gradients = list(recorded.activations), list(recorded.gradients)
    # Without notes, as when a method of somebody else runs the model itself: as the library does.
    calls = _CALLS.get({}).get(recorded) or Calls(list(cam.target_layers), [*range(len(gradients))])
    found = []
    for layer in cam.target_layers:
        call = calls.layers.index(layer) if layer in calls.layers else len(activations)
        found.append(
            (
                activations[call] if call < len(activations) else None,
                gradients[calls.graded.index(call)] if call in calls.graded else None,
            )
        )
    return found
