"""The library speaks numpy."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]


def as_array(values: Tensor) -> Array:
    """Return a tensor as numpy array; numpy has no bfloat16, and float16 sums overflow."""
    values = values.detach().cpu()
    half = values.dtype in (torch.float16, torch.bfloat16)
    result: Array = (values.float() if half else values).numpy()
    return result
