"""Paired statistics of two maps over the same images."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
LEVEL = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Paired:
    """How much better one map is than another; positive is better, whatever the metric.

    Attributes:
        images: Number of pairs.
        gain: Mean difference.
        low: Lower end of its BCa bootstrap interval at 95 %.
        high: Upper end.
        p: Of the Wilcoxon signed-rank test, two-sided; 1 below 3 pairs or without a difference.
        cohens_d: Mean difference over the standard deviation of differences; 0 if all are equal.
        rank_biserial: Matched-pairs rank-biserial correlation, -1 to 1.
        wins: Share of images on which it is better; ties count half.
    """

    images: int
    gain: float
    low: float
    high: float
    p: float
    cohens_d: float
    rank_biserial: float
    wins: float


def paired(gains: Array, seed: int = 0) -> Paired:
    """Compare by the differences (N,) per image, positive where the first is better.

    Raises:
        ValueError: If there is none.

    Example:
        >>> found = paired(np.array([1.0, 2.0, 3.0, -0.5]))
        >>> found.wins, found.rank_biserial
        (0.75, 0.8)
    """
    if gains.ndim != 1 or not len(gains):
        raise ValueError(f"gains must hold one difference per image, got shape {gains.shape}.")
    spread = float(gains.std(ddof=1)) if len(gains) > 1 else 0.0
    varies = spread > 1e-12 * float(np.abs(gains).max())
    low, high = _interval(gains, seed) if varies else (float(gains.mean()),) * 2
    return Paired(
        images=len(gains),
        gain=float(gains.mean()),
        low=low,
        high=high,
        p=signed_rank(gains),
        cohens_d=float(gains.mean()) / spread if varies else 0.0,
        rank_biserial=_rank_biserial(gains),
        wins=float((gains > 0).mean() + 0.5 * (gains == 0).mean()),
    )


def signed_rank(gains: Array) -> float:
    """Return Wilcoxon's two-sided p; 1 for fewer than 3 pairs or no difference at all."""
    if len(gains) < 3 or not gains.any():
        return 1.0
    return float(stats.wilcoxon(gains).pvalue)


def holm(p: Array) -> Array:
    """Return p-values (N,) corrected by Holm's step-down rule, in their order.

    Example:
        >>> [round(float(v), 3) for v in holm(np.array([0.01, 0.04, 0.03]))]
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    scaled = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


def bonferroni(p: Array) -> Array:
    """Return p-values (N,) times their number, at most 1."""
    return np.minimum(p * len(p), 1.0)


def _interval(gains: Array, seed: int) -> tuple[float, float]:
    # Values that hardly vary make scipy fall back with a warning; the interval is then a point.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (gains,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
    mean = float(gains.mean())
    return tuple(float(v) if np.isfinite(v) else mean for v in (found.low, found.high))  # type: ignore[return-value]


def _rank_biserial(gains: Array) -> float:
    moved = gains[gains != 0]
    if not len(moved):
        return 0.0
    ranks = stats.rankdata(np.abs(moved))
    return float((ranks[moved > 0].sum() - ranks[moved < 0].sum()) / ranks.sum())
