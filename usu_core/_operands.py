"""What the operators take in common, checked: coarse cells, fine scores, and their grid."""

from math import prod

import torch
from torch import Tensor

from usu_core._cells import CellGrid
from usu_core._checks import check_finite, check_float_tensor, check_unit_interval, extremes


def check_no_cell_is_empty(grid: CellGrid) -> None:
    """Raise if a cell lies outside the image, where the mass it should get would vanish."""
    if bool((grid.sizes() == 0).any()):
        raise ValueError(
            "grid must give every cell a pixel under convention='total', got cells outside the "
            "image, whose mass would vanish. Try convention='density'."
        )


def check_mass(cells: Tensor, count: int, known: tuple[float, float] | None = None) -> None:
    """Raise if the mass of ``cells`` might overflow where each value stands ``count`` times."""
    if torch.compiler.is_compiling() or cells.numel() == 0:
        return
    limit = torch.finfo(cells.dtype).max / count
    largest = max(map(abs, known or extremes(cells)[0]))
    if largest > limit:
        raise ValueError(
            f"cells must not exceed {limit:.3g}, or the map's total mass might overflow "
            f"{cells.dtype}, got {largest:.3g}. Try cells.double() or rescale."
        )


def by_sign(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Split cells into what is above 0 and what is below, so that they are first - second."""
    # A clamp at 0 would take the gradient of cells that are exactly 0.
    return torch.where(cells >= 0, cells, 0.0), torch.where(cells < 0, -cells, 0.0)


def prepare(
    cells: Tensor, scores: Tensor, grid: CellGrid | None, convention: str
) -> tuple[Tensor, Tensor, CellGrid]:
    """Check the operators' common arguments and bring them to one dtype."""
    check_float_tensor("cells", cells)
    check_float_tensor("scores", scores)
    if grid is None:
        if cells.dim() != scores.dim() or cells.dim() < 2:
            raise ValueError(
                "cells and scores must both have a batch dimension and 1 to 3 spatial ones, got "
                f"shapes {tuple(cells.shape)} and {tuple(scores.shape)}."
            )
        grid = CellGrid.even(cells.shape[1:], scores.shape[1:])
    for name, value, shape in (("cells", cells, grid.cells), ("scores", scores, grid.pixels)):
        if tuple(value.shape[1:]) != shape or value.dim() != len(shape) + 1:
            raise ValueError(
                f"{name} must have shape (batch, {', '.join(map(str, shape))}), got "
                f"{tuple(value.shape)}."
            )
    if cells.shape[0] != scores.shape[0]:
        raise ValueError(
            f"cells and scores must have the same batch size, got {cells.shape[0]} and "
            f"{scores.shape[0]}. Try scores.expand or scores.repeat_interleave."
        )
    if cells.device != scores.device:
        raise ValueError(
            f"cells and scores must be on one device, got {cells.device} and {scores.device}."
        )
    dtype = torch.promote_types(torch.promote_types(cells.dtype, scores.dtype), torch.float32)
    wide = cells.to(dtype)
    if not torch.compiler.is_compiling() and cells.numel() > 0:
        of_cells, of_scores = extremes(cells, scores)
        check_finite("cells", cells, of_cells)
        check_unit_interval("scores", scores, of_scores)
        if convention == "total":
            check_no_cell_is_empty(grid)
        check_mass(wide, prod(grid.cells if convention == "total" else grid.pixels), of_cells)
    return wide, scores.to(dtype), grid
