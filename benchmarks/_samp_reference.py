"""SAMP++ as its authors describe their code: one direction at a time, by quantiles.

Written from the description in this project's notes, to be measured against: each direction is a
loop of its own, pixels are chosen by the quantile of the projections, images that are close to
the end leave the batch, and a step weighs the smoothed gradient where it starts.
"""

import torch
from torch import Tensor, nn

TOLERANCE = 0.0
"""Added to the quantile. The authors add 1e-6, which lets pixels of small gradient tie."""


def samp_plus_plus(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    blurred: Tensor,
    *,
    pixels_per_step: int,
    step_bound: float = 0.1,
    momentum: float = 0.5,
) -> Tensor:
    """Return the sum of both directions' maps, (B, H, W)."""
    share = pixels_per_step / images[0, 0].numel()
    settings = (share, step_bound, momentum)
    deletion = _direction(model, images, torch.zeros_like(images), targets, *settings, rises=False)
    insertion = _direction(model, blurred, images, targets, *settings, rises=True)
    return insertion - deletion


def _direction(
    model: nn.Module,
    start: Tensor,
    end: Tensor,
    targets: Tensor,
    share: float,
    step_bound: float,
    momentum: float,
    *,
    rises: bool,
) -> Tensor:
    current, attribution = start.clone(), torch.zeros_like(start[:, 0])
    bound = (end - start).abs().sum((1, 2, 3)) * step_bound
    smoothed = torch.zeros_like(start)
    left = torch.arange(len(start))
    first = True
    while len(left):
        points = current[left].requires_grad_()
        chosen = model(points).gather(1, targets[left, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, points)
        old = gradient if first else smoothed[left]
        gradient = momentum * old + (1 - momentum) * gradient
        smoothed[left], first = gradient, False
        way = end[left] - current[left]
        projection = (gradient * way).sum(1)
        arrived = (way == 0).all(1)
        if rises:
            projection = projection.masked_fill(arrived, -torch.inf)
            threshold = _quantile(projection, 1 - share, "higher")
            selected = (projection >= threshold - TOLERANCE) & ~arrived
        else:
            projection = projection.masked_fill(arrived, torch.inf)
            threshold = _quantile(projection, share, "lower")
            selected = (projection <= threshold + TOLERANCE) & ~arrived
        step = way * selected[:, None]
        length = step.abs().sum((1, 2, 3))
        scale = torch.where(length > bound[left], bound[left] / length, torch.ones_like(length))
        step = step * scale[:, None, None, None]
        attribution[left] += (gradient * step).sum(1)
        current[left] = torch.where(
            selected[:, None] & (scale == 1)[:, None, None, None], end[left], current[left] + step
        )
        close = torch.isclose(current, end).flatten(1).all(1)
        left = left[~close[left]]
    return attribution


def _quantile(values: Tensor, share: float, rounding: str) -> Tensor:
    flat = values.flatten(1)
    # A rounded share must not move the rank by one, which would change the work.
    place = share * (flat.shape[1] - 1)
    share = min(max(share + (1e-9 if rounding == "lower" else -1e-9), 0.0), 1.0) if place else share
    return torch.quantile(flat.double(), share, dim=1, interpolation=rounding)[:, None, None]
