"""What removed pixels are replaced with."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from usu_core._checks import check_choice, check_count, check_finite, check_positive
from usu_core._precision import wide
from usu_core.scoring import fill_images

REFERENCES = ("black", "mean", "blur")


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur of given width in pixels, cut at a given radius; the border is reflected.

    Attributes:
        sigma: Standard deviation in pixels.
        radius: The kernel has ``2 · radius + 1`` pixels per axis, or as many as the image allows.

    Example:
        >>> Blur(sigma=1.0, radius=1)(torch.tensor([[[0.0, 4.0, 0.0]]]))
        tensor([[[2.1925, 1.8075, 2.1925]]])
    """

    sigma: float
    radius: int

    def __post_init__(self) -> None:
        """Check the numbers once, when they are given."""
        check_positive("sigma", self.sigma)
        check_count("radius", self.radius)

    def __call__(self, images: Tensor) -> Tensor:
        """Blur (B, C, *pixels) along every spatial axis."""
        result = wide(images)
        for dim in range(2, images.dim()):
            radius = min(self.radius, images.shape[dim] - 1)
            offset = torch.arange(-radius, radius + 1, dtype=torch.float64)
            kernel = torch.exp(-0.5 * (offset / self.sigma) ** 2)
            weights = (kernel / kernel.sum()).tolist()
            line = result.movedim(dim, -1)
            size = line.shape[-1]
            if radius:
                flat = F.pad(line.reshape(-1, 1, size), (radius, radius), mode="reflect")
                line = flat.view(*line.shape[:-1], size + 2 * radius)
            # Slices, not a convolution, which may run in reduced precision.
            blurred = torch.zeros_like(line.narrow(-1, 0, size))
            for k, weight in enumerate(weights):
                blurred = blurred + weight * line.narrow(-1, k, size)
            result = blurred.movedim(-1, dim)
        return result.to(images.dtype)


Reference = str | float | Blur | Tensor
"""A name, a number in the model's space, a blur, or a tensor; see :func:`reference_images`."""


def reference_images(images: Tensor, reference: Reference, black: Tensor | float) -> Tensor:
    """Return the reference of each image.

    Args:
        images: (B, C, *pixels) in the model's space.
        reference: ``"black"``, ``"mean"`` (each image's mean colour), ``"blur"`` (Gaussian,
            reflected border, a twentieth of the shorter side wide), a :class:`Blur`, a number in
            the model's space (0 is the data's mean colour after the usual normalisation), or a
            tensor of shape (C, 1, 1), or another with an axis for each of the images' but the
            first, or for each of them.
        black: Value of black in the model's space: a number, or a tensor as ``reference``. Zero is
            *not* black after the usual normalisation, hence no default.

    Returns:
        A tensor of the images' shape.

    Raises:
        ValueError: If the name is unknown, or a number or tensor does not fit or is not finite.

    Example:
        >>> reference_images(torch.ones(1, 1, 2), 0.25, black=0.0)
        tensor([[[0.2500, 0.2500]]])
    """
    if isinstance(reference, Blur):
        return reference(images)
    if isinstance(reference, Tensor | int | float):
        return _spread("reference", reference, images)
    check_choice("reference", reference, REFERENCES)
    if reference == "black":
        return _spread("black", black, images)
    return fill_images(images, reference)


def _spread(name: str, given: Tensor | float, images: Tensor) -> Tensor:
    value, axes = torch.as_tensor(given), images.dim()
    # Fewer axes would be the last ones: colours might pass for columns.
    fits = value.dim() in (0, axes - 1, axes) and all(
        n in (1, size)
        for n, size in zip(value.shape, images.shape[axes - value.dim() :], strict=True)
    )
    if not fits:
        raise ValueError(
            f"{name} must be a number or broadcast to the images' shape {tuple(images.shape)}, got "
            f"shape {tuple(value.shape)}. Try a tensor of shape (C{', 1' * (axes - 2)})."
        )
    check_finite(name, value)
    return value.to(images).expand_as(images)
