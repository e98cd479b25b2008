"""Potentials: how strongly a score difference moves mass.

A potential φ(s) > 0 enters the operators through its logarithm, divided by the temperature: the
weight of a pixel is proportional to φ(s)^(1/ε).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from usu_core._checks import check_choice, check_finite, check_positive

LogPotential = Callable[[Tensor], Tensor]
"""Scores in [0, 1], any shape, to finite log φ of the same shape."""

# Below this, log s would dominate every other score in the cell (and is -inf at 0).
_FLOOR = 1e-6


def tensor_potential(scores: Tensor) -> Tensor:
    """Return the exponential potential's logarithm, log φ(s) = s.

    Equation 9 of arXiv:2603.16067, whose centring at 0.5 cancels in every ratio. The only
    potential with constant conditioning strength (D3).
    """
    return scores


def power_potential(scores: Tensor) -> Tensor:
    """Return log φ(s) = log s, the power law s^γ with γ = 1/ε; scores below 1e-6 count as 1e-6.

    The floor makes a cell of all-zero scores uniform, where the bare power law is 0/0.
    """
    return scores.clamp(min=_FLOOR).log()


def log_odds_potential(scores: Tensor) -> Tensor:
    """Return log φ(s) = log s - log(1 - s), clamped to [1e-6, 1 - 1e-6].

    The clamp keeps scores of exactly 0 and 1 finite.
    """
    inside = scores.clamp(_FLOOR, 1.0 - _FLOOR)
    return inside.log() - (1.0 - inside).log()


POTENTIALS: dict[str, LogPotential] = {
    "tensor": tensor_potential,
    "power": power_potential,
    "log-odds": log_odds_potential,
}
"""The potentials that have a name."""


def check_potential(potential: object) -> None:
    """Raise unless ``potential`` is a name or may be a log-potential."""
    if isinstance(potential, str):
        check_choice("potential", potential, POTENTIALS)
    elif not callable(potential):
        raise TypeError(
            f"potential must be a name or a function from scores to log φ, got {potential!r}."
        )


def log_potential(scores: Tensor, potential: str | LogPotential) -> Tensor:
    """Evaluate a named potential, or check what a caller's own one returns."""
    check_potential(potential)
    if isinstance(potential, str):
        return POTENTIALS[potential](scores)
    result = potential(scores)
    if not isinstance(result, Tensor) or result.shape != scores.shape:
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(
            f"potential must return log φ as a tensor of shape {tuple(scores.shape)}, got {got}."
        )
    check_finite("potential(scores)", result)
    return result


def conditioning_strength(
    scores: Tensor,
    delta: float,
    *,
    potential: str | LogPotential = "tensor",
    temperature: float = 0.1,
) -> Tensor:
    """Return φ(s + Δ) / φ(s), by how much a score gap Δ multiplies weight at each base score.

    Desideratum D3 of arXiv:2603.16067 asks that it be exp(Δ/ε) whatever s.

    Args:
        scores: Base scores s in [0, 1], any shape.
        delta: The gap Δ.
        potential: A name or a log-potential.
        temperature: ε above 0.

    Returns:
        The ratio at each score, same shape.

    Example:
        >>> conditioning_strength(torch.tensor([0.1, 0.8]), 0.1, temperature=0.5)
        tensor([1.2214, 1.2214])
        >>> conditioning_strength(torch.tensor([0.1, 0.8]), 0.1, potential="power", temperature=0.5)
        tensor([4.0000, 1.2656])
    """
    check_positive("temperature", temperature)
    gap = log_potential(scores + delta, potential) - log_potential(scores, potential)
    return torch.exp(gap / temperature)
