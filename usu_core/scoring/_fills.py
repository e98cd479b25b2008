"""What takes the place of a masked segment."""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from usu_core._checks import check_choice
from usu_core._precision import exact

FILLS = ("blur", "mean", "zero")


@dataclass(frozen=True, eq=False)
class Filling:
    """What compares by value even if its fill is a tensor, for which ``==`` has many answers.

    Example:
        >>> from usu_core import GradientScorer
        >>> GradientScorer(torch.zeros(3, 1, 1)) == GradientScorer(torch.zeros(3, 1, 1))
        True
    """

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        mine, theirs = self._compared, other._compared
        return all(_equal(one, two) for one, two in zip(mine, theirs, strict=True))

    def __hash__(self) -> int:
        # Of a tensor its shape alone: equal objects must have equal hashes.
        return hash(tuple(v.shape if isinstance(v, Tensor) else v for v in self._compared))

    @property
    def _compared(self) -> list[Any]:
        return [getattr(self, field.name) for field in fields(self)]


def _equal(one: Any, two: Any) -> bool:
    if one is two or not (isinstance(one, Tensor) and isinstance(two, Tensor)):
        return bool(one is two or one == two)
    return (one.dtype, one.device) == (two.dtype, two.device) and torch.equal(one, two)


def fill_images(images: Tensor, fill: str | Tensor) -> Tensor:
    """Return the images that masked pixels are taken from.

    Args:
        images: (B, C, *pixels) in the model's own space.
        fill: ``"blur"`` (Gaussian, a twentieth of the shorter side wide), ``"mean"`` (each
            image's mean per channel), ``"zero"`` (0 in the model's space: the mean colour under
            the usual normalisation, not black), or a tensor broadcastable to ``images``.

    Returns:
        A tensor of the images' shape and dtype.

    Raises:
        ValueError: If the name is unknown or the tensor does not broadcast.
    """
    if isinstance(fill, Tensor):
        try:
            return fill.to(images).expand_as(images)
        except RuntimeError as error:
            raise ValueError(
                f"fill must broadcast to the images' shape {tuple(images.shape)}, got "
                f"{tuple(fill.shape)}."
            ) from error
    check_choice("fill", fill, FILLS)
    if fill == "zero":
        return torch.zeros_like(images)
    if fill == "mean":
        return images.mean(tuple(range(2, images.dim())), keepdim=True).expand_as(images)
    return gaussian_blur(images, min(images.shape[2:]) / 20)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur the spatial dimensions with a Gaussian, reflecting at the border.

    Reflection keeps constants constant, where zero padding would pull borders to the mean.

    Args:
        images: (B, C, *pixels) of rank 1, 2 or 3.
        sigma: Standard deviation in pixels; 0 returns the images.

    Returns:
        The blurred images; the kernel is cut at three standard deviations, or at the image.

    Example:
        >>> gaussian_blur(torch.ones(1, 1, 4), 1.0).round(decimals=4)
        tensor([[[1., 1., 1., 1.]]])
    """
    result = images
    for dim in range(2, images.dim()):
        radius = min(math.ceil(3 * sigma), images.shape[dim] - 1)
        if radius < 1 or sigma <= 0:
            continue
        weights = _blur_matrix(images.shape[dim], sigma, radius)
        weights = weights.to(images.dtype).to(images.device)  # Not every device has float64.
        with exact(images):
            result = (result.movedim(dim, -1) @ weights.T).movedim(-1, dim)
    return result


def _blur_matrix(size: int, sigma: float, radius: int) -> Tensor:
    """Return the (size, size) matrix of a reflecting blur: far faster than a wide convolution."""
    offset = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offset.double() / sigma) ** 2)
    source = (torch.arange(size)[:, None] + offset).abs()
    source = source.where(source < size, 2 * (size - 1) - source)
    share = (kernel / kernel.sum()).expand(size, -1)
    return share.new_zeros(size, size).scatter_add_(1, source, share)
