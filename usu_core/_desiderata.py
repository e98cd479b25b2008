"""The four desiderata of arXiv:2603.16067 as measurements on any upsampler."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from usu_core._cells import CellGrid
from usu_core._checks import check_count, check_finite, check_float_tensor, check_unit_interval

TOLERANCE = 1e-4
"""Errors up to this count as satisfied: rounding of float32, far below any resize."""


@dataclass(frozen=True)
class Desiderata:
    """How far an upsampler is from each desideratum; 0 is perfect.

    What is relative is so to the example's own largest value, whatever else is in the batch.

    Attributes:
        completeness: D1. Mean over cells of |cell's mean - coarse value|, relative to the largest
            coarse value.
        monotonicity: D2. Share of pixels of cells with mass >= 0 that have a lower value than some
            pixel of their cell with no higher score.
        calibration: D3. Largest relative change of the map when all scores move by one constant.
            ``None`` if the map ignores scores: then there is no potential to speak of.
        locality: D4. Largest change inside a cell when coarse values and scores outside it change,
            relative to the largest value of the map.
    """

    completeness: float
    monotonicity: float
    calibration: float | None
    locality: float

    def verdicts(self) -> dict[str, bool | None]:
        """Return D1 to D4 as satisfied, violated or (``None``) not applicable."""
        errors = (self.completeness, self.monotonicity, self.calibration, self.locality)
        return {
            f"D{i}": None if error is None else error <= TOLERANCE
            for i, error in enumerate(errors, start=1)
        }


def desiderata(
    upsampler: Callable[..., Tensor],
    cells: Tensor,
    score_map: Tensor,
    *,
    probes: int = 8,
    seed: int = 0,
) -> Desiderata:
    """Measure D1 to D4 of an upsampler on given coarse maps and scores.

    The conditions are tested as they are stated, so a weak inequality is weak: nearest satisfies
    D2, which the paper's table leaves out, and IWMR is not local, which the paper's table says.

    Args:
        upsampler: Called as ``upsampler(cells, score_map=…)``; density convention.
        cells: Coarse maps (B, 1, *cells). D2 speaks of cells >= 0 only.
        score_map: Φ in [0, 1], (B, *pixels).
        probes: Cells per example whose surroundings are changed for D4.
        seed: Seed of the changes; the global generator is not touched.

    Returns:
        Errors, and verdicts from them.

    Raises:
        TypeError: If the cells are not floating point or the upsampler returns no such tensor.
        ValueError: If the cells are none or have several channels, scores leave [0, 1], ``probes``
            is not positive, or cells or what the upsampler returns are not finite.

    Cost:
        ``probes + 3`` upsamplings. No model evaluation.

    Example:
        >>> from usu_core import USU
        >>> phi = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> desiderata(USU(), torch.ones(1, 1, 2, 2), phi).verdicts()
        {'D1': True, 'D2': True, 'D3': True, 'D4': True}
    """
    check_float_tensor("cells", cells)
    if cells.dim() < 3 or cells.shape[1] != 1 or cells.numel() == 0:
        raise ValueError(
            "cells must have shape (B, 1, *cells), none of them 0, got "
            f"{tuple(cells.shape)}. Try a channel at a time."
        )
    check_finite("cells", cells)
    check_unit_interval("score_map", score_map)
    check_count("probes", probes)
    cells, score_map = cells.detach(), score_map.detach()
    grid = CellGrid.even(cells.shape[2:], score_map.shape[1:])

    def run(coarse: Tensor, scores: Tensor) -> Tensor:
        name, fine = "upsampler(cells)", upsampler(coarse, score_map=scores)
        check_finite(name, check_float_tensor(name, fine))  # NaN is below any error.
        return fine[:, 0].double()

    fine = run(cells, score_map)
    size, coarse = _largest(fine).clamp(min=1e-300), cells[:, 0].double()
    drift = (grid.mean(fine) - coarse).abs().flatten(1).mean(1)
    drift = drift / _largest(coarse).clamp(min=1e-300)
    low, high = run(cells, score_map * 0.5), run(cells, score_map * 0.5 + 0.5)
    ignores_scores = torch.equal(low, fine) and torch.equal(high, fine)
    return Desiderata(
        completeness=float(drift.mean()),
        monotonicity=_inversions(fine, score_map, coarse, grid),
        calibration=None if ignores_scores else float((_largest(low - high) / size).max()),
        locality=_outside_influence(run, cells, score_map, fine, grid, probes, seed),
    )


def _largest(values: Tensor) -> Tensor:
    """Return each example's largest magnitude, (B,)."""
    return values.abs().flatten(1).amax(1)


