"""Both directions of SAMP in one batch: the image deleted, and the image inserted."""

from typing import NamedTuple

import torch
from torch import Tensor

from usu_captum.paths._engine import follow
from usu_captum.paths._manipulation import Search, Walk
from usu_captum.paths._objective import Objective
from usu_core.metrics import Blur

DIRECTIONS = ("both", "deletion", "insertion")


class ManipulationPath(NamedTuple):
    """One direction of SAMP.

    Attributes:
        attribution: (B, C, *pixels), mass, meant to add up to the objective at the input minus
            that at the path's other end; how far it does is the gap.
        scores: (K + 1, B), the objective before the first step and after each. Paths that took
            fewer steps than the longest repeat their last.
        steps: (B,) int64, steps taken until every pixel had arrived.
        gap: (B,), sum of the attribution minus the change of the objective.
    """

    attribution: Tensor
    scores: Tensor
    steps: Tensor
    gap: Tensor


class SAMPDirections(NamedTuple):
    """What SAMP finds, by direction; ``None`` for one that was not asked for."""

    deletion: ManipulationPath | None
    insertion: ManipulationPath | None


def manipulate(
    images: Tensor,
    others: dict[str, Tensor],
    objective: Objective,
    examples: Tensor,
    search: Search,
    *,
    printed: bool,
    batch_size: int,
) -> SAMPDirections:
    """Follow the greedy paths of all images in all directions at once.

    Args:
        images: (B, C, *pixels).
        others: The other end of each wanted direction, ``"deletion"`` before ``"insertion"``.
        objective: What is explained.
        examples: (B,) int64: 0 to B - 1.
        search: How paths are searched.
        printed: Whether a step is weighed as the paper prints it, not by the trapezoidal rule.
        batch_size: Images per model call.

    Returns:
        One path per direction.

    Raises:
        ValueError: If a gradient is not finite.
    """
    pairs = [
        (images, other) if name == "deletion" else (other, images) for name, other in others.items()
    ]
    start, end = (torch.cat(ends) for ends in zip(*pairs, strict=True))
    signs = [-1 if name == "deletion" else 1 for name in others]
    sign = torch.tensor(signs, device=images.device).repeat_interleave(len(images))
    walk = Walk(objective, start, end, sign, search, printed=printed)
    (total,) = follow(
        (start,),
        walk.step,
        walk,
        examples.repeat(len(others)),
        method="riemann_trapezoid",
        batch_size=batch_size,
    )
    total = walk.printed.to(total) if printed else total
    total = total * sign.view(-1, *[1] * (total.dim() - 1))
    scores = walk.scores
    gap = total.flatten(1).sum(1) - (scores[-1] - scores[0]) * sign
    parts = (part.split(len(images)) for part in (total, scores.T, walk.steps, gap))
    found = {
        name: ManipulationPath(attribution, along.T, steps, short)
        for name, attribution, along, steps, short in zip(others, *parts, strict=True)
    }
    return SAMPDirections(found.get("deletion"), found.get("insertion"))


def paper_blur(images: Tensor) -> Tensor:
    """Blur as the paper does, but reflect the border, which zeros would pull to the mean."""
    return Blur(sigma=5.0, radius=15 if min(images.shape[2:]) >= 64 else 5)(images)


def unit_range(mass: Tensor) -> Tensor:
    """Bring maps (B, C, *pixels) to 0 to 1 in their sums over channels, which share the shift.

    Example:
        >>> unit_range(torch.tensor([[[1.0, 2.0, 3.0], [0.0, 1.0, 2.0]]])).sum(1)
        tensor([[0.0000, 0.5000, 1.0000]])
    """
    pixels = mass.sum(1).flatten(1)
    low, high = pixels.amin(1), pixels.amax(1)
    each = (-1, *[1] * (mass.dim() - 1))
    width = torch.where(high > low, high - low, torch.ones_like(high)).view(each)
    return (mass - low.view(each) / mass.shape[1]) / width
