"""How well a map finds a shape, and what its figures add up to over images."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from benchmarks._common import short
from benchmarks._statistics import paired, signed_rank
from usu_core import metrics

MEASURES: Final = {
    "best_iou": "intersection over union at the cut of the map that suits it best",
    "matched_iou": "the same of as many top pixels as the shape has",
    "half_iou": "the same of the pixels above half of the largest",
    "concentration": "share of the positive map inside the shape",
    "pointing": "whether the largest pixel lies inside; ties by their share",
    "near": "the same with the tolerance of Zhang et al. (2018), 15 pixels around the shape",
}
TOLERANCE: Final = 15


def best_iou(attribution: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union of the mask and the pixels above a cut, at the best of all cuts.

    Args:
        attribution: (B, *pixels).
        mask: (B, *pixels) bool, not empty.

    Returns:
        (B,), 0 to 1; tied pixels fall on the same side of every cut.

    Example:
        >>> mask = torch.tensor([[True, True, False, False]])
        >>> best_iou(torch.tensor([[4.0, 2.0, 2.0, 1.0]]), mask)
        tensor([0.6667])
    """
    values, order = attribution.flatten(1).sort(1, descending=True)
    inside = mask.flatten(1).gather(1, order)
    shared = inside.cumsum(1)
    taken = torch.arange(1, values.shape[1] + 1, device=values.device)
    ratio = shared / (taken + shared[:, -1:] - shared)
    last_of_ties = torch.ones_like(inside)
    last_of_ties[:, :-1] = values[:, 1:] != values[:, :-1]
    return ratio.where(last_of_ties, 0.0).amax(1)


def grown(mask: Tensor, pixels: float) -> Tensor:
    """Return a mask (H, W) and everything within a distance of it."""
    return torch.from_numpy(distance_transform_edt(~mask.numpy()) <= pixels)


def measure(maps: dict[str, Tensor], mask: Tensor) -> dict[str, list[float]]:
    """Return the figures, in the order of ``MEASURES``, of each map (1, H, W) against (H, W)."""
    stacked = torch.cat(list(maps.values()))
    truth = mask.expand_as(stacked)
    columns = (
        best_iou(stacked, truth),
        metrics.matched_area_iou(stacked, truth),
        metrics.threshold_iou(stacked, truth, (0.5,))[:, 0],
        metrics.concentration(stacked, truth),
        metrics.pointing_game(stacked, truth),
        metrics.pointing_game(stacked, grown(mask, TOLERANCE).expand_as(stacked)),
    )
    rows = torch.stack([column.double() for column in columns], 1).tolist()
    return {name: [round(value, 6) for value in row] for name, row in zip(maps, rows, strict=True)}


def summarise(images: Sequence[dict[str, list[float]]]) -> dict[str, dict[str, Any]]:
    """Return each map's means with standard errors, and its paired comparison with bilinear.

    Args:
        images: What :func:`measure` returned, one per image.
    """
    values = {name: np.array([image[name] for image in images]) for name in images[0]}
    return {
        name: {
            measured: _summary(found[:, place])
            | (
                {}
                if name == "bilinear"
                else {"against bilinear": _paired((found - values["bilinear"])[:, place])}
            )
            for place, measured in enumerate(MEASURES)
        }
        for name, found in values.items()
    }


def _summary(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": short(values.mean(), 4), "error": short(error, 4)}


def _paired(difference: np.ndarray[Any, Any]) -> dict[str, float]:
    """Compare as everywhere; a constant difference has no bootstrap interval but itself."""
    if np.ptp(difference) > 1e-9 or not difference.any():
        found = paired(difference, higher_is_better=True)
    else:
        value = float(difference[0])
        found = {"gain": value, "low": value, "high": value, "p": signed_rank(difference)}
    return {key: short(found[key], 4) for key in ("gain", "low", "high", "p")}
