"""Do more important pixels do more? Two metrics that share a name."""

import torch
from torch import Tensor

from usu_core._checks import check_count
from usu_core.metrics._correlation import spearman
from usu_core.metrics._evaluation import check_maps, perturbed_scores, whole_scores
from usu_core.metrics._ranking import equal_counts, places, scores_along
from usu_core.metrics._references import Reference, reference_images
from usu_core.scoring import ModelScore, ScoreFunction
from usu_core.scoring._model import score_drops


def monotonicity(
    score: ModelScore | ScoreFunction,
    images: Tensor,
    attribution: Tensor,
    *,
    steps: int = 16,
    reference: Reference = "blur",
    black: Tensor | float = 0.0,
    output: str = "probability",
    chunk_size: int = 64,
) -> Tensor:
    """Share of steps that do not lower the score as pixels appear, least important first.

    The form of Arya et al., 2019. Theirs asks for every step and answers yes or no: it is the
    comparison of the result with 1. :func:`monotonicity_correlation` is the form of Nguyen and
    Martínez.

    Args:
        score: The explained scalar.
        images: (B, C, *pixels).
        attribution: (B, *pixels); only its ranking matters.
        steps: Number of equal steps from the reference to the image.
        reference: As in :func:`deletion`.
        black: As in :func:`deletion`.
        output: Scale of the score.
        chunk_size: Images per model call.

    Returns:
        (B,), 0 to 1, higher is better.

    Raises:
        ValueError: If shapes do not match, or images, maps or scores are not finite.

    Cost:
        ``B · (steps + 1)`` model evaluations, at most one per pixel and the start.

    Example:
        >>> images = torch.tensor([[[4.0, -3.0, 2.0, 1.0]]])
        >>> total = lambda x: x.sum((1, 2))
        >>> monotonicity(total, images, images[:, 0], reference=0.0, steps=4)
        tensor([0.7500])
    """
    attribution = check_maps(images, attribution)
    check_count("steps", steps)
    fill = reference_images(images, reference, black)
    place = places(-attribution)
    # Steps in which no pixel changes, where there are more steps than pixels, say nothing.
    counts = sorted(set(equal_counts(place[0].numel(), steps)))
    scores = scores_along(score, fill, images, place, counts, output=output, chunk_size=chunk_size)
    return (scores.diff(dim=1) >= 0).float().mean(1)


def monotonicity_correlation(
    score: ModelScore | ScoreFunction,
    images: Tensor,
    attribution: Tensor,
    *,
    groups: int = 16,
    samples: int = 10,
    output: str = "probability",
    chunk_size: int = 64,
    seed: int = 0,
) -> Tensor:
    """Correlate the size of attributions with the uncertainty that unknown pixels leave.

    The form of Nguyen and Martínez, 2020: the Spearman correlation of ``|a|`` with the expected
    squared change of the score when features take random values. Pixels are sorted by ``|a|`` and
    form groups of equal size, each of which is one feature with the mean ``|a|`` of its pixels.
    Random values are uniform between the least and the greatest of the image's channel.

    Args:
        score: The explained scalar.
        images: (B, C, *pixels).
        attribution: (B, *pixels); its sign does not matter.
        groups: Number of groups, at most one per pixel.
        samples: Random fills per group, the same for all groups and examples.
        output: Scale of the score.
        chunk_size: Images per model call.
        seed: Seed of the fills; they do not depend on the device.

    Returns:
        (B,) float64, -1 to 1, higher is better; 0 for maps of constant size and for scores that do
        not change.

    Raises:
        ValueError: If shapes do not match, images, maps or scores are not finite, or there are more
            groups than pixels.

    Cost:
        ``B · (1 + groups · samples)`` model evaluations.

    Example:
        >>> images = torch.tensor([[[1.0, 0.0, 0.5, 0.2]]])
        >>> weights = torch.tensor([1.0, 9.0, 0.1, 3.0])
        >>> weighted = lambda x: (x * weights).sum((1, 2))
        >>> monotonicity_correlation(weighted, images, weights[None], groups=4).round(decimals=6)
        tensor([1.], dtype=torch.float64)
    """
    attribution = check_maps(images, attribution)
    check_count("groups", groups, 2)
    check_count("samples", samples)
    pixels = attribution[0].numel()
    if groups > pixels:
        raise ValueError(f"groups must be at most {pixels}, the pixels, got {groups}.")
    size = attribution.double().abs()
    group = places(size) * groups // pixels
    draw = torch.rand(
        samples,
        *images.shape[1:],
        generator=torch.Generator().manual_seed(seed),
    ).to(images)
    spatial = tuple(range(2, images.dim()))
    low, high = images.amin(spatial, keepdim=True), images.amax(spatial, keepdim=True)

    def randomise(i: Tensor, k: Tensor) -> Tensor:
        unknown = group[i] == (k // samples).view(-1, *[1] * len(spatial))
        noise = low[i] + (high[i] - low[i]) * draw[k % samples]
        return torch.where(unknown.unsqueeze(1), noise, images[i])

    whole = whole_scores(score, images, output=output, chunk_size=chunk_size)
    count = groups * samples
    scores = perturbed_scores(score, images, randomise, count, output=output, chunk_size=chunk_size)
    change = score_drops(whole[:, None], scores).square()
    mean = size.new_zeros(len(images), groups)
    # From the smallest on, so that equal sizes have equal means whatever rounding does.
    above = size.flatten(1) - size.flatten(1).amin(1, keepdim=True)
    mean = mean.scatter_reduce(1, group.flatten(1), above, "mean", include_self=False)
    return spearman(mean, change.view(len(images), groups, samples).mean(2))
