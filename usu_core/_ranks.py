"""Ranks in which equal values share a place."""

import torch
from torch import Tensor


def doubled_ranks(values: Tensor) -> Tensor:
    """Count the values of its row (B, N) below each one, plus those not above it: int64 (B, N).

    Half of it is a rank, counted upwards from a half for the lowest, and equal values share their
    mean. Whole numbers are exact on every device.
    """
    values = values.contiguous()
    ordered = values.sort(1).values
    return torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)