def _inversions(fine: Tensor, scores: Tensor, coarse: Tensor, grid: CellGrid) -> float:
    """Share of pixels below some pixel of their cell whose score is no higher."""
    value, phi = fine.flatten(1), scores.double().flatten(1)
    cell = grid.labels(fine.device).flatten().expand_as(value)
    scale = value.abs().amax(1, keepdim=True).clamp(min=1e-300)
    value = value / scale
    # Lexicographic order by cell, score, and falling value: stable sorts, last key first.
    order = value.argsort(dim=1, descending=True, stable=True)
    for key in (phi, cell):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    value, cell = value.gather(1, order), cell.gather(1, order)
    # Values lie in [-1, 1], so an offset of 3 per cell keeps a running maximum inside its cell.
    highest = (value + 3.0 * cell).cummax(1).values - 3.0 * cell
    inverted = highest > value + TOLERANCE
    counted = (coarse.flatten(1).gather(1, cell.clamp(min=0)) >= 0) & (cell >= 0)
    return float((inverted & counted).sum() / counted.sum().clamp(min=1))


def _outside_influence(
    run: Callable[[Tensor, Tensor], Tensor],
    cells: Tensor,
    score_map: Tensor,
    fine: Tensor,
    grid: CellGrid,
    probes: int,
    seed: int,
) -> float:
    """Largest change inside a cell, relative to the map, when everything outside it changes."""
    generator = torch.Generator().manual_seed(seed)
    labels, size = grid.labels(cells.device), _largest(fine).clamp(min=1e-300)
    scale = _largest(cells).view(-1, *[1] * (cells.dim() - 1))
    count = int(labels.max()) + 1
    worst = 0.0
    for k in torch.randperm(count, generator=generator)[:probes].tolist():
        other_cells = torch.rand(cells.shape, generator=generator, dtype=torch.float64).to(cells)
        other_scores = torch.rand(score_map.shape, generator=generator).to(score_map)
        here = labels == k
        own = torch.arange(count, device=cells.device).view(grid.cells) == k
        changed = run(
            cells.where(own, cells + scale * other_cells),
            score_map.where(here, other_scores),
        )
        worst = max(worst, float((_largest((changed - fine)[:, here]) / size).max()))
    return worst


def alpha_beta_errors(attribution: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Split a map's error into spurious attribution α and lost attribution β.

    Equation 3 of arXiv:2603.16067: α = max(0, |A| - |A*|), β = max(0, |A*| - |A|). Magnitudes
    only: a flipped sign is no error. Mass conservation bounds neither from above.

    Args:
        attribution: A, any shape.
        truth: A*, the same shape, in the same convention.

    Returns:
        α and β, non-negative, of which at most one is positive at each pixel.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> alpha_beta_errors(torch.tensor([3.0, 1.0]), torch.tensor([1.0, -2.0]))
        (tensor([2., 0.]), tensor([0., 1.]))
    """
    if attribution.shape != truth.shape:
        raise ValueError(
            "attribution and truth must have the same shape, got "
            f"{tuple(attribution.shape)} and {tuple(truth.shape)}."
        )
    excess = attribution.abs() - truth.abs()
    return excess.clamp(min=0), (-excess).clamp(min=0)
