"""What every scorer does."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from usu_core.scoring._model import ModelScore

LevelScorer = Callable[[Tensor, Tensor], Tensor]
"""Scores one level of a hierarchy: ``labels`` (B, *pixels) int64 and ``active`` (B, P) bool, which
of its segments to score, to values (B, P), non-negative and 0 where not active."""


@runtime_checkable
class Scorer(Protocol):
    """Measures how much a model's score depends on each segment.

    Implementations are frozen dataclasses. Values of all levels share one unit, so that a common
    normalisation keeps them comparable.
    """

    def __call__(self, images: Tensor, score: ModelScore) -> LevelScorer:
        """Do what is common to all levels, and return the function that scores one.

        Args:
            images: What the model sees, (B, C, *pixels).
            score: The model.
        """
        ...
