"""Interpolating upsamplers: what other tools do, kept as controls."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from usu_core._cells import CellGrid
from usu_core._checks import check_choice, check_finite, check_float_tensor, check_size
from usu_core._operands import by_sign, check_mass
from usu_core._precision import exact, wide

MODES = ("nearest", "bilinear", "bicubic", "lanczos", "bilinear-conserving")


def interpolate(cells: Tensor, size: Sequence[int], mode: str = "bilinear") -> Tensor:
    """Resize a coarse map by interpolation.

    ``"nearest"``, ``"bilinear"`` and ``"bicubic"`` are ``torch.nn.functional.interpolate`` bit for
    bit, with ``align_corners`` at its default. ``"lanczos"`` is Pillow's three-lobed kernel with
    weights renormalised at the border. ``"bilinear-conserving"`` resizes positive and negative
    parts bilinearly and rescales each cell to its mass, a conserving control that ignores the
    model.

    Convention:
        density, half-pixel centres. Only nearest and bilinear-conserving keep the mass of a cell;
        nearest not at some sizes, such as 7 to 287, where torch rounds a border by a pixel.

    Args:
        cells: Coarse attribution, floating point, finite.
        size: Fine shape, each entry at least as large as the coarse one.
        mode: One of the five above. ``"bilinear"`` is linear in one dimension and trilinear in
            three; ``"bicubic"`` needs two.

    Shape:
        cells (B, C, *cells) of spatial rank 1, 2 or 3; returns (B, C, *size).

    Raises:
        TypeError: If ``cells`` is not a floating-point tensor.
        ValueError: If the mode, rank or size does not fit, values are not finite, or mass would
            overflow under bilinear-conserving.

    Cost:
        O(pixels); deterministic on the CPU; differentiable in ``cells``.

    Example:
        >>> interpolate(torch.tensor([[[0.0, 4.0]]]), (4,), "bilinear")
        tensor([[[0., 1., 3., 4.]]])
        >>> interpolate(torch.tensor([[[0.0, 4.0]]]), (4,), "bilinear-conserving")
        tensor([[[0.0000, 0.0000, 3.4286, 4.5714]]])
    """
    check_choice("mode", mode, MODES)
    check_float_tensor("cells", cells)
    fine = check_size("size", size)
    if cells.dim() != len(fine) + 2:
        raise ValueError(
            f"cells must have shape (batch, channels, {len(fine)} spatial), got "
            f"{tuple(cells.shape)} for size {fine}."
        )
    grid = CellGrid.even(cells.shape[2:], fine)
    check_finite("cells", cells)
    linear = ("linear", "bilinear", "trilinear")[len(fine) - 1]
    if mode == "nearest":
        return F.interpolate(cells, fine, mode="nearest")
    if mode == "bilinear":
        return F.interpolate(cells, fine, mode=linear)
    if mode == "bicubic":
        if len(fine) != 2:
            raise ValueError(f"mode 'bicubic' needs two spatial dimensions, got {len(fine)}.")
        return F.interpolate(cells, fine, mode="bicubic")
    if mode == "lanczos":
        result = cells
        for d, (n, m) in enumerate(zip(grid.cells, fine, strict=True)):
            weights = _lanczos_weights(n, m).to(cells.dtype).to(cells.device)
            with exact(cells):
                result = (result.movedim(d + 2, -1) @ weights.T).movedim(-1, d + 2)
        return result

    def conserve(part: Tensor) -> Tensor:
        smooth = F.interpolate(part, fine, mode=linear)
        mean = grid.mean(smooth)
        return smooth * grid.expand(part / mean.where(mean > 0, 1.0))

    check_mass(wide(cells), prod(fine))
    above, below = by_sign(wide(cells))
    return (conserve(above) - conserve(below)).to(cells.dtype)


def _lanczos_weights(cells: int, pixels: int, lobes: int = 3) -> Tensor:
    """Return the (pixels, cells) resampling matrix, rows summing to one."""
    centre = (torch.arange(pixels, dtype=torch.float64) + 0.5) * cells / pixels
    offset = torch.arange(cells, dtype=torch.float64) + 0.5 - centre[:, None]
    weights = torch.sinc(offset) * torch.sinc(offset / lobes) * (offset.abs() < lobes)
    return weights / weights.sum(1, keepdim=True)
