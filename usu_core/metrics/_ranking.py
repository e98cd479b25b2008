"""Pixels in order of importance, and the score as they change in that order."""

from collections.abc import Sequence
from math import floor

import torch
from torch import Tensor

from usu_core.metrics._evaluation import perturbed_scores
from usu_core.scoring import ModelScore, ScoreFunction


def places(attribution: Tensor, ties: Tensor | None = None) -> Tensor:
    """Return each pixel's place, 0 for the most important.

    Args:
        attribution: (B, *pixels).
        ties: (B, *pixels), ranks pixels of equal attribution, highest first. Remaining ties keep
            their order in memory.

    Returns:
        (B, *pixels) int64, a permutation per example.

    Example:
        >>> places(torch.tensor([[1.0, 3.0, 1.0]]))
        tensor([[1, 0, 2]])
    """
    flat = attribution.flatten(1)
    order = torch.arange(flat.shape[1], device=flat.device).expand_as(flat)
    for key in (ties, attribution):
        if key is not None:
            falling = key.to(flat.device).flatten(1).gather(1, order)
            order = order.gather(1, falling.argsort(dim=1, descending=True, stable=True))
    numbers = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, numbers).view_as(attribution)


def equal_counts(pixels: int, steps: int) -> list[int]:
    """Return how many pixels have changed after each of ``steps`` equal steps, from 0 to all."""
    return [-(-k * pixels // steps) for k in range(steps + 1)]


def share_counts(pixels: int, shares: Sequence[float]) -> list[int]:
    """Return how many pixels each share stands for, rounded down."""
    # The small term keeps products such as 0.29 · 100 from falling below the whole number.
    return [floor(share * pixels + 1e-6) for share in shares]


def scores_along(
    score: ModelScore | ScoreFunction,
    start: Tensor,
    end: Tensor,
    place: Tensor,
    counts: Sequence[int],
    *,
    output: str,
    chunk_size: int,
) -> Tensor:
    """Score ``start`` with its first pixels turned into ``end``.

    Args:
        score: The explained scalar.
        start: (B, C, *pixels).
        end: As ``start``.
        place: (B, *pixels); pixels of equal place change together.
        counts: Pixels whose place is below the count have changed.
        output: Scale of the score.
        chunk_size: Images per model call.

    Returns:
        (B, len(counts)).

    Cost:
        ``B · len(counts)`` model evaluations.
    """
    limit = torch.tensor(counts, device=start.device).view(-1, *[1] * (place.dim() - 1))

    def perturb(i: Tensor, k: Tensor) -> Tensor:
        return torch.where((place[i] < limit[k]).unsqueeze(1), end[i], start[i])

    return perturbed_scores(
        score, start, perturb, len(counts), output=output, chunk_size=chunk_size
    )
