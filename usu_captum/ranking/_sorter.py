"""What every differentiable sorter offers, and what the sorters share."""

import warnings
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from usu_captum.ranking._balance import Balanced
from usu_core._checks import check_finite, check_float_tensor
from usu_core._precision import wide

FLAT = 1e-30
"""A map whose values span less than this has no order to sharpen."""


@runtime_checkable
class Sorter(Protocol):
    """Turns scores into soft masks of their highest ranks.

    Without noise, the masks of ``-scores`` are those of ``scores`` from the other end:
    ``top_masks(-s, f) = 1 - top_masks(s, 1 - f)``, up to the sorter's tolerance.
    """

    @property
    def score_range(self) -> float | None:
        """The span that scores are stretched to; ``None`` if they are taken as they are."""
        ...

    def top_masks(
        self,
        scores: Tensor,
        fractions: Tensor,
        *,
        temperature: float | None = None,
        noise_scale: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return soft masks of the highest scores.

        Args:
            scores: (B, d), higher is more important.
            fractions: (S,), shares of the items in [0, 1].
            temperature: Replaces the sorter's own, for annealing.
            noise_scale: Replaces the sorter's own.
            generator: Draws the noise.

        Returns:
            (B, S, d), float32 or float64. Row s has mass ``fractions[s] * d``.
        """
        ...


def standardise(scores: Tensor, score_range: float) -> Tensor:
    """Stretch each example to [0, ``score_range``], so that its scale no longer matters.

    Args:
        scores: (B, ...).
        score_range: The new span.

    Returns:
        Scores of the same shape. A flat map becomes zero and keeps a gradient of one.

    Example:
        >>> standardise(torch.tensor([[1.0, 2.0, 3.0]]), 10.0)
        tensor([[ 0.,  5., 10.]])
    """
    dims = tuple(range(1, scores.dim()))
    low, high = scores.amin(dims, keepdim=True), scores.amax(dims, keepdim=True)
    spread = high - low
    return (scores - low) * score_range / spread.where(spread > FLAT, score_range)


def sorted_start(scores: Tensor, anchors: Tensor, borders: Tensor) -> Tensor:
    """Return the row potentials of the hard sort, where balancing is nearly done at once.

    They solve the unregularised transport on the line exactly: between two neighbouring rows the
    potential falls by the score at their border times the distance of their anchors.

    Args:
        scores: (B, d).
        anchors: (m,), falling.
        borders: (m - 1,), where each row ends, in items counted from the highest; fractions of
            an item are allowed.

    Returns:
        (B, m), to be multiplied by the factor of ``anchors * scores`` in the logits.
        Differentiable, so that gradients converge as fast as values do.

    Example:
        >>> sorted_start(torch.tensor([[3.0, 1.0]]), torch.tensor([1.0, 0.0]), torch.tensor([1.0]))
        tensor([[0., 2.]])
    """
    falling = scores.sort(1, descending=True).values
    # A share times a count misses a whole number by a rounding error, and so its two neighbours.
    ends = borders.double().round(decimals=6)
    last, first = ends.ceil().long() - 1, ends.floor().long()
    both = torch.stack([last, first]).clamp(0, scores.shape[1] - 1).to(scores.device)
    at_border = (falling[:, both[0]] + falling[:, both[1]]) / 2
    steps = at_border * (anchors[:-1] - anchors[1:])
    return torch.cat([torch.zeros_like(scores[:, :1]), steps.cumsum(1)], 1)


def check_scores(scores: Tensor) -> Tensor:
    """Return ``scores`` (B, d) in float32 or float64, raise if they are anything else."""
    check_float_tensor("scores", scores)
    if scores.dim() != 2 or 0 in scores.shape:
        raise ValueError(
            f"scores must have shape (B, d) with values, got {tuple(scores.shape)}. "
            "Try maps.flatten(1)."
        )
    check_finite("scores", scores)
    return wide(scores)


def check_fractions(fractions: Tensor) -> list[float]:
    """Return ``fractions`` (S,) as numbers in [0, 1], raise if they are anything else."""
    check_float_tensor("fractions", fractions)
    values: list[float] = fractions.detach().flatten().tolist()
    if fractions.dim() != 1 or not values or not all(0.0 <= v <= 1.0 for v in values):
        raise ValueError(
            f"fractions must be a row of shares in [0, 1], got {values} of shape "
            f"{tuple(fractions.shape)}. Try torch.linspace(0, 1, 16)."
        )
    return values


def gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw standard Gumbel noise in the shape of ``like``, on the generator's device."""
    device = like.device if generator is None else generator.device
    waits = torch.empty(like.shape, dtype=like.dtype, device=device)
    waits.exponential_(generator=generator)
    return waits.clamp_(min=torch.finfo(like.dtype).tiny).log_().neg_().to(like.device)


def warn_unless_converged(result: Balanced, tolerance: float, fix: str) -> None:
    """Warn if a column sum is off by more than ``tolerance``: the masks are then not a ranking."""
    if torch.compiler.is_compiling():
        return
    worst = float(result.column_error.max())
    if not worst <= tolerance:
        warnings.warn(
            f"the sorter did not converge in {int(result.n_iterations.max())} iterations: a column "
            f"is off by {worst:.1g}, tolerance {tolerance:g}, so masks may not follow the scores. "
            f"Try {fix}.",
            RuntimeWarning,
            stacklevel=4,
        )
