"""Steps that touch nothing but their own parameters."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from usu_captum._models import evaluating
from usu_captum.ranking._randomness import kept_randomness
from usu_core._checks import check_choice

SCALES = ("element", "example")


class Adam:
    """Adam (Kingma and Ba, 2015) on given gradients, since ``.grad`` is not ours to write.

    Args:
        parameters: Tensors to step in place.
        rate: The learning rate.
        scale: What shares a scale: ``"element"``, as published, where every element steps by the
            rate at first, however small its gradient; or ``"example"``, all elements of a row,
            whose root mean square steps by the rate, so that large gradients go further. Of a
            parameter of one dimension or none, that is each element.

    Example:
        >>> weight = torch.zeros(2)
        >>> Adam([weight], 0.5).step([torch.tensor([3.0, -1e-3])])
        >>> weight
        tensor([-0.5000,  0.5000])
        >>> weight = torch.zeros(1, 2)
        >>> Adam([weight], 0.5, scale="example").step([torch.tensor([[3.0, -1e-3]])])
        >>> weight.round(decimals=3)
        tensor([[-0.7070,  0.0000]])
    """

    def __init__(
        self, parameters: Sequence[Tensor], rate: float, *, scale: str = "element"
    ) -> None:
        check_choice("scale", scale, SCALES)
        self._parameters, self._rate, self._steps = parameters, rate, 0
        self._shared = scale == "example"
        self._first = [torch.zeros_like(p) for p in parameters]
        self._second = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor | None]) -> None:
        """Step every parameter in place; raise ``ValueError`` where a gradient is missing."""
        self._steps += 1
        slots = zip(self._parameters, grads, self._first, self._second, strict=True)
        for parameter, grad, first, second in slots:
            if grad is None:
                raise ValueError(
                    f"maps must depend on every parameter, got one of shape "
                    f"{tuple(parameter.shape)} that they do not depend on. Try leaving it out."
                )
            first.lerp_(grad, 0.1)
            square = grad.square()
            if self._shared and grad.dim() > 1:
                square = square.flatten(1).mean(1).view(-1, *[1] * (grad.dim() - 1))
            second.lerp_(square.expand_as(second), 0.001)
            mean = first / (1 - 0.9**self._steps)
            size = (second / (1 - 0.999**self._steps)).sqrt()
            # Gradients of saturated classifiers are tiny, and so must the floor be.
            parameter.sub_(self._rate * mean / (size + 1e-12))
        # The caller's autocast would go on with copies of what the parameters were.
        torch.clear_autocast_cache()


@contextmanager
def undisturbed(forward_func: Callable[..., Any], device: torch.device) -> Iterator[None]:
    """Put a module in evaluation mode; afterwards restore it and the random state.

    Args:
        forward_func: A module, or what is known to run one (see ``modules_of``). Any other
            function is left alone.
        device: Whose random state is kept, beside the CPU's.

    Example:
        >>> layer = torch.nn.Dropout()
        >>> with undisturbed(layer, torch.device("cpu")):
        ...     print(layer.training)
        False
        >>> layer.training
        True
    """
    with (
        kept_randomness(device),
        evaluating(forward_func),
    ):
        yield
