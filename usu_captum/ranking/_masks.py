"""From pixels to the cells that are ranked, and from masks of cells back to pixels."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from usu_core import CellGrid
from usu_core._checks import check_float_tensor
from usu_core._precision import wide
from usu_core.scoring import gaussian_blur

Grid = int | tuple[int, int]
"""Cells per side, or (rows, columns)."""


def pool_to_grid(maps: Tensor, grid: Grid, *, consistent: bool = True) -> Tensor:
    """Average a map within the cells of a grid.

    Adaptive pooling lets cells overlap where the grid does not divide the image, while masks
    never do: pixels are then ranked with one cell and masked with another. The cells here are
    those of :func:`masks_to_pixels`, whatever the grid.

    Args:
        maps: (B, 1, H, W), any scale.
        grid: G, or (rows, columns), at most (H, W).
        consistent: ``False`` for adaptive average pooling, as published.

    Returns:
        (B, cells), row-major, differentiable.

    Raises:
        ValueError: If the shape is another, or the grid is finer than the map.
        TypeError: If the map is not a floating-point tensor.

    Cost:
        One pass over the map.

    Example:
        >>> pool_to_grid(torch.tensor([[[[1.0, 2.0, 6.0]]]]), (1, 2))
        tensor([[1.5000, 6.0000]])
        >>> pool_to_grid(torch.tensor([[[[1.0, 2.0, 6.0]]]]), (1, 2), consistent=False)
        tensor([[1.5000, 4.0000]])
    """
    check_float_tensor("maps", maps)
    if maps.dim() != 4 or maps.shape[1] != 1:
        raise ValueError(
            f"maps must have shape (B, 1, H, W), got {tuple(maps.shape)}. "
            "Try maps.sum(1, keepdim=True)."
        )
    cells = _pair(grid)
    layout = _layout(cells, (maps.shape[2], maps.shape[3]))
    if not consistent:
        return F.adaptive_avg_pool2d(maps, cells).flatten(1)
    return layout.mean(wide(maps)).flatten(1)


def masks_to_pixels(
    masks: Tensor, grid: Grid, size: tuple[int, int], smoothing: float = 1.0
) -> Tensor:
    """Give every pixel the mask of its cell, and smooth the borders between cells.

    Args:
        masks: (B, S, cells), row-major.
        grid: G, or (rows, columns).
        size: (H, W) of the image.
        smoothing: Standard deviation of a Gaussian in pixels, reflected at the border and cut at
            three deviations; 0 for none.

    Returns:
        (B, S, 1, H, W), differentiable. Smoothing keeps constants constant.

    Raises:
        ValueError: If the masks do not have one value per cell, the grid is finer than the image,
            or the smoothing is negative.

    Cost:
        O(B S H W (H + W)) with smoothing. float32 inside autocast.

    Example:
        >>> masks_to_pixels(torch.tensor([[[1.0, 0.0]]]), (1, 2), (1, 3), 0.0)
        tensor([[[[[1., 1., 0.]]]]])
    """
    cells = _pair(grid)
    layout = _layout(cells, size)
    if masks.dim() != 3 or masks.shape[2] != cells[0] * cells[1]:
        raise ValueError(
            f"masks must have shape (B, S, {cells[0] * cells[1]}) for the grid {cells}, got "
            f"{tuple(masks.shape)}."
        )
    if not smoothing >= 0:
        raise ValueError(f"smoothing must be at least 0, got {smoothing}. Try 0 for none.")
    pixels = layout.expand(masks.unflatten(2, cells))
    # The blur multiplies by a matrix, which autocast would round to half precision.
    with torch.autocast(masks.device.type, enabled=False):
        return gaussian_blur(pixels, smoothing).unsqueeze(2)


def _pair(grid: Grid) -> tuple[int, int]:
    return (grid[0], grid[1]) if isinstance(grid, tuple | list) else (grid, grid)


@lru_cache(maxsize=64)
def _layout(cells: tuple[int, int], size: tuple[int, int]) -> CellGrid:
    if min(cells) < 1 or any(c > s for c, s in zip(cells, size, strict=True)):
        raise ValueError(
            f"grid must have between 1 and {size} cells per side, got {cells}. "
            f"Try grid={min(size)} or fewer."
        )
    return CellGrid.even(cells, size)
