"""Per-segment sums, means and maxima of a batch, and the way back to pixels."""

import torch
from torch import Tensor

from usu_core._precision import wide


def segment_counts(labels: Tensor, count: int) -> Tensor:
    """Count the pixels of each segment: labels (B, *pixels) to (B, count), int64."""
    flat = labels.flatten(1)
    return flat.new_zeros(len(labels), count).scatter_add_(1, flat, torch.ones_like(flat))


def segment_sum(values: Tensor, labels: Tensor, count: int) -> Tensor:
    """Add ``values`` up per segment.

    Args:
        values: (B, *pixels), floating point.
        labels: (B, *pixels), int64, from 0 to ``count - 1``.
        count: Number of segments, the largest of the batch.

    Returns:
        (B, count); 0 for labels an image does not have.

    Example:
        >>> segment_sum(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0, 0, 1]]), 3)
        tensor([[3., 4., 0.]])
    """
    flat = labels.flatten(1)
    return values.new_zeros(len(labels), count).scatter_add(1, flat, values.flatten(1))


def segment_mean(values: Tensor, labels: Tensor, count: int) -> Tensor:
    """Average ``values`` per segment; as :func:`segment_sum`."""
    total = segment_sum(wide(values), labels, count)
    return (total / segment_counts(labels, count).clamp(min=1)).to(values.dtype)


def segment_max(values: Tensor, labels: Tensor, count: int) -> Tensor:
    """Take the largest of ``values`` per segment; -inf for labels an image does not have."""
    low = values.new_full((len(labels), count), -torch.inf)
    return low.scatter_reduce(1, labels.flatten(1), values.flatten(1), "amax")


def segment_expand(per_segment: Tensor, labels: Tensor) -> Tensor:
    """Give every pixel its segment's value: (B, count) and (B, *pixels) to (B, *pixels)."""
    return per_segment.gather(1, labels.flatten(1)).view_as(labels)


def relabel(labels: Tensor) -> Tensor:
    """Renumber each image's labels from 0 without gaps, keeping their order."""
    rows = [torch.unique(row, return_inverse=True)[1] for row in labels]
    return torch.stack(rows)
