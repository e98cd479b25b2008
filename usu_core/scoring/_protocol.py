"""What every scorer does."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from usu_core.scoring._model import ModelScore


@runtime_checkable
class Scorer(Protocol):
    """Images, one label map and a model score in; one raw value per segment out.

    Implementations are frozen dataclasses. Raw values of all levels share one unit, so that a
    common normalisation keeps them comparable.
    """

    def __call__(self, images: Tensor, labels: Tensor, active: Tensor, score: ModelScore) -> Tensor:
        """Score the active segments of one level.

        Args:
            images: What the model sees, (B, C, *pixels).
            labels: (B, *pixels), int64, from 0.
            active: (B, P) bool: which segments to score.
            score: The model.

        Returns:
            (B, P) float, non-negative, 0 where not active.
        """
        ...
