"""Checks on what networks and training runs are given: settings, and images."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor


def frozen(name: str, value: Any, example: str) -> tuple[Any, ...]:
    """Return a sequence of settings as a tuple, raise ``TypeError`` if it is none.

    A string is a sequence of letters, and never what was meant.

    Example:
        >>> frozen("grids", [7, 14], "(14,)")
        (7, 14)
        >>> frozen("grids", 14, "(14,)")
        Traceback (most recent call last):
        TypeError: grids must be a sequence, got 14. Try (14,).
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence, got {value!r}. Try {example}.")
    return tuple(value)


def check_source(name: str, source: Any) -> None:
    """Raise ``TypeError`` unless training can read ``source``."""
    if not callable(getattr(source, "fingerprint", None)):
        raise TypeError(
            f"{name} must be images that know their fingerprint, got {type(source).__name__}. Try "
            f"DatasetImages({name}, network.config.input_shape)."
        )


def check_images(name: str, images: Tensor, input_shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` unless images (B, C, H, W) have the shape a network is for."""
    if tuple(images.shape[1:]) != input_shape:
        raise ValueError(
            f"{name} must give images of shape {input_shape}, which the network is for, got "
            f"{tuple(images.shape[1:])}. Try resizing them."
        )
