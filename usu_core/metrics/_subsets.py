"""Does the mass of a random subset predict what hiding it costs? Sensitivity-n and µFidelity."""

from collections.abc import Sequence

import torch
from torch import Tensor

from usu_core._checks import check_count
from usu_core.metrics._correlation import pearson
from usu_core.metrics._evaluation import (
    check_labels,
    check_maps,
    check_shares,
    perturbed_scores,
    whole_scores,
)
from usu_core.metrics._references import Reference, reference_images
from usu_core.scoring import ModelScore, ScoreFunction
from usu_core.scoring._model import score_drops


def sensitivity_n(
    score: ModelScore | ScoreFunction,
    images: Tensor,
    attribution: Tensor,
    sizes: Sequence[int],
    *,
    samples: int = 100,
    reference: Reference = "blur",
    black: Tensor | float = 0.0,
    output: str = "probability",
    chunk_size: int = 64,
    seed: int = 0,
) -> Tensor:
    """Correlate the mass of random subsets of n pixels with the drop from hiding them.

    Ancona et al., 2018 (Definition 1, measured by the Pearson correlation). Higher is better, and
    1 for every n where the model is linear and the map exact. The same subsets serve all examples.

    Args:
        score: The explained scalar.
        images: (B, C, *pixels).
        attribution: (B, *pixels) mass.
        sizes: The values of n, each between 1 and the number of pixels.
        samples: Subsets per n, 2 or more.
        reference: As in :func:`deletion`.
        black: As in :func:`deletion`.
        output: Scale of the score.
        chunk_size: Images per model call.
        seed: Seed of the subsets; they do not depend on the device.

    Returns:
        (B, len(sizes)) float64, -1 to 1; 0 where the mass or the drop does not vary, as for
        constant maps or all pixels at once.

    Raises:
        ValueError: If shapes do not match, images, maps or scores are not finite, or a size does
            not fit.

    Cost:
        ``B · (1 + len(sizes) · samples)`` model evaluations.

    Example:
        >>> images = torch.tensor([[[4.0, 3.0, 2.0, 1.0]]])
        >>> total = lambda x: x.sum((1, 2))
        >>> sensitivity_n(total, images, images[:, 0], [1, 2], reference=0.0).round(decimals=6)
        tensor([[1., 1.]], dtype=torch.float64)
    """
    attribution = check_maps(images, attribution)
    check_count("samples", samples, 2)
    pixels = attribution[0].numel()
    for size in sizes:
        check_count("sizes", size)
    if not sizes or max(sizes) > pixels:
        raise ValueError(f"sizes must lie between 1 and {pixels}, the pixels, got {list(sizes)}.")
    fill = reference_images(images, reference, black)
    draw = torch.rand(samples, pixels, generator=torch.Generator().manual_seed(seed))
    place = draw.argsort(1).argsort(1).to(images.device)
    limit = torch.tensor(list(sizes), device=images.device)

    def hide(i: Tensor, k: Tensor) -> Tensor:
        hidden = place[k % samples] < limit[k // samples, None]
        return torch.where(hidden.view(-1, 1, *images.shape[2:]), fill[i], images[i])

    whole = whole_scores(score, images, output=output, chunk_size=chunk_size)
    count = len(sizes) * samples
    left = perturbed_scores(score, images, hide, count, output=output, chunk_size=chunk_size)
    drops = score_drops(whole[:, None], left).view(len(images), len(sizes), samples)
    flat = attribution.double().flatten(1)
    columns = [pearson(flat @ (place < n).double().T, drops[:, j]) for j, n in enumerate(sizes)]
    return torch.stack(columns, 1)


def mu_fidelity(
    score: ModelScore | ScoreFunction,
    images: Tensor,
    attribution: Tensor,
    segments: Tensor,
    *,
    share: float = 0.2,
    samples: int = 200,
    reference: Reference = "blur",
    black: Tensor | float = 0.0,
    output: str = "probability",
    chunk_size: int = 64,
    seed: int = 0,
) -> Tensor:
    """Correlate the mass of random sets of segments with the drop from hiding them.

    µFidelity (Bhatt et al., 2020) with segments or patches as features. Higher is better, and 1
    where the model is linear and the map exact.

    Args:
        score: The explained scalar.
        images: (B, C, *pixels).
        attribution: (B, *pixels) mass.
        segments: (B, *pixels) integers from 0; gaps are allowed.
        share: Share of each image's segments hidden together, rounded to one or more.
        samples: Sets, 2 or more.
        reference: As in :func:`deletion`.
        black: As in :func:`deletion`.
        output: Scale of the score.
        chunk_size: Images per model call.
        seed: Seed of the sets; they do not depend on the device.

    Returns:
        (B,) float64, -1 to 1; 0 where the mass or the drop does not vary.

    Raises:
        TypeError: If the segments are not integers.
        ValueError: If shapes do not match, images, maps or scores are not finite, or the share does
            not fit.

    Cost:
        ``B · (1 + samples)`` model evaluations.

    Example:
        >>> images = torch.tensor([[[4.0, 3.0, 2.0, 1.0]]])
        >>> total = lambda x: x.sum((1, 2))
        >>> segments = torch.tensor([[0, 0, 1, 2]])
        >>> mu_fidelity(total, images, images[:, 0], segments, reference=0.0).round(decimals=6)
        tensor([1.], dtype=torch.float64)
    """
    attribution = check_maps(images, attribution)
    check_count("samples", samples, 2)
    check_shares("share", (share,))
    count = check_labels(images, segments)
    labels = segments.to(images.device).long().flatten(1)
    fill = reference_images(images, reference, black)
    ones = torch.ones_like(labels)
    present = labels.new_zeros(len(images), count).scatter_add_(1, labels, ones) > 0
    # One row per label: an image's sets do not depend on the labels of the others.
    draw = torch.rand(count, samples, generator=torch.Generator().manual_seed(seed)).T
    draw = draw.to(images.device).expand(len(images), samples, count)
    place = draw.masked_fill(~present[:, None], torch.inf).argsort(2).argsort(2)
    size = (share * present.sum(1)).round().clamp(min=1)
    hidden = place < size[:, None, None]

    def hide(i: Tensor, k: Tensor) -> Tensor:
        inside = hidden[i, k].gather(1, labels[i])
        return torch.where(inside.view(-1, 1, *images.shape[2:]), fill[i], images[i])

    whole = whole_scores(score, images, output=output, chunk_size=chunk_size)
    left = perturbed_scores(score, images, hide, samples, output=output, chunk_size=chunk_size)
    flat = attribution.double().flatten(1)
    mass = flat.new_zeros(len(images), count).scatter_add_(1, labels, flat)
    sums = (hidden.double() @ mass[:, :, None]).squeeze(2)
    return pearson(sums, score_drops(whole[:, None], left))
