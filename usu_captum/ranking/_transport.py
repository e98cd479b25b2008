"""Soft top-k masks by transport to a few rank bins, for very many items."""

from dataclasses import dataclass

import torch
from torch import Tensor

from usu_captum.ranking._balance import balance
from usu_captum.ranking._sorter import (
    FLAT,
    check_fractions,
    check_scores,
    gumbel,
    sorted_start,
    standardise,
    warn_unless_converged,
)
from usu_core._checks import check_choice, check_count, check_not_negative, check_positive
from usu_core._ranks import doubled_ranks

NORMALISATIONS = ("rank", "range")


@dataclass(frozen=True)
class RankTransport:
    """Sort by entropic transport of items to rank bins: memory is bins times items.

    Deletion and insertion need the masks at a few percentiles only, not the whole permutation.
    Each bin is the interval between two of them; items of mass 1 go to bins of their width.

    Args:
        regularisation: Softness, on scores in [0, 1]. A given ``temperature`` multiplies it by
            ``temperature / 0.3``, so that one annealing schedule serves every sorter.
        noise_scale: Factor of the Gumbel noise, on scores of span ``score_range``.
        n_iterations: Fixed number of iterations; ``None`` stops each example once its items are
            spent to ``tolerance``.
        normalise: ``"rank"`` replaces scores by their ranks, so that every map is sorted equally
            sharply, and passes gradients as ``"range"`` does with the span held fixed.
            ``"range"`` stretches the scores alone, with exact gradients; maps with a few high
            values are then sorted softly elsewhere.
        score_range: Span in whose units noise and the peak penalty are measured.
        tolerance: Largest relative error of an item's mass. Above it there is a
            ``RuntimeWarning``.

    Raises:
        ValueError: If a number is out of range or a name unknown.
        TypeError: If a number is none.

    Cost:
        O(bins x items) memory and time per iteration, and a sort. float32 inside autocast.

    Example:
        >>> scores = torch.tensor([[0.1, 0.9, 0.5, 0.3]])
        >>> RankTransport().top_masks(scores, torch.tensor([0.25, 0.5])).round()
        tensor([[[0., 1., 0., 0.],
                 [0., 1., 1., 0.]]])
    """

    regularisation: float = 0.001
    noise_scale: float = 0.0
    n_iterations: int | None = None
    normalise: str = "rank"
    score_range: float = 10.0
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_positive("regularisation", self.regularisation)
        check_not_negative("noise_scale", self.noise_scale)
        if self.n_iterations is not None:
            check_count("n_iterations", self.n_iterations)
        check_choice("normalise", self.normalise, NORMALISATIONS)
        check_positive("score_range", self.score_range)
        check_positive("tolerance", self.tolerance)

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

        The bins, and so the masks, depend on which fractions are asked for together.
        """
        shares, scores = check_fractions(fractions), check_scores(scores)
        softness = self.regularisation
        if temperature is not None:
            check_positive("temperature", temperature)
            softness *= temperature / 0.3
        noise = self.noise_scale if noise_scale is None else noise_scale
        check_not_negative("noise_scale", noise)
        borders = sorted({0.0, 1.0, *shares})
        edges = torch.tensor(borders, dtype=torch.float64)
        widths, centres = edges.diff(), (edges[1:] + edges[:-1]) / 2
        places = self._places(scores)
        anchors = (0.5 - centres).to(places)[:, None]
        centred = places - 0.5
        start = sorted_start(centred, anchors.flatten(), edges[1:-1] * scores.shape[1])
        logits = (anchors * centred[:, None, :] + start[:, :, None]) * (2.0 / softness)
        if noise > 0:
            factor = noise / (softness * self.score_range)
            logits = logits + gumbel(logits, generator) * factor
        result = balance(
            logits,
            (widths * scores.shape[1]).log().to(places)[:, None],
            places.new_zeros(1, scores.shape[1]),
            n_iterations=self.n_iterations,
            max_iterations=1000,
            tolerance=self.tolerance,
        )
        warn_unless_converged(
            result, self.tolerance, "n_iterations=None or a higher regularisation"
        )
        filled = result.log_plan.exp().cumsum(1)
        masks = torch.cat([torch.zeros_like(filled[:, :1]), filled], 1)
        return masks[:, [borders.index(share) for share in shares]]

    def _places(self, scores: Tensor) -> Tensor:
        """Return scores in [0, 1], higher is more important."""
        if self.normalise == "range":
            return standardise(scores, 1.0)
        fixed = scores.detach()
        ranks = doubled_ranks(fixed).to(scores) / (2 * scores.shape[1])
        spread = fixed.amax(1, keepdim=True) - fixed.amin(1, keepdim=True)
        return ranks + (scores - fixed) / spread.where(spread > FLAT, 1.0)
