"""Paired comparisons: every image is its own control."""

from typing import Any

import numpy as np
from scipy import stats


def signed_rank(difference: np.ndarray[Any, Any]) -> float:
    """Return Wilcoxon's two-sided p; 1 for fewer than 3 images or no difference at all."""
    if len(difference) < 3 or not difference.any():
        return 1.0
    return float(stats.wilcoxon(difference).pvalue)


def paired(difference: np.ndarray[Any, Any], higher_is_better: bool) -> dict[str, float]:
    """Return the mean gain, its bootstrap interval, the win rate and Wilcoxon's two-sided p."""
    gain = difference if higher_is_better else -difference
    if len(gain) < 3 or not gain.any():
        return {"gain": float(gain.mean()), "low": 0.0, "high": 0.0, "wins": 0.0, "p": 1.0}
    interval = stats.bootstrap((gain,), np.mean, n_resamples=2000, rng=0).confidence_interval
    return {
        "gain": float(gain.mean()),
        "low": float(interval.low),
        "high": float(interval.high),
        "wins": float((gain > 0).mean()),
        "p": signed_rank(gain),
    }
