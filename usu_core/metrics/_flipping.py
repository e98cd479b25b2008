"""Removal in order of relevance, as areas over the curve: pixel flipping and IROF."""

import torch
from torch import Tensor

from usu_core._checks import check_count
from usu_core.metrics._curves import Curve
from usu_core.metrics._evaluation import check_labels, check_maps, relative_scores
from usu_core.metrics._ranking import places, scores_along
from usu_core.metrics._references import Reference, reference_images
from usu_core.scoring import ModelScore, ScoreFunction
from usu_core.segments import segment_counts, segment_expand, segment_mean


def pixel_flipping(
    score: ModelScore | ScoreFunction,
    images: Tensor,
    attribution: Tensor,
    *,
    pixels_per_step: int = 1,
    steps: int | None = None,
    reference: Reference = "black",
    black: Tensor | float = 0.0,
    ties: Tensor | None = None,
    output: str = "logit",
    chunk_size: int = 64,
) -> Curve:
    """Flip pixels to the reference, most relevant first; a high area over the curve is good.

    Bach et al., 2015, summed up as Samek et al., 2017 (AOPC): the mean of ``f(x) - f(x_k)`` over
    the points ``k = 0 ... L``.

    Args:
        score: The explained scalar.
        images: (B, C, *pixels).
        attribution: (B, *pixels); only its ranking matters.
        pixels_per_step: Pixels flipped per step, all channels together.
        steps: Steps to take; until all pixels are flipped if not given, or if fewer suffice.
        reference: As in :func:`deletion`.
        black: As in :func:`deletion`.
        ties: As in :func:`deletion`.
        output: Scale of the score.
        chunk_size: Images per model call.

    Returns:
        The curve (B, L + 1); its ``auc`` is the area over the perturbation curve, in the units of
        the score.

    Raises:
        ValueError: If shapes do not match, or images, maps or scores are not finite.

    Cost:
        ``B · (L + 1)`` model evaluations, with ``L = ceil(pixels / pixels_per_step)`` or fewer.

    Example:
        >>> images = torch.tensor([[[4.0, 3.0, 2.0, 1.0]]])
        >>> total = lambda x: x.sum((1, 2))
        >>> pixel_flipping(total, images, images[:, 0], steps=2)
        Curve(scores=tensor([[10.,  6.,  3.]]), auc=tensor([3.6667]))
    """
    attribution = check_maps(images, attribution, ties)
    check_count("pixels_per_step", pixels_per_step)
    pixels = attribution[0].numel()
    points = -(-pixels // pixels_per_step) + 1
    if steps is not None:
        check_count("steps", steps)
        points = min(points, steps + 1)
    fill = reference_images(images, reference, black)
    counts = [k * pixels_per_step for k in range(points)]
    place = places(attribution, ties)
    scores = scores_along(
        score, images, fill, place, counts, output=output, chunk_size=chunk_size
    ).float()
    return Curve(scores, (scores[:, :1] - scores).mean(1))


def irof(
    score: ModelScore | ScoreFunction,
    images: Tensor,
    attribution: Tensor,
    segments: Tensor,
    *,
    reference: Reference = "mean",
    black: Tensor | float = 0.0,
    output: str = "probability",
    chunk_size: int = 64,
) -> Curve:
    """Remove segments, highest mean attribution first; a high area over the curve is good.

    Iterative removal of features (Rieger and Hansen, 2020). Scores are divided by that of the
    whole image.

    Args:
        score: The explained scalar.
        images: (B, C, *pixels).
        attribution: (B, *pixels) density; segments are ranked by its mean.
        segments: (B, *pixels) integers from 0, such as SLIC labels; gaps are allowed. Segments of
            equal mean keep the order of their labels.
        reference: As in :func:`deletion`.
        black: As in :func:`deletion`.
        output: Scale of the score.
        chunk_size: Images per model call.

    Returns:
        The relative curve (B, S + 1), with S the largest number of segments in the batch; an image
        with fewer keeps its last value. Its ``auc`` is one minus the trapezoidal area over the
        share of the image's own segments: 0 for a score that never changes.

    Raises:
        TypeError: If the segments are not integers.
        ValueError: If shapes do not match, images, maps or scores are not finite, or the score of a
            whole image is not above 0.

    Cost:
        ``B · (S + 1)`` model evaluations.

    Example:
        >>> images = torch.tensor([[[4.0, 4.0, 1.0, 1.0]]])
        >>> segments = torch.tensor([[0, 0, 1, 1]])
        >>> irof(lambda x: x.sum((1, 2)), images, images[:, 0], segments, reference=0.0)
        Curve(scores=tensor([[1.0000, 0.2000, 0.0000]]), auc=tensor([0.6500]))
    """
    attribution = check_maps(images, attribution)
    count = check_labels(images, segments)
    labels = segments.to(images.device).long()
    fill = reference_images(images, reference, black)
    present = segment_counts(labels, count) > 0
    means = segment_mean(attribution, labels, count)
    place = segment_expand(places(means.masked_fill(~present, -torch.inf)), labels)
    own = present.sum(1)
    scores = scores_along(
        score,
        images,
        fill,
        place,
        range(int(own.max()) + 1),
        output=output,
        chunk_size=chunk_size,
    ).float()
    scores = relative_scores(scores, scores[:, 0])
    between = (scores[:, 1:] + scores[:, :-1]) / 2
    step = torch.arange(between.shape[1], device=scores.device)
    under = between.masked_fill(step >= own[:, None], 0.0).sum(1) / own
    return Curve(scores, 1.0 - under)
