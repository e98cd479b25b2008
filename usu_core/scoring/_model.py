"""The scalar of the model that is explained."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from usu_core._checks import check_choice
from usu_core._precision import wide, widest

OUTPUTS = ("probability", "logit", "log-odds")

ScoreFunction = Callable[[Tensor], Tensor]
"""Images (N, C, *pixels) to scores (N,)."""


@runtime_checkable
class ModelScore(Protocol):
    """A score that knows which example an image was made from, and which scale is wanted.

    Batches whose examples have different targets need the first; scorers choose the second.
    """

    def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
        """Score perturbed images.

        Args:
            images: (N, C, *pixels), each a perturbed copy of one example of the batch.
            example: (N,) int64, the example's index in the batch.
            output: ``"probability"``, ``"logit"`` or ``"log-odds"``.

        Returns:
            (N,) scores, differentiable where gradients are enabled.
        """
        ...


class _Plain:
    """A plain function, which decides target and scale itself."""

    def __init__(self, function: ScoreFunction) -> None:
        self._function = function

    def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
        return self._function(images)


class CountedScore:
    """Checks what a score returns and counts the images it was asked about."""

    def __init__(self, score: "ModelScore | ScoreFunction") -> None:
        self._score = model_score(score)
        self.evaluations = 0

    def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
        """Score images as the wrapped score does."""
        values = self._score.evaluate(images, example, output)
        self.evaluations += len(images)
        if not isinstance(values, Tensor) or values.numel() != len(images):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"score must return one number per image, got {got} for {len(images)} images."
            )
        values = values.reshape(len(images))
        # Scores are differences of close numbers: keep half precision out of them. Services and
        # models on several devices answer where they please.
        return wide(values.to(images.device))

    def pixel_effects(self, images: Tensor, output: str) -> Tensor | None:
        """Return what the wrapped score knows of each pixel's effect without a run, if anything."""
        at_hand = getattr(self._score, "pixel_effects", None)
        effects: Tensor | None = None if at_hand is None else at_hand(images, output)
        if effects is not None:
            self.evaluations += len(images)
        return effects


def model_score(score: "ModelScore | ScoreFunction") -> ModelScore:
    """Return ``score`` as a :class:`ModelScore`, wrapping plain functions and modules.

    Raises:
        TypeError: If it is neither.
    """
    # A module is called, for an ``evaluate`` of its own is not this protocol's.
    if isinstance(score, ModelScore) and not isinstance(score, nn.Module):
        return score
    if not callable(score):
        raise TypeError(
            "score must be a function from images (N, C, H, W) to (N,), got "
            f"{type(score).__name__}."
        )
    return _Plain(score)


def score_drops(whole: Tensor, left: Tensor) -> Tensor:
    """Return what scores have lost against those of the whole images, in float64.

    A score that stays differs from itself by the rounding of batches of other sizes. So small a
    drop is 0: it would be the largest where nothing matters, and correlate with maps by chance.

    Example:
        >>> score_drops(torch.tensor([0.5, 0.5]), torch.tensor([0.4999999, 0.25]))
        tensor([0.0000, 0.2500], dtype=torch.float64)
    """
    full = widest(whole)
    drops = full - widest(left)
    # Neither NaN nor infinity is below anything.
    return drops.masked_fill(drops.abs() < 16 * torch.finfo(whole.dtype).eps * full.abs(), 0.0)


def class_scores(outputs: Tensor, output: str = "probability") -> Tensor:
    """Turn a classifier's outputs into probabilities, logits or log-odds.

    Args:
        outputs: Logits (N, classes), or (N,) or (N, 1) for one scalar per example. Rows that are
            already probabilities (non-negative, summing to one) are recognised.
        output: ``"probability"`` (softmax), ``"logit"`` (unchanged) or ``"log-odds"``
            (log p - log(1 - p), which does not saturate).

    Returns:
        Same shape, float32 or float64. Outputs of other ranks, and one scalar per example, have
        no classes to compete and come back unchanged.

    Example:
        >>> class_scores(torch.tensor([[0.0, 0.0]]))
        tensor([[0.5000, 0.5000]])
        >>> class_scores(torch.tensor([[2.0, 2.0]]), "log-odds")
        tensor([[0., 0.]])
    """
    return ClassScores()(outputs, output)


class ClassScores:
    """:func:`class_scores` of one model, which are probabilities or not once and for all.

    The first outputs decide. Asked anew for every batch, a model whose outputs happen to add up to
    one would score an image by what else is in the batch.

    Example:
        >>> scores = ClassScores()
        >>> scores(torch.tensor([[0.5, 0.5]])), scores(torch.tensor([[0.2, 0.5]]))
        (tensor([[0.5000, 0.5000]]), tensor([[0.2000, 0.5000]]))
    """

    def __init__(self) -> None:
        self._are_probabilities: bool | None = None

    def __call__(self, outputs: Tensor, output: str = "probability") -> Tensor:
        """Turn outputs of the model into scores."""
        check_choice("output", output, OUTPUTS)
        outputs = wide(outputs)
        if outputs.dim() != 2 or outputs.shape[1] < 2 or output == "logit":
            return outputs
        if self._are_probabilities is None:
            self._are_probabilities = _are_probabilities(outputs.detach())
        log_p = (
            outputs.clamp(min=1e-12).log() if self._are_probabilities else outputs.log_softmax(1)
        )
        return log_p.exp() if output == "probability" else _log_odds(log_p)


def _are_probabilities(rows: Tensor) -> bool:
    # Probabilities that were rounded to half precision, now or before, do not quite add up to one.
    return bool(((rows >= 0).all(1) & ((rows.sum(1) - 1).abs() < 1e-2)).all())


def _log_odds(log_p: Tensor) -> Tensor:
    # For the most probable class 1 - p may round to 0: add the other classes up instead.
    top = torch.zeros_like(log_p, dtype=torch.bool).scatter_(1, log_p.argmax(1, keepdim=True), True)
    rest = log_p.masked_fill(top, -torch.inf).logsumexp(1, keepdim=True)
    others = torch.log1p(-log_p.exp().masked_fill(top, 0.0)).where(~top, rest)
    return log_p - others
