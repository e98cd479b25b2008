"""Path methods as functions of an image and the class to explain."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def with_gap(method: Any, /, **arguments: Any) -> Callable[[Tensor, Any], tuple[Tensor, Tensor]]:
    """Return a function of image and target that gives the attribution and its gap."""

    def attribute(image: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = method.attribute(
            image, target=target, return_convergence_delta=True, **arguments
        )
        return result

    return attribute
