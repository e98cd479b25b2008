"""What takes the place of a masked segment."""

import math

import torch
from torch import Tensor

from usu_core._checks import check_choice
from usu_core._precision import exact

FILLS = ("blur", "mean", "zero")


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
        weights = _blur_matrix(images.shape[dim], sigma, radius).to(images)
        with exact(images):
            result = (result.movedim(dim, -1) @ weights.T).movedim(-1, dim)
    return result


def _blur_matrix(size: int, sigma: float, radius: int) -> Tensor:
    """Return the (size, size) matrix of a reflecting blur: far faster than a wide convolution."""
    offset = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offset / sigma) ** 2)
    source = (torch.arange(size)[:, None] + offset).abs()
    source = source.where(source < size, 2 * (size - 1) - source)
    share = (kernel / kernel.sum()).expand(size, -1)
    return torch.zeros(size, size).scatter_add_(1, source, share)
