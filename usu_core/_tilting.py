"""Tilting: the smooth coarse map, weighed by the model's scores."""

import torch
from torch import Tensor

from usu_core._cells import CellGrid
from usu_core._checks import check_choice, check_temperature
from usu_core._interpolation import interpolate
from usu_core._operands import by_sign, prepare
from usu_core._potentials import LogPotential, log_potential
from usu_core._redistribution import CONVENTIONS


def tilt(
    cells: Tensor,
    scores: Tensor,
    *,
    temperature: float = 0.5,
    potential: str | LogPotential = "tensor",
    convention: str = "density",
    grid: CellGrid | None = None,
) -> Tensor:
    """Multiply the bilinear map by the potential of the scores, and keep its total mass.

    What IWMR with a mass prior becomes when the prior is the smooth map instead of its cells:
    mass moves freely across cell borders, so there are none to see. For each sign of mass::

        A(x) = (Σ_k M_k) · b(x) φ(Φ(x)) / Σ_y b(y) φ(Φ(y)),    b = bilinear of the coarse map

    Not in arXiv:2603.16067: an exponential tilting of the map every other tool shows. It keeps
    the total mass of each sign, not the mass of a cell.

    Args:
        cells: Coarse attribution, signed, floating point, finite.
        scores: Score map Φ in [0, 1]; where it is constant, the map is the bilinear one.
        temperature: ε, 1e-30 to 1e30; no pixel gains more than a factor exp(1/ε) on another. Large
            values approach bilinear.
        potential: As in :func:`usu`.
        convention: As in :func:`usu`.
        grid: An even grid; ``CellGrid.even`` if not given.

    Shape:
        cells (B, *cells); scores (B, *pixels); returns (B, *pixels).

    Returns:
        Density or mass; the total mass of each sign is kept to 1e-6 relative in float32.

    Raises:
        TypeError: As in :func:`usu`.
        ValueError: As in :func:`usu`, and if the grid is not even.

    Cost:
        O(pixels). Differentiable in ``cells`` and ``scores``.

    Example:
        >>> cells, scores = torch.tensor([[0.0, 4.0]]), torch.tensor([[0.0, 1.0, 0.0, 0.0]])
        >>> tilt(cells, scores, temperature=1.0).round(decimals=2)
        tensor([[0.0000, 2.2400, 2.4700, 3.2900]])
    """
    check_choice("convention", convention, CONVENTIONS)
    check_temperature("temperature", temperature)
    cells, scores, grid = prepare(cells, scores, grid, convention)
    if not grid.is_even:
        raise ValueError(f"grid must be even to be interpolated, got {grid}. Try usu().")
    sizes = grid.sizes(cells.device)
    energy = log_potential(scores, potential)
    ones = (1,) * len(grid.pixels)

    def redistribute(part: Tensor) -> Tensor:
        mass = (part * sizes if convention == "density" else part).flatten(1).sum(1)
        smooth = interpolate(part.unsqueeze(1), grid.pixels).squeeze(1)
        # Gaps to the best pixel that holds mass: gaps to one without could round all others to 0.
        level = energy.where(smooth > 0, -torch.inf)
        peak = level.flatten(1).amax(1).clamp(min=torch.finfo(level.dtype).min).view(-1, *ones)
        tilted = smooth * ((level - peak) / temperature).exp()
        total = tilted.flatten(1).sum(1)
        # Shares first: the mass over a tiny total might overflow.
        share = tilted / total.where(total > 0, 1.0).view(-1, *ones)
        return share * mass.view(-1, *ones)

    above, below = by_sign(cells)
    return redistribute(above) - redistribute(below)
