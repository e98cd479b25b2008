"""Soft permutations by Gumbel-Sinkhorn, and the soft top-k masks they give."""

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from usu_captum.ranking._balance import balance
from usu_captum.ranking._sorter import (
    check_fractions,
    check_scores,
    gumbel,
    sorted_start,
    standardise,
    warn_unless_converged,
)
from usu_core._checks import check_count, check_not_negative, check_positive


@dataclass(frozen=True)
class GumbelSinkhorn:
    """Sort with a doubly stochastic matrix, softly, as Mena et al. (2018) and AHA do.

    Only the ratio of the scores' span to the temperature matters, so scores are stretched to one
    span first. Too few iterations at a large ratio give masks that no longer follow the scores.
    The published form starts from the raw exponent and needs about one iteration per unit of the
    ratio; started from the potentials of the hard sort, ten are enough at any ratio.

    Args:
        temperature: Softness. About 0.3 with the default span.
        noise_scale: Factor of the Gumbel noise; 0 is deterministic, 1 as published.
        n_iterations: Fixed number of iterations (30 as published). ``None`` stops each example
            once its columns are right to ``tolerance``; the bound is ten iterations per unit of
            ``score_range / temperature``, and at least 100.
        score_range: Span that each example's scores are stretched to; ``None`` takes them as they
            are (as published), and sharpness is then whatever their scale makes it.
        tolerance: Largest error of a column sum. Above it there is a ``RuntimeWarning``.
        warm_start: Start from the hard sort. ``False`` is the published start, with
            ``score_range=None, n_iterations=30, noise_scale=1.0`` the published sorter.

    Raises:
        ValueError: If a number is out of range.
        TypeError: If a number is none.

    Cost:
        O(d^2) memory, whatever the number of iterations; one wait for the device every five
        iterations. Runs in float32 inside autocast.

    Example:
        >>> sorter = GumbelSinkhorn(temperature=0.1)
        >>> scores = torch.tensor([[0.1, 0.9, 0.5, 0.3]])
        >>> sorter.top_masks(scores, torch.tensor([0.5])).round()
        tensor([[[0., 1., 1., 0.]]])
    """

    temperature: float = 0.3
    noise_scale: float = 0.0
    n_iterations: int | None = None
    score_range: float | None = 10.0
    tolerance: float = 0.05
    warm_start: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_numbers(
            self.temperature, self.noise_scale, self.n_iterations, self.score_range, self.tolerance
        )

    def top_masks(
        self,
        scores: Tensor,
        fractions: Tensor,
        *,
        temperature: float | None = None,
        noise_scale: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return soft masks of the highest scores; see :class:`Sorter`.

        A fraction between two ranks interpolates linearly between their masks.
        """
        shares = check_fractions(fractions)
        plan = gumbel_sinkhorn(
            scores,
            temperature=self.temperature if temperature is None else temperature,
            noise_scale=self.noise_scale if noise_scale is None else noise_scale,
            n_iterations=self.n_iterations,
            score_range=self.score_range,
            tolerance=self.tolerance,
            warm_start=self.warm_start,
            generator=generator,
        )
        d = plan.shape[-1]
        last = torch.tensor(shares, dtype=torch.float64)[:, None] * d
        taken = (last - torch.arange(d, dtype=torch.float64)).clamp(0.0, 1.0).to(plan)
        with torch.autocast(plan.device.type, enabled=False):
            return taken @ plan


def gumbel_sinkhorn(
    scores: Tensor,
    *,
    temperature: float = 0.3,
    noise_scale: float = 0.0,
    n_iterations: int | None = None,
    score_range: float | None = 10.0,
    tolerance: float = 0.05,
    warm_start: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the soft permutation that sorts scores, highest first.

    The matrix ``exp((-(s_j - r_i)^2 + noise_ij) / temperature)`` with anchors r from 1 to 0 is
    normalised over ranks, then over items, again and again. The squares cancel in the limit, so
    the warm start uses the exponent ``2 r_i s_j``, which does not lose digits for large scores.

    Args:
        scores: (B, d), higher is more important.
        temperature: As in :class:`GumbelSinkhorn`, like all that follow.
        noise_scale: As there.
        n_iterations: As there.
        score_range: As there.
        tolerance: As there.
        warm_start: As there.
        generator: Draws the noise; the global one if not given.

    Returns:
        (B, d, d): entry (i, j) is the share of item j at rank i, 0 the highest. Each rank sums to
        1; each item sums to 1 up to ``tolerance``. float32 or float64.

    Raises:
        ValueError: If scores are not finite or not (B, d), or a number is out of range.
        TypeError: If scores are not a floating-point tensor.

    Example:
        >>> gumbel_sinkhorn(torch.tensor([[1.0, 3.0]]), temperature=2.0).round(decimals=2)
        tensor([[[0.0100, 0.9900],
                 [0.9900, 0.0100]]])
    """
    _check_numbers(temperature, noise_scale, n_iterations, score_range, tolerance)
    scores = check_scores(scores)
    scores = scores if score_range is None else standardise(scores, score_range)
    d = scores.shape[1]
    anchors = torch.linspace(1.0, 0.0, d, dtype=scores.dtype, device=scores.device)
    if warm_start:
        centred = scores - scores.mean(1, keepdim=True)
        start = sorted_start(centred, anchors, torch.arange(1.0, d))
        exponent = 2.0 * (anchors[:, None] * centred[:, None, :] + start[:, :, None])
    else:
        exponent = -(scores[:, None, :] - anchors[:, None]).square()
    logits = exponent / temperature
    if noise_scale > 0:
        logits = logits + gumbel(logits, generator) * (noise_scale / temperature)
    span = 10.0 if score_range is None else score_range
    even = logits.new_zeros(d, 1)
    result = balance(
        logits,
        even,
        even.T,
        n_iterations=n_iterations,
        max_iterations=max(100, ceil(10 * span / temperature)),
        tolerance=tolerance,
    )
    warn_unless_converged(
        result, tolerance, "n_iterations=None, a higher temperature, or a score_range"
    )
    return result.log_plan.exp()


def _check_numbers(
    temperature: float,
    noise_scale: float,
    n_iterations: int | None,
    score_range: float | None,
    tolerance: float,
) -> None:
    check_positive("temperature", temperature)
    check_not_negative("noise_scale", noise_scale)
    if n_iterations is not None:
        check_count("n_iterations", n_iterations)
    if score_range is not None:
        check_positive("score_range", score_range)
    check_positive("tolerance", tolerance)
