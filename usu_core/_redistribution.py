"""The redistribution operators USU and IWMR (arXiv:2603.16067, equations 8 to 14).

Both give each pixel a share of its cell's mass; they differ in the mass a cell has to give.
Scores say *where* in a cell mass goes, cells say *how much* there is.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from usu_core._cells import CellGrid
from usu_core._checks import check_choice, check_temperature
from usu_core._operands import by_sign, prepare
from usu_core._potentials import LogPotential, log_potential

CONVENTIONS = ("density", "total")
NEGATIVES = ("same", "invert")
PRIORS = ("uniform", "mass")
IMPORTANCES = ("max", "mean")


def usu(
    cells: Tensor,
    scores: Tensor,
    *,
    temperature: float = 0.1,
    potential: str | LogPotential = "tensor",
    convention: str = "density",
    negative: str = "same",
    grid: CellGrid | None = None,
) -> Tensor:
    """Redistribute each cell's mass among its pixels by a softmax of their scores.

    Keeps the mass of every cell exactly, prefers high scores, and looks at nothing outside the
    cell. Equations 10 and 11 of arXiv:2603.16067::

        w_k(x) = φ(Φ(x)) / Σ_{y in N_k} φ(Φ(y)),    A(x) = M_ν(x) · w_ν(x)(x)

    Convention:
        ``"density"``: the mean over a cell equals its coarse value, M_k = a_k · |N_k|, the scale
        of nearest and bilinear resizing. ``"total"``: the sum over a cell equals it, M_k = a_k.

    Args:
        cells: Coarse attribution, signed, floating point, finite. Mass if ``convention="total"``.
        scores: Score map Φ in [0, 1]; where it is constant, the cell is filled evenly.
        temperature: ε of the softmax, 1e-30 to 1e30; 0.1 is the paper's. Large values approach
            nearest.
        potential: ``"tensor"`` (exponential), ``"power"``, ``"log-odds"``, or a function from
            scores to log φ.
        convention: What the result's values mean, see above.
        negative: For cells below 0, ``"same"`` gives the highest scores the largest *magnitude*;
            ``"invert"`` gives them the smallest, so that higher scores always rank higher (D2).
        grid: The cells' pixels; ``CellGrid.even`` if not given.

    Shape:
        cells (B, *cells) of rank 1, 2 or 3; scores (B, *pixels); returns (B, *pixels).

    Returns:
        Density or mass, float64 for float64 input and float32 otherwise (half precision could not
        hold the conserved sums). Per-cell mass is kept to 2e-6 relative in float32 and 1e-13 in
        float64. Pixels outside every cell get 0, as do pixels of zero cells.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If values are not finite, scores leave [0, 1], shapes or batches do not match,
            an option is unknown, or mass would overflow.

    Cost:
        O(pixels) time and one buffer of the result's size on even grids. Deterministic.
        Differentiable in ``cells`` and ``scores``. On a GPU small maps take as long as Python needs
        to launch a dozen kernels and to read one check: ``torch.compile(usu)`` takes a third of
        that, and leaves the check of the values out.

    Example:
        >>> cells = torch.tensor([[[4.0, -1.0]]])
        >>> scores = torch.tensor([[[0.0, 1.0, 0.5, 0.5]]])
        >>> usu(cells, scores, temperature=1.0)
        tensor([[[ 2.1515,  5.8485, -1.0000, -1.0000]]])
    """
    check_choice("convention", convention, CONVENTIONS)
    check_choice("negative", negative, NEGATIVES)
    cells, scores, grid = prepare(cells, scores, grid, convention)
    if negative == "invert":

        def allocate(part: Tensor, phi: Tensor) -> Tensor:
            return _allocate(part, phi, grid, temperature, potential, convention)

        return _inverted(allocate, cells, scores)
    return _allocate(cells, scores, grid, temperature, potential, convention)


def iwmr(
    cells: Tensor,
    scores: Tensor,
    *,
    temperature: float = 0.1,
    importance_temperature: float = 0.3,
    prior: str = "uniform",
    importance: str = "max",
    potential: str | LogPotential = "tensor",
    convention: str = "density",
    negative: str = "same",
    grid: CellGrid | None = None,
) -> Tensor:
    """Move mass between cells by their importance, then redistribute it inside as :func:`usu`.

    The total mass is kept, the mass of a cell is not. Equations 13 and 14 of arXiv:2603.16067::

        λ_k = max of Φ over N_k,   Λ(λ) = exp(λ / ε_Λ)
        uniform:  M'_k = (Σ_j M_j) · |N_k| Λ(λ_k) / Σ_j |N_j| Λ(λ_j)
        mass:     M'_k = (Σ_j M_j) ·  M_k  Λ(λ_k) / Σ_j  M_j  Λ(λ_j),   for each sign

    ``prior="uniform"`` is the paper's, and depends on ``cells`` **only through their total mass**:
    permuting the coarse map changes nothing, and with ``negative="same"`` a map that sums to 0
    becomes 0. It flattens the map when importances are equal, whatever the paper says.
    ``prior="mass"`` follows the coarse map and becomes :func:`usu` exactly when importances are
    equal.

    Positive and negative mass are moved separately, except by the uniform prior with
    ``negative="same"``, where they cancel first.

    Args:
        cells: Coarse attribution, as in :func:`usu`.
        scores: Score map Φ in [0, 1].
        temperature: ε of the softmax inside a cell.
        importance_temperature: ε_Λ, 1e-30 to 1e30; small values gather mass in the most important
            cells. The paper gives no value.
        prior: ``"uniform"`` or ``"mass"``, see above.
        importance: λ_k as the ``"max"`` of the cell's scores (the paper's) or their ``"mean"``,
            which a sliver cannot sway.
        potential: As in :func:`usu`; applied inside cells only.
        convention: As in :func:`usu`.
        negative: As in :func:`usu`, for importance as well.
        grid: As in :func:`usu`.

    Shape:
        cells (B, *cells); scores (B, *pixels); returns (B, *pixels).

    Returns:
        Density or mass, as in :func:`usu`; the total mass of each sign is kept, or the net total
        alone where signs cancel first.

    Raises:
        TypeError: As in :func:`usu`.
        ValueError: As in :func:`usu`.

    Cost:
        As :func:`usu`, and one pass more over the scores. With ``prior="mass"`` a cell of 0 has the
        derivative of its mass alone: that of its share is left out.

    Example:
        >>> cells = torch.tensor([[[2.0, 2.0]]])
        >>> scores = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
        >>> iwmr(cells, scores, importance_temperature=1.0)
        tensor([[[1.0758, 1.0758, 2.9242, 2.9242]]])
    """
    check_choice("convention", convention, CONVENTIONS)
    check_choice("negative", negative, NEGATIVES)
    check_choice("prior", prior, PRIORS)
    check_choice("importance", importance, IMPORTANCES)
    check_temperature("importance_temperature", importance_temperature)
    cells, scores, grid = prepare(cells, scores, grid, convention)
    sizes = grid.sizes(cells.device).to(cells.dtype)

    def move(part: Tensor, phi: Tensor) -> Tensor:
        """Redistribute mass of one sign (or, for the uniform prior, of both)."""
        mass = part * sizes if convention == "density" else part
        level = grid.max(phi) if importance == "max" else grid.mean(phi)
        weight = mass.abs() if prior == "mass" else sizes.expand_as(mass)
        # A softmax over log-weights: no overflow, and cells without weight drop out. Gaps to the
        # most important cell instead of levels, or a tiny temperature would round weights away.
        holds = (weight > 0).flatten(1)
        level, weight = level.flatten(1).where(holds, -torch.inf), weight.flatten(1)
        gap = (level - level.amax(1, keepdim=True)) / importance_temperature
        logits = (gap + weight.where(holds, 1.0).log()).where(holds, torch.finfo(gap.dtype).min)
        share = torch.softmax(logits, 1).view_as(mass)
        moved = share * mass.flatten(1).sum(1).view(-1, *[1] * len(grid.cells))
        if convention == "density":
            moved = moved / sizes.clamp(min=1)
        return _allocate(moved, phi, grid, temperature, potential, convention)

    if negative == "invert":
        return _inverted(move, cells, scores)
    if prior == "mass":
        above, below = by_sign(cells)
        return move(above, scores) - move(below, scores)
    return move(cells, scores)


def _inverted(
    redistribute: Callable[[Tensor, Tensor], Tensor], cells: Tensor, scores: Tensor
) -> Tensor:
    """Redistribute positive mass by the scores and negative mass by their complement."""
    above, below = by_sign(cells)
    return redistribute(above, scores) - redistribute(below, 1.0 - scores)


def _allocate(
    cells: Tensor,
    scores: Tensor,
    grid: CellGrid,
    temperature: float,
    potential: str | LogPotential,
    convention: str,
) -> Tensor:
    """Spread each cell's value over its pixels by the softmax of equation 10."""
    check_temperature("temperature", temperature)
    energy = log_potential(scores, potential)
    is_total = convention == "total"
    if not grid.is_dense:
        inside = grid.labels(cells.device) >= 0
        peak = grid.expand(grid.max(energy).nan_to_num(neginf=0.0))
        # A clamp at 0 would take the gradient of the pixels that share their cell's peak.
        depth = (energy - peak).where(inside, 0.0)
        weight = (depth / temperature).exp()
        total = grid.sum(weight).clamp(min=torch.finfo(weight.dtype).tiny)
        weight = weight / grid.expand(total).where(inside, 1.0)
        return weight * grid.expand(cells if is_total else cells * grid.sizes(cells.device))
    weight, uniform = grid.split(energy, -torch.inf), grid.is_uniform
    peak = weight.amax(grid.within, keepdim=True)
    if not uniform:  # A cell may lie outside the image, and have no peak.
        peak = peak.clamp(min=torch.finfo(weight.dtype).min)
    if torch.is_grad_enabled() and (cells.requires_grad or scores.requires_grad):
        weight = ((weight - peak) / temperature).exp()
    else:  # Nothing will ask for the intermediate values, so one buffer serves for all of them.
        weight = (weight - peak).div_(temperature).exp_()
    is_mean = uniform and not is_total
    total = weight
    for axis in reversed(grid.within):  # In one go, a high weight would round many low ones away.
        total = (torch.mean if is_mean else torch.sum)(total, axis, keepdim=True)
    factor = cells if is_mean or is_total else cells * grid.sizes(cells.device)
    share = factor.view_as(total) / (total if is_mean else total.clamp(min=1.0))
    return grid.join(weight * share if weight.requires_grad else weight.mul_(share))
