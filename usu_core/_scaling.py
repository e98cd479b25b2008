"""Bring maps into [0, 1] for display, and for tools that insist on it."""

import math

import torch
from torch import Tensor

from usu_core._checks import check_choice, check_finite, check_float_tensor
from usu_core._precision import wide

SCALINGS = ("robust", "min-max")


def scale_to_unit(
    attribution: Tensor,
    mode: str = "robust",
    *,
    quantile: float = 0.99,
    shoulder: float = 0.8,
) -> Tensor:
    """Scale each map of a batch to [0, 1].

    Redistributed maps have narrow peaks. Divided by its largest value, such a map shows that peak
    on black. ``"robust"`` gives the highest percent of the pixels the upper fifth of the scale and
    everything else the rest. With ``c`` the ``quantile`` of the positive values, ``m`` the largest
    and ``s`` the ``shoulder``::

        x / m                              if c ≥ s · m: nothing dominates
        s · x / c                          else, for x ≤ c
        s + (1 - s) · (x - c) / (m - c)    else, for x > c

    It is continuous and increasing, so pixels keep their order; 0 stays 0 and the largest value
    becomes 1; scaling twice, or scaling a multiple, changes nothing. Negative values become 0.

    ``"min-max"`` is (x - min) / (max - min), which moves 0 where there are negative values.

    Args:
        attribution: Density or mass, floating point, finite.
        mode: ``"robust"`` or ``"min-max"``.
        quantile: Share of the positive pixels below the bend, above 0 and below 1.
        shoulder: Value of the bend, above 0 and below 1.

    Shape:
        attribution (B, *pixels); returns (B, *pixels).

    Returns:
        Values from 0 to 1, float64 for float64 and float32 otherwise. Sums mean nothing any more.
        A map without positive values (``"min-max"``: a constant map) becomes 0.

    Raises:
        TypeError: If ``attribution`` is not a floating-point tensor.
        ValueError: If it is not finite, the mode is unknown, or a share is not between 0 and 1.

    Cost:
        One selection of the k-th value per map; deterministic.

    Example:
        >>> scale_to_unit(torch.tensor([[0.0, 1.0, 2.0, 100.0]]), quantile=0.5)
        tensor([[0.0000, 0.4000, 0.8000, 1.0000]])
        >>> scale_to_unit(torch.tensor([[0.0, 1.0, 2.0, 100.0]]), "min-max")
        tensor([[0.0000, 0.0100, 0.0200, 1.0000]])
    """
    check_choice("mode", mode, SCALINGS)
    for name, share in (("quantile", quantile), ("shoulder", shoulder)):
        if not 0 < share < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {share}.")
    check_float_tensor("attribution", attribution)
    if attribution.dim() < 2:
        raise ValueError(
            f"attribution must have shape (batch, pixels), got {tuple(attribution.shape)}. "
            "Try attribution[None]."
        )
    check_finite("attribution", attribution)
    values = wide(attribution)
    if values.numel() == 0:
        return values
    if mode == "min-max":
        ones = (1,) * (values.dim() - 1)
        # Halved, because the distance of two finite numbers may not be finite.
        low = values.flatten(1).amin(1).view(-1, *ones) / 2
        reach = values.flatten(1).amax(1).view(-1, *ones) / 2 - low
        return ((values / 2 - low) / reach.where(reach > 0, 1.0)).clamp(0, 1)
    return torch.stack([_bend(image, quantile, shoulder) for image in values.clamp(min=0)])


def _bend(values: Tensor, quantile: float, shoulder: float) -> Tensor:
    """Scale one non-negative map."""
    positive = values[values > 0]
    if positive.numel() == 0:
        return values
    top = positive.amax()
    knee = positive.kthvalue(math.ceil(quantile * positive.numel())).values
    if knee >= shoulder * top:
        return values / top
    above = shoulder + (1 - shoulder) * (values - knee) / (top - knee)
    # Dividing first: the inverse of a subnormal number would be infinite.
    return torch.where(values <= knee, values / knee * shoulder, above).clamp(max=1.0)
