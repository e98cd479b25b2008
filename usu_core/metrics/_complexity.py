"""How few pixels carry a map: sparseness and complexity. No model is asked."""

from math import log

import torch
from torch import Tensor

from usu_core._checks import check_finite, check_float_tensor


def sparseness(attribution: Tensor) -> Tensor:
    """Gini index of the absolute attribution (Chalasani et al., 2020); higher is sparser.

    Args:
        attribution: (B, *pixels), density or mass.

    Returns:
        (B,) float64, 0 for maps of constant size (zero maps too) to ``1 - 1 / P`` for one of ``P``
        pixels.

    Raises:
        TypeError: If the map is not floating point.
        ValueError: If it is not finite.

    Cost:
        ``O(P log P)``, no model evaluation.

    Example:
        >>> sparseness(torch.tensor([[0.0, 0.0, 0.0, -2.0], [1.0, 1.0, 1.0, 1.0]]))
        tensor([0.7500, 0.0000], dtype=torch.float64)
    """
    share = _shares(attribution).sort(1).values
    P = share.shape[1]
    weight = torch.arange(1 - P, P, 2, device=share.device, dtype=share.dtype) / P
    return (share * weight).sum(1).clamp(min=0)


def complexity(attribution: Tensor) -> Tensor:
    """Entropy of the absolute attribution's shares (Bhatt et al., 2020); lower is simpler.

    Args:
        attribution: (B, *pixels), density or mass.

    Returns:
        (B,) float64 in nats, 0 for one pixel to ``log P`` for maps of constant size (zero maps
        too).

    Raises:
        TypeError: If the map is not floating point.
        ValueError: If it is not finite.

    Cost:
        ``O(P)``, no model evaluation.

    Example:
        >>> complexity(torch.tensor([[0.0, 3.0], [1.0, -1.0]]))
        tensor([0.0000, 0.6931], dtype=torch.float64)
    """
    share = _shares(attribution)
    # The entropy of rounded shares may leave its range by an ulp.
    entropy: Tensor = torch.special.entr(share).sum(1)
    return entropy.clamp(0, log(share.shape[1]))


def _shares(attribution: Tensor) -> Tensor:
    """Return each pixel's share of the absolute attribution, (B, P); even for a zero map."""
    check_float_tensor("attribution", attribution)
    if attribution.dim() < 2 or attribution.numel() == 0:
        raise ValueError(
            "attribution must have shape (B, *pixels), none of them 0, got "
            f"{tuple(attribution.shape)}."
        )
    check_finite("attribution", attribution)
    size = attribution.double().abs().flatten(1)
    top = size.amax(1, keepdim=True)
    size = (size / top.where(top > 0, 1.0)).where(top > 0, 1.0)
    return size / size.sum(1, keepdim=True)
