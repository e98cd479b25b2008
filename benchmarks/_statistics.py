"""Paired comparisons: every image is its own control."""

from typing import Any

import numpy as np

from usu_cli.evaluate import _statistics
from usu_cli.evaluate._statistics import signed_rank

__all__ = ["paired", "signed_rank"]


def paired(difference: np.ndarray[Any, Any], higher_is_better: bool) -> dict[str, float]:
    """Return the mean gain, its BCa interval, the win rate and Wilcoxon's two-sided p."""
    found = _statistics.paired(difference if higher_is_better else -difference)
    return {name: getattr(found, name) for name in ("gain", "low", "high", "wins", "p")}
