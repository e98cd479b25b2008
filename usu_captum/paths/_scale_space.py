"""Images in scale space: one image at many widths of a Gaussian."""

import math

import torch
from torch import Tensor

from usu_captum.paths._engine import Points

BORDERS = ("reflect", "zero")
"""What lies beyond an image: its mirror image, or zeros."""

_WHOLE = 9.0
"""Standard deviations beyond which a Gaussian is lost in the rounding of float64."""

_SHARP = 0.02
"""A width at which not even a neighbour has a weight in float64."""


class BlurPath:
    """Images of a standard deviation that falls from ``max_sigma`` to 0, the image itself.

    Args:
        images: Each (B, C, *pixels).
        max_sigmas: In pixels, one for each of ``images``.
        power: See :class:`BlurIG`, as the rest.
    """

    def __init__(
        self,
        images: Points,
        max_sigmas: tuple[float, ...],
        power: float,
        border: str,
        truncate: float | None,
        grad_step: float,
    ) -> None:
        self._images, self._max_sigmas, self._power = images, max_sigmas, power
        self._border, self._truncate, self._grad_step = border, truncate, grad_step

    def at(self, alphas: Tensor) -> Points:
        """Return the images at positions (K,), each (K, B, C, *pixels)."""
        return tuple(self._blurred(i, s) for i, s in self._sigmas(alphas))

    def slopes(self, nodes: Tensor, edges: Tensor) -> Points:
        """Return slope at each node (K,) times the stretch between its edges (K + 1,)."""
        found = []
        for (image, at), (_, ends) in zip(self._sigmas(nodes), self._sigmas(edges), strict=True):
            ahead = self._blurred(image, at + self._grad_step)
            stretch = (ends.diff() / self._grad_step).to(image).view(-1, *[1] * image.dim())
            found.append((ahead - self._blurred(image, at)) * stretch)
        return tuple(found)

    def _sigmas(self, alphas: Tensor) -> list[tuple[Tensor, Tensor]]:
        falling = (1 - alphas.double()).clamp(min=0) ** self._power
        return [(i, s * falling) for i, s in zip(self._images, self._max_sigmas, strict=True)]

    def _blurred(self, image: Tensor, sigmas: Tensor) -> Tensor:
        result = image.expand(len(sigmas), *image.shape)
        for dim in range(2, image.dim()):
            weights = blur_matrices(image.shape[dim], sigmas, self._border, self._truncate, image)
            rows = result.movedim(dim + 1, -1)
            result = torch.einsum("kb...j,kij->kb...i", rows, weights).movedim(-1, dim + 1)
        # Reduced-precision products of an accelerator would round the sharp image, too.
        sharp = (sigmas < _SHARP).to(image.device).view(-1, *[1] * image.dim())
        return torch.where(sharp, image, result)


def blur_matrices(
    size: int, sigmas: Tensor, border: str, truncate: float | None, like: Tensor
) -> Tensor:
    """Return the matrices that blur ``size`` pixels by each sigma.

    Wide Gaussians are far faster as matrices than as convolutions. Mirrored at its borders an
    image has period ``2 * size``, so the Gaussian is folded onto one period first.

    Args:
        size: Pixels in a row.
        sigmas: (K,) float64, at least 0.
        border: One of ``BORDERS``.
        truncate: Standard deviations to cut at; ``None`` for none.
        like: Gives dtype and device.

    Returns:
        (K, size, size): from source pixels (last) to blurred ones.

    Example:
        >>> wide = torch.tensor([50.0], dtype=torch.float64)
        >>> blur_matrices(4, wide, "reflect", None, torch.ones(1))[0, 0]
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    widths = sigmas.cpu()[:, None, None]
    periods = math.ceil((truncate or _WHOLE) * float(sigmas.max()) / (2 * size)) + 1
    distance = torch.arange(-size, size) + 2 * size * torch.arange(-periods, periods + 1)[:, None]
    gaussian = torch.exp(-0.5 * (distance / widths.clamp(min=_SHARP)) ** 2)
    if truncate is not None:
        gaussian = gaussian * (distance.abs() <= (truncate * widths + 0.5).floor())
    share = gaussian / gaussian.sum((1, 2), keepdim=True)
    one_period = share.sum(1) if border == "reflect" else share[:, periods]
    one_period = one_period.roll(-size, 1).to(like)
    pixel = torch.arange(size, device=like.device)
    matrices = one_period[:, (pixel[:, None] - pixel) % (2 * size)]
    if border == "reflect":
        matrices = matrices + one_period[:, (pixel[:, None] + pixel + 1) % (2 * size)]
    return matrices
