"""Fingerprints of weights, to tell models of one architecture apart."""

import hashlib

import torch
from torch import nn


def weights_digest(module: nn.Module) -> str:
    """Return a SHA-256 digest of a module's parameters and buffers, names and types included.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> before = weights_digest(net)
        >>> _ = net.bias.data.add_(1)
        >>> before == weights_digest(net)
        False
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
