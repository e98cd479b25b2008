"""Run a model on perturbed copies of a batch, and check what a metric is given."""

from collections.abc import Callable

import torch
from torch import Tensor

from usu_core._checks import check_count, check_finite, check_float_tensor, check_integer_tensor
from usu_core.scoring import ModelScore, ScoreFunction
from usu_core.scoring._model import CountedScore


def perturbed_scores(
    score: ModelScore | ScoreFunction,
    images: Tensor,
    perturb: Callable[[Tensor, Tensor], Tensor],
    count: int,
    *,
    output: str,
    chunk_size: int,
) -> Tensor:
    """Score ``count`` perturbed copies of every image.

    Args:
        score: The explained scalar.
        images: (B, C, *pixels).
        perturb: Takes the examples (N,) and the numbers of the copies (N,), both int64, and
            returns the perturbed images (N, C, *pixels).
        count: Copies per image.
        output: Scale of the score.
        chunk_size: Images per model call.

    Returns:
        (B, count), float32 or float64.

    Raises:
        ValueError: If a score is not finite: NaN would pass for a score that never changes.

    Cost:
        ``B · count`` model evaluations.
    """
    check_count("chunk_size", chunk_size)
    model, rows = CountedScore(score), []
    example = torch.arange(len(images), device=images.device).repeat_interleave(count)
    copy = torch.arange(count, device=images.device).repeat(len(images))
    with torch.no_grad():
        for i, k in zip(example.split(chunk_size), copy.split(chunk_size), strict=True):
            rows.append(model.evaluate(perturb(i, k), i, output))
    scores = torch.cat(rows).view(len(images), count)
    bad = (~scores.isfinite()).any(1).nonzero().flatten()
    if len(bad):
        raise ValueError(
            "score must return finite numbers, got NaN or infinity for example "
            f"{int(bad[0])} ({len(bad)} of {len(images)} examples). Try the model in float32."
        )
    return scores


def whole_scores(
    score: ModelScore | ScoreFunction, images: Tensor, *, output: str, chunk_size: int
) -> Tensor:
    """Score the images themselves: (B,), in ``B`` model evaluations."""
    return perturbed_scores(
        score, images, lambda i, _: images[i], 1, output=output, chunk_size=chunk_size
    ).squeeze(1)


def relative_scores(scores: Tensor, whole: Tensor) -> Tensor:
    """Divide scores (B, N) by those of the whole images (B,).

    Raises:
        ValueError: If a whole image's score is not above 0, for the ratio would turn the curve
            upside down or have no value.
    """
    bad = (~(whole > 0)).nonzero().flatten()
    if len(bad):
        first = int(bad[0])
        raise ValueError(
            "the score of the whole image must be above 0 to divide by it, got "
            f"{float(whole[first]):g} for example {first} ({len(bad)} of {len(whole)} examples). "
            "Try output='logit' or 'probability', or leave these examples out."
        )
    return scores / whole[:, None]


def check_batch(images: Tensor) -> None:
    """Raise unless ``images`` is a finite floating-point batch (B, C, *pixels), not empty."""
    check_float_tensor("images", images)
    if images.dim() < 3 or images.numel() == 0:
        raise ValueError(
            f"images must have shape (B, C, *pixels), none of them 0, got {tuple(images.shape)}."
        )
    check_finite("images", images)


def check_maps(images: Tensor, attribution: Tensor, ties: Tensor | None = None) -> Tensor:
    """Return the map on the images' device, or raise unless maps have one finite value per pixel.

    The attribution must be floating point: integers wrap where a map is negated.
    """
    check_batch(images)
    check_float_tensor("attribution", attribution)
    for name, value in (("attribution", attribution), ("ties", ties)):
        if value is not None:
            check_pixels(name, images, value)
            check_finite(name, value)
    return attribution.to(images.device)


def check_pixels(name: str, images: Tensor, value: Tensor) -> None:
    """Raise unless ``value`` has one entry per pixel of ``images``."""
    wanted = (images.shape[0], *images.shape[2:])
    if tuple(value.shape) != wanted:
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(value.shape)}.")


def check_planes(images: Tensor) -> None:
    """Raise unless ``images`` is a batch of two-dimensional images."""
    if images.dim() != 4:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}.")


def check_labels(images: Tensor, segments: Tensor) -> int:
    """Return the number of labels, or raise unless every pixel has one that is not negative."""
    check_integer_tensor("segments", segments)
    check_pixels("segments", images, segments)
    low, high = (int(v) for v in torch.aminmax(segments))
    if low < 0:
        raise ValueError(
            f"segments must not be negative, got {low}. Try usu_core.segments.relabel."
        )
    return high + 1


def check_shares(name: str, shares: tuple[float, ...]) -> None:
    """Raise unless there are shares, and all lie strictly between 0 and 1."""
    if not shares or not all(0 < share < 1 for share in shares):
        raise ValueError(f"{name} must lie between 0 and 1, both excluded, got {shares}.")
