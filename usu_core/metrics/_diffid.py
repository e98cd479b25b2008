"""DiffID: accuracy without the least important elements against that without the most important."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from usu_core._checks import check_choice, check_finite, check_float_tensor
from usu_core._precision import wide
from usu_core.metrics._evaluation import (
    check_batch,
    check_pixels,
    check_shares,
    perturbed_scores,
    whole_scores,
)
from usu_core.metrics._ranking import places, share_counts
from usu_core.scoring._model import ClassScores

UNITS = ("element", "pixel")
MEASURES = ("accuracy", "retention")


@dataclass(frozen=True)
class DiffID:
    """What is left of the prediction at each share.

    Attributes:
        insertion: (B, K), without the least important share.
        deletion: (B, K), without the most important share.
        difference: (B,), the mean of ``insertion`` minus that of ``deletion``, -1 to 1, higher is
            better.
    """

    insertion: Tensor
    deletion: Tensor
    difference: Tensor


def diffid(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    attribution: Tensor,
    labels: Tensor,
    *,
    unit: str = "element",
    measure: str = "accuracy",
    ties: Tensor | None = None,
    shares: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    chunk_size: int = 64,
) -> DiffID:
    """Compare what the least and the most important elements are worth to a classifier.

    DiffID as MA-GIG and SIG (2026) use it. Elements, each channel of each pixel, are ranked by
    absolute attribution; removed ones take one number, the mean of the image's remaining elements;
    and accuracy is against the label, not the first prediction. The defaults are that protocol;
    the mean of ``difference`` over many images is the printed number.

    Args:
        model: Images (N, C, *pixels) to logits or probabilities (N, classes).
        images: (B, C, *pixels).
        attribution: (B, C, *pixels), or (B, *pixels) for all channels alike. Only the ranking of
            absolute values matters.
        labels: (B,) int64, the right classes.
        unit: ``"element"``, or ``"pixel"`` to rank pixels by the sum over channels and to remove
            all channels of one together.
        measure: ``"accuracy"``, 1 or 0 per image, or ``"retention"``, the label's probability
            over that of the whole image, at most 1: the same question without the jumps.
        ties: (B, *pixels), orders pixels of equal size, highest first; remaining ties keep their
            order in memory, which is the protocol's.
        shares: Shares to remove, between 0 and 1; counts are rounded down.
        chunk_size: Images per model call.

    Returns:
        Both curves and their difference, per example.

    Raises:
        TypeError: If images or maps are not floating point.
        ValueError: If shapes do not match, a label has no output, an option is unknown, or images,
            maps, ties or what the model returns are not finite.

    Cost:
        ``2 · B · len(shares)`` model evaluations, and ``B`` more for ``"retention"``.

    Example:
        >>> images = torch.tensor([[[1.0, 0.0, 0.0, 3.0]]])
        >>> halves = lambda x: torch.stack([x[:, 0, :2].sum(1), x[:, 0, 2:].sum(1)], 1)
        >>> diffid(halves, images, images, torch.tensor([1]), shares=[0.25, 0.5])
        DiffID(insertion=tensor([[1., 1.]]), deletion=tensor([[0., 0.]]), difference=tensor([1.]))
    """
    check_choice("unit", unit, UNITS)
    check_choice("measure", measure, MEASURES)
    check_shares("shares", tuple(shares))
    size = _sizes(images, attribution, unit)
    if tuple(labels.shape) != (len(images),) or labels.is_floating_point():
        raise ValueError(
            f"labels must be integers of shape ({len(images)},), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )
    if ties is not None:
        check_pixels("ties", images, ties)
        check_finite("ties", ties)
    place = places(size, None if ties is None else ties.unsqueeze(1).expand_as(size))
    last = place[0].numel() - 1
    counts = share_counts(last + 1, shares)
    limit = torch.tensor(counts, device=images.device).view(-1, *[1] * (place.dim() - 1))
    K = len(counts)

    def remove(i: Tensor, k: Tensor) -> Tensor:
        most_first = (k < K).view(-1, *[1] * (place.dim() - 1))
        removed = torch.where(most_first, place[i], last - place[i]) < limit[k % K]
        # Sums over kept elements of kept elements alone: no share reaches 1, so there are some.
        every = wide(images[i])
        kept = (~removed).to(every).expand_as(every)
        axes = tuple(range(1, images.dim()))
        mean = (every * kept).sum(axes, keepdim=True) / kept.sum(axes, keepdim=True)
        return torch.where(removed, mean.to(images.dtype), images[i])

    score = _LabelScore(model, labels, measure, images.device)
    whole = None
    if measure == "retention":  # First, so that whole images decide what the outputs are.
        whole = whole_scores(score, images, output="probability", chunk_size=chunk_size)
    scores = perturbed_scores(
        score, images, remove, 2 * K, output="probability", chunk_size=chunk_size
    ).float()
    if whole is not None:
        scores = (scores / whole[:, None].float().clamp(min=1e-30)).clamp(max=1)
    deletion, insertion = scores[:, :K], scores[:, K:]
    return DiffID(insertion, deletion, insertion.mean(1) - deletion.mean(1))


class _LabelScore:
    """How right the model is about the label: 0 or 1, or the label's probability."""

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        labels: Tensor,
        measure: str,
        device: torch.device,
    ) -> None:
        self._model, self._measure, self._scores = model, measure, ClassScores()
        # Asked once: in every chunk it would make the device wait.
        self._range = int(labels.min()), int(labels.max())
        self._labels = labels.to(device).long()

    def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
        outputs = self._model(images)
        lowest, highest = self._range
        if outputs.dim() != 2 or not 0 <= lowest <= highest < outputs.shape[1]:
            raise ValueError(
                "model must return (N, classes) with a class for every label, got "
                f"{tuple(outputs.shape)} for labels from {lowest} to {highest}."
            )
        wanted = self._labels[example]
        if self._measure == "accuracy":
            right = (outputs.argmax(1) == wanted).float()
            # NaN has no first class; passed on, it is refused as a score.
            return right.where(outputs.amax(1).isfinite(), torch.nan)
        return self._scores(outputs, output).gather(1, wanted[:, None]).squeeze(1)


def _sizes(images: Tensor, attribution: Tensor, unit: str) -> Tensor:
    """Return what is ranked: (B, C, *pixels) for elements, (B, 1, *pixels) for pixels."""
    check_batch(images)
    check_finite("attribution", check_float_tensor("attribution", attribution))
    size = attribution.to(images.device).abs()
    if attribution.shape == images.shape:
        return size.sum(1, keepdim=True) if unit == "pixel" else size
    if attribution.shape == images[:, 0].shape:
        size = size.unsqueeze(1)
        return size if unit == "pixel" else size.expand_as(images)
    raise ValueError(
        f"attribution must have shape {tuple(images.shape)} or {tuple(images[:, 0].shape)}, got "
        f"{tuple(attribution.shape)}."
    )
