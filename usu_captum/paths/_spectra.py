"""Images as sums of components from coarse to fine, recombined with a weight for each."""

import math
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from usu_core._checks import check_choice

DECOMPOSITIONS = ("svd", "joint", "dct", "laplacian")


class Spectrum(Protocol):
    """A batch of images (B, C, H, W) as sums of ordered components.

    Attributes:
        strengths: (B, G, R) in [0, 1], descending: the paper's measure of what comes first. G is
            C where every channel has components of its own, else 1.
        lengths: (B, G, R) Euclidean norms of the components.
    """

    strengths: Tensor
    lengths: Tensor

    def combine(self, weights: Tensor) -> Tensor:
        """Return the weighted sums (K, B, C, H, W) for weights (K, B, G, R)."""
        ...


def decompose(images: Tensor, decomposition: str) -> Spectrum:
    """Split images into components from coarse to fine.

    Args:
        images: (B, C, H, W), float32 or float64.
        decomposition: One of ``DECOMPOSITIONS``.

    Returns:
        A spectrum that adds up to the images up to rounding.

    Raises:
        ValueError: If the decomposition is unknown.

    Cost:
        ``"svd"`` and ``"joint"`` take a singular value decomposition per channel or per image, and
        O(C H W min(H, W)) for each weighted sum; the others O(C H W (H + W)) at most.

    Example:
        >>> images = torch.rand(2, 3, 7, 5)
        >>> spectrum = decompose(images, "laplacian")
        >>> whole = spectrum.combine(torch.ones(1, *spectrum.lengths.shape))
        >>> torch.allclose(whole[0], images, atol=1e-6)
        True
    """
    check_choice("decomposition", decomposition, DECOMPOSITIONS)
    if decomposition == "dct":
        return CosineSpectrum(images)
    if decomposition == "laplacian":
        return PyramidSpectrum(images)
    return SingularSpectrum(images, joint=decomposition == "joint")


class SingularSpectrum:
    """Rank-1 components by singular value: of each channel, or of all channels stacked as rows."""

    def __init__(self, images: Tensor, joint: bool) -> None:
        self._shape = images.shape
        matrices = images.flatten(1, 2)[:, None] if joint else images
        self._left, self.lengths, self._right = torch.linalg.svd(matrices, full_matrices=False)
        smallest = torch.finfo(images.dtype).tiny
        self.strengths = self.lengths / self.lengths[..., :1].clamp_min(smallest)

    def combine(self, weights: Tensor) -> Tensor:
        """Return the weighted sums, without a component ever laid out as an image."""
        # One product per weighting: U (weights s) V', (K, B, G, rows, R) by (B, G, R, W).
        scaled = self._left * (weights * self.lengths).unsqueeze(-2)
        summed: Tensor = scaled @ self._right
        return summed.view(len(weights), *self._shape)


class CosineSpectrum:
    """Rings of the orthonormal cosine transform (DCT-II) by radius, all channels together.

    The radius of frequency (i, j) is sqrt((i / H)^2 + (j / W)^2); a ring is 1 / max(H, W) wide.
    """

    def __init__(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        self._rows, self._columns = cosine_matrix(height, images), cosine_matrix(width, images)
        self._coefficients = self._rows @ images @ self._columns.T
        self._ring = _rings(height, width).to(images.device)
        count = int(self._ring.max()) + 1
        # A square root of a sum over channels and ring.
        power = self._coefficients.square().sum(1).flatten(1)
        summed = power.new_zeros(len(images), count).index_add_(1, self._ring.flatten(), power)
        self.lengths = summed.sqrt()[:, None]
        radius = torch.arange(count, device=images.device, dtype=images.dtype) / max(count - 1, 1)
        self.strengths = (1 - radius).expand_as(self.lengths)

    def combine(self, weights: Tensor) -> Tensor:
        """Return the weighted sums: two small matrix products per channel."""
        kept: Tensor = weights[..., self._ring] * self._coefficients
        return self._rows.T @ kept @ self._columns


class PyramidSpectrum:
    """Bands of a Laplacian pyramid (Burt and Adelson, 1983), all channels together.

    A band is the difference of two neighbouring blurs at full size, so the bands of an image of
    any size add up to it.
    """

    def __init__(self, images: Tensor, levels: int = 6) -> None:
        height, width = images.shape[-2:]
        depth = min(levels, max(1, math.ceil(math.log2(max(height, width, 2))) + 1))
        blurs, small, grow = [images], images, (torch.eye(height), torch.eye(width))
        up = [g.to(images) for g in grow]
        for _ in range(depth - 1):
            spread = [_spread(n).to(images) for n in small.shape[-2:]]
            shrink = [(s / s.sum(0)).T for s in spread]
            small = shrink[0] @ small @ shrink[1].T
            up = [u @ (s / s.sum(1, keepdim=True)) for u, s in zip(up, spread, strict=True)]
            blurs.append(up[0] @ small @ up[1].T)
        fine = [a - b for a, b in pairwise(blurs)]
        self._bands = torch.stack([blurs[-1], *reversed(fine)], 1)
        self.lengths = self._bands.flatten(2).norm(dim=2)[:, None]
        self.strengths = torch.linspace(1, 0, depth).to(images).expand_as(self.lengths)

    def combine(self, weights: Tensor) -> Tensor:
        """Return the weighted sums."""
        return torch.einsum("kbr,brchw->kbchw", weights[:, :, 0], self._bands)


def cosine_matrix(size: int, like: Tensor) -> Tensor:
    """Return the orthonormal DCT-II of vectors of a size, (size, size), as ``like`` is.

    Example:
        >>> cosine_matrix(2, torch.zeros(1, dtype=torch.float64)).round(decimals=3)
        tensor([[ 0.7070,  0.7070],
                [ 0.7070, -0.7070]], dtype=torch.float64)
    """
    order = torch.arange(size, dtype=torch.float64)
    matrix = (math.pi / size * order[:, None] * (order + 0.5)).cos() * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix.to(like)


def _rings(height: int, width: int) -> Tensor:
    rows = torch.arange(height, dtype=torch.float64)[:, None] / height
    columns = torch.arange(width, dtype=torch.float64) / width
    return (torch.hypot(rows, columns) * max(height, width)).round().long()


def _spread(size: int) -> Tensor:
    """Return the binomial weight between each of ``size`` samples and every second one."""
    offset = torch.arange(size)[:, None] - torch.arange(0, size, 2)
    binomial = torch.tensor([6.0, 4.0, 1.0, 0.0])
    return binomial[offset.abs().clamp_max(3)]
