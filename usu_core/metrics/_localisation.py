"""Agreement of a map with a known region."""

from collections.abc import Sequence

import torch
from torch import Tensor

from usu_core._checks import check_finite
from usu_core._precision import wide
from usu_core.metrics._evaluation import check_shares


def matched_area_iou(attribution: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union of the mask and as many top-ranked pixels as it has.

    Free of any threshold and of the map's scale. Pixels tied at the edge of the selection count
    in proportion, for any order among them would be an accident.

    Args:
        attribution: (B, *pixels).
        mask: (B, *pixels) bool, not empty.

    Returns:
        (B,), 0 to 1, higher is better.

    Raises:
        TypeError: If the mask is not bool.
        ValueError: If shapes differ, a mask is empty, or the map is not finite.

    Example:
        >>> mask = torch.tensor([[True, True, False, False]])
        >>> matched_area_iou(torch.tensor([[3.0, 0.0, 2.0, 1.0]]), mask)
        tensor([0.3333])
    """
    _check(attribution, mask)
    flat, inside = attribution.flatten(1), mask.flatten(1)
    area = inside.sum(1, keepdim=True)
    threshold = flat.sort(1, descending=True).values.gather(1, area - 1)
    above, tied = flat > threshold, flat == threshold
    share = (area - above.sum(1, keepdim=True)) / tied.sum(1, keepdim=True)
    shared = ((above + share * tied) * inside).sum(1)
    return shared / (2 * area.squeeze(1) - shared)


def threshold_iou(
    attribution: Tensor, mask: Tensor, thresholds: Sequence[float] = (0.25, 0.5, 0.75)
) -> Tensor:
    """Intersection over union of the mask and the pixels above shares of the map's largest value.

    Zhou et al., 2016 (CAM), draw boxes around the pixels above 0.2 of the largest value.

    Args:
        attribution: (B, *pixels).
        mask: (B, *pixels) bool, not empty.
        thresholds: Shares of the largest value, between 0 and 1; pixels at a threshold count.

    Returns:
        (B, len(thresholds)), 0 to 1, higher is better; 0 for a map without positive values, which
        selects nothing. A constant positive map selects every pixel.

    Raises:
        TypeError: If the mask is not bool.
        ValueError: If shapes differ, a mask is empty, the map is not finite, or a threshold does
            not fit.

    Example:
        >>> mask = torch.tensor([[True, True, False, False]])
        >>> threshold_iou(torch.tensor([[4.0, 1.0, 3.0, -9.0]]), mask, [0.2, 0.5, 0.9])
        tensor([[0.6667, 0.3333, 0.5000]])
    """
    _check(attribution, mask)
    check_shares("thresholds", tuple(thresholds))
    flat, inside = attribution.flatten(1), mask.flatten(1)
    top = flat.amax(1, keepdim=True)
    columns = []
    for threshold in thresholds:
        selected = (flat >= threshold * top) & (top > 0)
        columns.append((selected & inside).sum(1) / (selected | inside).sum(1))
    return torch.stack(columns, 1)


def concentration(attribution: Tensor, mask: Tensor) -> Tensor:
    """Share of the positive attribution that lies inside the mask.

    The energy-based pointing game of Wang et al., 2020 (Score-CAM).

    Args:
        attribution: (B, *pixels), density or mass.
        mask: (B, *pixels) bool, not empty.

    Returns:
        (B,), 0 to 1, higher is better; 0 for a map without positive values.

    Example:
        >>> mask = torch.tensor([[True, False, False]])
        >>> concentration(torch.tensor([[3.0, 1.0, -5.0]]), mask)
        tensor([0.7500])
    """
    _check(attribution, mask)
    positive = wide(attribution).clamp(min=0).flatten(1)
    total = positive.sum(1)
    return (positive * mask.flatten(1)).sum(1) / total.where(total > 0, 1.0)


def pointing_game(attribution: Tensor, mask: Tensor) -> Tensor:
    """Whether the largest value lies inside the mask (Zhang et al., 2018).

    Where several pixels share the largest value, the share of them inside: a flat map earns what
    chance would.

    Args:
        attribution: (B, *pixels).
        mask: (B, *pixels) bool, not empty.

    Returns:
        (B,), 0 to 1, higher is better.

    Example:
        >>> mask = torch.tensor([[True, False]])
        >>> pointing_game(torch.tensor([[1.0, 1.0]]), mask)
        tensor([0.5000])
    """
    _check(attribution, mask)
    flat = attribution.flatten(1)
    top = flat == flat.amax(1, keepdim=True)
    return (top & mask.flatten(1)).sum(1) / top.sum(1)


def _check(attribution: Tensor, mask: Tensor) -> None:
    if attribution.shape != mask.shape:
        raise ValueError(
            "attribution and mask must have the same shape, got "
            f"{tuple(attribution.shape)} and {tuple(mask.shape)}."
        )
    if mask.dtype != torch.bool:  # A mask of 0 and 255 would count each pixel 255 times.
        raise TypeError(f"mask must be a bool tensor, got {mask.dtype}. Try mask > 0.")
    if not bool(mask.flatten(1).any(1).all()):
        raise ValueError("mask must mark at least one pixel of every example, got an empty one.")
    check_finite("attribution", attribution)
