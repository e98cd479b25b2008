"""Correlation of two rows of numbers, per example."""

import torch
from torch import Tensor

from usu_core._checks import check_finite
from usu_core._ranks import doubled_ranks


def pearson(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation per example, (B, N) twice to (B,); 0 where either row is constant.

    Example:
        >>> rows = torch.tensor([[1.0, 2.0, 4.0]]).double()
        >>> pearson(rows, 3 - 2 * rows).round(decimals=6)
        tensor([-1.], dtype=torch.float64)
    """
    a = first - first.mean(1, keepdim=True)
    b = second - second.mean(1, keepdim=True)
    lengths = a.norm(dim=1), b.norm(dim=1)
    # Sums of equal numbers differ by rounding alone: that is not variation.
    noise = torch.finfo(a.dtype).eps ** 0.75
    varied = (lengths[0] > noise * first.norm(dim=1)) & (lengths[1] > noise * second.norm(dim=1))
    norm = (lengths[0] * lengths[1]).where(varied, 1.0)
    return torch.where(varied & (norm > 0), (a * b).sum(1) / norm.where(norm > 0, 1.0), 0.0)


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Spearman rank correlation per example; equal values share their mean rank.

    Args:
        first: (B, ...), such as maps (B, H, W).
        second: As ``first``.

    Returns:
        (B,) float64, -1 to 1; 0 where either is constant.

    Raises:
        ValueError: If shapes differ or a value is not finite.

    Cost:
        ``O(N log N)`` per example, no model evaluation.

    Example:
        >>> maps = torch.tensor([[1.0, 2.0, 9.0]])
        >>> spearman(maps, maps.exp()).round(decimals=6)
        tensor([1.], dtype=torch.float64)
    """
    if first.shape != second.shape:
        raise ValueError(
            "first and second must have the same shape, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    check_finite("first", first)
    check_finite("second", second)
    return pearson(mean_ranks(first.flatten(1)), mean_ranks(second.flatten(1)))


def mean_ranks(values: Tensor) -> Tensor:
    """Rank (B, N) upwards from 0, in float64; equal values share their mean rank."""
    return (doubled_ranks(values) - 1).double() / 2
