"""Where modules are."""

from collections.abc import Iterable
from itertools import chain

import torch
from torch import nn

_CPU = torch.device("cpu")


def device_of(modules: Iterable[nn.Module], otherwise: torch.device = _CPU) -> torch.device:
    """Return where the first weight or buffer of the modules is, ``otherwise`` without any.

    Example:
        >>> device_of([nn.ReLU(), nn.Linear(2, 1, device="meta")])
        device(type='meta')
        >>> device_of([nn.ReLU()])
        device(type='cpu')
    """
    tensors = (tensor for m in modules for tensor in chain(m.parameters(), m.buffers()))
    first = next(tensors, None)
    return otherwise if first is None else first.device
