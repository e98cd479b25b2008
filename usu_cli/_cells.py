"""The coarse map of a layer, before anything upsamples it."""

from typing import Any

from torch import Tensor

from usu_core.scoring import ModelScore


def coarse_map(method: Any, inputs: Tensor, **arguments: Any) -> Tensor:
    """Return what a layer attribution of ``usu_captum`` gives for one image, (1, 1, h, w).

    Args:
        method: The attribution.
        inputs: The image, (1, C, H, W).
        arguments: Passed on.

    Raises:
        ValueError: If the layer has several outputs.
    """
    cells = method.attribute(inputs, upsampler=_keep_cells, **arguments)
    if not isinstance(cells, Tensor):
        raise ValueError(f"layer must have a single output, got {len(cells)}.")
    return cells.detach()


def _keep_cells(cells: Tensor, *, image: Tensor, score: ModelScore) -> Tensor:
    """Upsample nothing: a transformer's tokens come back as a grid only to an upsampler."""
    return cells
