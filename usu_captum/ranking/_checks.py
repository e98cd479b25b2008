"""Checks on what networks and training runs are given: settings, and images."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from usu_core._checks import check_float_tensor


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


def check_batch(images: Tensor) -> None:
    """Raise unless images are (B, C, H, W) of floating-point numbers."""
    check_float_tensor("images", images)
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}.")


def check_maps(maps: Tensor, images: Tensor) -> None:
    """Raise unless maps are (B, 1, H, W) of floating-point numbers, one for each image."""
    check_float_tensor("maps", maps)
    wanted = (len(images), 1, *images.shape[2:])
    if tuple(maps.shape) != wanted:
        raise ValueError(
            f"maps must have shape {wanted}, one channel of the images' size, got "
            f"{tuple(maps.shape)}. Try maps.sum(1, keepdim=True), or an upsampler."
        )
