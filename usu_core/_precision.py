"""Half precision in, at least single precision inside."""

import torch
from torch import Tensor


def wide(values: Tensor) -> Tensor:
    """Return values in at least single precision: half of it cannot hold the sums of an image."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
