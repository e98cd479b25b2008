"""Half precision in, at least single precision inside."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def wide(values: Tensor) -> Tensor:
    """Return values in at least single precision: half of it cannot hold the sums of an image."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def widest(values: Tensor) -> Tensor:
    """Return values in double precision, or in single where the device has no double."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def exact(values: Tensor) -> AbstractContextManager[object]:
    """Keep autocast from rounding products of matrices on the device of ``values``."""
    kind = values.device.type
    # Not every device has an autocast to switch off.
    known = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if known else nullcontext()
