"""Deletion and insertion: does the ranking find what the model needs?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from usu_core._checks import check_count, check_finite
from usu_core.metrics._references import reference_images
from usu_core.scoring import ModelScore, ScoreFunction, model_score


@dataclass(frozen=True)
class Curve:
    """A score as pixels change.

    Attributes:
        scores: (B, steps + 1), from no changed pixel to all of them.
        auc: (B,), the trapezoidal area under the curve over the share of changed pixels.
    """

    scores: Tensor
    auc: Tensor


def deletion(
    score: ModelScore | ScoreFunction,
    images: Tensor,
    attribution: Tensor,
    *,
    reference: str | Tensor = "blur",
    black: Tensor | float = 0.0,
    steps: int = 16,
    ties: Tensor | None = None,
    output: str = "probability",
    chunk_size: int = 64,
) -> Curve:
    """Replace pixels by the reference, most important first; lower is better.

    Petsiuk et al., 2018 (RISE), with the reference explicit.

    Args:
        score: The explained scalar; see :class:`~usu_core.scoring.ModelScore`.
        images: (B, C, *pixels).
        attribution: (B, *pixels); only its ranking matters.
        reference: ``"black"``, ``"mean"``, ``"blur"`` or a tensor.
        black: Value of black in the model's space.
        steps: Number of equal steps from none to all pixels.
        ties: (B, *pixels), ranks pixels of equal attribution, highest first. Remaining ties keep
            their order in memory.
        output: Scale of the score.
        chunk_size: Images per model call.

    Returns:
        The curve and its area.

    Raises:
        ValueError: If shapes do not match or the map is not finite.

    Cost:
        ``B · (steps + 1)`` model evaluations.

    Example:
        >>> images = torch.tensor([[[4.0, 3.0, 2.0, 1.0]]])
        >>> total = lambda x: x.sum((1, 2))
        >>> deletion(total, images, images[:, 0], reference="black", steps=4).scores
        tensor([[10.,  6.,  3.,  1.,  0.]])
    """
    target = reference_images(images, reference, black)
    return _curve(score, images, target, attribution, steps, ties, output, chunk_size)


def insertion(
    score: ModelScore | ScoreFunction,
    images: Tensor,
    attribution: Tensor,
    *,
    reference: str | Tensor = "blur",
    black: Tensor | float = 0.0,
    steps: int = 16,
    ties: Tensor | None = None,
    output: str = "probability",
    chunk_size: int = 64,
) -> Curve:
    """Reveal pixels on the reference, most important first; higher is better.

    Everything else is as in :func:`deletion`.

    Args:
        score: As in :func:`deletion`.
        images: As in :func:`deletion`.
        attribution: As in :func:`deletion`.
        reference: As in :func:`deletion`.
        black: As in :func:`deletion`.
        steps: As in :func:`deletion`.
        ties: As in :func:`deletion`.
        output: As in :func:`deletion`.
        chunk_size: As in :func:`deletion`.

    Returns:
        The curve and its area.

    Example:
        >>> images = torch.tensor([[[4.0, 3.0, 2.0, 1.0]]])
        >>> total = lambda x: x.sum((1, 2))
        >>> insertion(total, images, images[:, 0], reference="black", steps=2).auc
        tensor([6.])
    """
    start = reference_images(images, reference, black)
    return _curve(score, start, images, attribution, steps, ties, output, chunk_size)


def _curve(
    score: ModelScore | ScoreFunction,
    start: Tensor,
    end: Tensor,
    attribution: Tensor,
    steps: int,
    ties: Tensor | None,
    output: str,
    chunk_size: int,
) -> Curve:
    """Score ``start`` as its pixels turn into ``end``, highest attribution first."""
    check_count("steps", steps)
    check_count("chunk_size", chunk_size)
    wanted = (start.shape[0], *start.shape[2:])
    for name, value in (("attribution", attribution), ("ties", ties)):
        if value is not None and tuple(value.shape) != wanted:
            raise ValueError(f"{name} must have shape {wanted}, got {tuple(value.shape)}.")
    check_finite("attribution", attribution)
    rank = _ranks(attribution, ties)
    pixels = rank[0].numel()
    model, rows = model_score(score), []
    example = torch.arange(len(start), device=start.device).repeat_interleave(steps + 1)
    step = torch.arange(steps + 1, device=start.device).repeat(len(start))
    with torch.no_grad():
        for i, k in zip(example.split(chunk_size), step.split(chunk_size), strict=True):
            changed = (rank[i] < (k * pixels / steps).view(-1, *[1] * (rank.dim() - 1))).unsqueeze(
                1
            )
            rows.append(model.evaluate(torch.where(changed, end[i], start[i]), i, output))
    scores = torch.cat(rows).view(len(start), steps + 1).float()
    return Curve(scores, torch.trapezoid(scores, dx=1.0 / steps, dim=1))


def _ranks(attribution: Tensor, ties: Tensor | None) -> Tensor:
    """Return each pixel's place, 0 for the most important."""
    flat = attribution.flatten(1)
    order = torch.arange(flat.shape[1], device=flat.device).expand_as(flat)
    for key in (ties, attribution):
        if key is not None:
            falling = key.to(flat.device).flatten(1).gather(1, order)
            order = order.gather(1, falling.argsort(dim=1, descending=True, stable=True))
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view_as(attribution)
