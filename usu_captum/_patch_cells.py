"""Coarse cells of perturbation attributions: the patches that were perturbed together."""

from math import ceil, prod
from typing import NamedTuple

import torch
from torch import Tensor

from usu_core import CellGrid


class PatchCells(NamedTuple):
    """The effects of patches, as cells of a grid.

    Attributes:
        effects: (1 or B, C, *cells), one value per patch.
        grid: Where the patches lie.
    """

    effects: Tensor
    grid: CellGrid


def mask_cells(values: Tensor, mask: Tensor) -> list[PatchCells]:
    """Read one value per patch of a feature mask.

    Captum writes the whole effect of a patch to each of its pixels, in every channel it covers.

    Args:
        values: Captum's result (B, C, *pixels).
        mask: Integer labels that broadcast to it.

    Returns:
        One entry for the whole batch if it has one mask, else one for each example.

    Raises:
        ValueError: If the mask differs between channels, or does not broadcast.
    """
    try:
        full = mask.to(values.device).broadcast_to(values.shape)
    except RuntimeError as error:
        raise ValueError(
            f"feature_mask must broadcast to shape {tuple(values.shape)}, got {tuple(mask.shape)}."
        ) from error
    if not torch.equal(full, full[:, :1].expand_as(full)):
        raise ValueError(
            "feature_mask must be the same in every channel to be redistributed over pixels, got "
            f"one that differs, of shape {tuple(mask.shape)}. Try feature_mask[:, :1]."
        )
    labels = full[:, 0]
    single = torch.equal(labels, labels[:1].expand_as(labels))
    groups = [(values, labels[0])] if single else zip(values.split(1), labels, strict=True)
    result = []
    for part, its_labels in groups:
        grid = _grid(its_labels)
        result.append(PatchCells(grid.max(part[:, :1]), grid))
    return result


def window_cells(
    values: Tensor, window: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[PatchCells, Tensor]:
    """Read one value per region that the same sliding windows cover.

    Windows that follow each other edge to edge are patches. Where windows overlap, Captum averages
    their effects at each pixel, and the regions between their edges are the cells.

    Args:
        values: Captum's result (B, C, *pixels).
        window: Shape of the window, channels first.
        stride: Its steps, likewise.

    Returns:
        The cells, and by what to multiply a value to get the cell's share of the windows' effects:
        1 for a patch, and the part of a window that the cell makes up where windows overlap.

    Raises:
        ValueError: If a window covers some, but neither one nor all, of the channels.
    """
    channels, *pixels = values.shape[1:]
    if window[0] not in (1, channels):
        raise ValueError(
            f"sliding_window_shapes must cover one channel or all {channels} to be redistributed "
            f"over pixels, got {window}."
        )
    read = values[:, :1] if window[0] == channels else values
    axes = [_edges(*axis) for axis in zip(pixels, window[1:], stride[1:], strict=True)]
    labels = torch.zeros(pixels, dtype=torch.long)
    for d, edges in enumerate(axes):
        position = torch.bucketize(torch.arange(pixels[d]), torch.tensor(edges[1:]), right=True)
        shape = [-1 if i == d else 1 for i in range(len(pixels))]
        labels = labels * (len(edges) - 1) + position.view(shape)
    grid = _grid(labels.to(values.device))
    overlap = any(s < w < n for n, w, s in zip(pixels, window[1:], stride[1:], strict=True))
    sizes = grid.sizes(values.device)
    share = sizes / prod(window[1:]) if overlap else torch.ones_like(sizes)
    return PatchCells(grid.max(read), grid), share


def _edges(pixels: int, window: int, stride: int) -> list[int]:
    """Where windows begin or end along an axis, as Captum places them; the last may be cut off."""
    starts = [i * stride for i in range(ceil((pixels - window) / stride) + 1)]
    ends = [min(start + window, pixels) for start in starts]
    return sorted({0, pixels, *starts, *ends})


def _grid(labels: Tensor) -> CellGrid:
    """Return the grid of a label map, as an even one where it is: that serves any upsampler."""
    _, dense = torch.unique(labels, return_inverse=True)
    # Whatever the labels are, cells are numbered as they come, row by row, as even ones are.
    places = torch.arange(dense.numel(), device=dense.device)
    first = places.new_full((int(dense.max()) + 1,), dense.numel())
    first.scatter_reduce_(0, dense.flatten(), places, "amin")
    dense = first.argsort().argsort()[dense]
    counts = []
    for d in range(labels.dim()):
        line = dense[tuple(slice(None) if i == d else 0 for i in range(labels.dim()))]
        counts.append(1 + int((line[1:] != line[:-1]).sum()))
    if prod(counts) == int(dense.max()) + 1:
        even = CellGrid.even(counts, labels.shape)
        if torch.equal(even.labels(labels.device), dense):
            return even
    return CellGrid.from_labels(dense)
