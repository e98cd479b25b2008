"""How much a map changes when the image hardly does."""

from collections.abc import Callable

import torch
from torch import Tensor

from usu_core._checks import (
    check_count,
    check_finite,
    check_float_tensor,
    check_positive,
    check_tensor,
)


def max_sensitivity(
    attribute: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
) -> Tensor:
    """Return the largest relative change of a map within a small box around the image.

    Yeh et al., 2019 (Equation 3), over the norm of the image's own map::

        max_d |attribute(x + d) - attribute(x)| / |attribute(x)|,   |d| at most radius per value

    The maximum is over random ``d``, so it is a lower bound that grows with ``samples``. Lower is
    better, but a map that ignores the image scores 0.

    Args:
        attribute: Images (B, C, *pixels) to maps (B, ...), one per example. It is called once per
            sample with the whole batch, with gradients as the caller has set them.
        images: (B, C, *pixels).
        radius: Half the side of the box, in the images' units.
        samples: Random changes, the same for all examples.
        seed: Seed of the changes; they do not depend on the device.

    Returns:
        (B,) float64, 0 or above, free of the map's scale; 0 for maps that do not change. Where
        the image's own map is zero the change is not divided.

    Raises:
        TypeError: If images are not floating point or ``attribute`` returns no tensor.
        ValueError: If a map is not finite or has no axis per example.

    Cost:
        ``samples + 1`` calls of ``attribute`` with ``B`` images each.

    Example:
        >>> images = torch.ones(1, 1, 4)
        >>> max_sensitivity(lambda x: torch.ones_like(x), images)
        tensor([0.], dtype=torch.float64)
    """
    check_float_tensor("images", images)
    check_positive("radius", radius)
    check_count("samples", samples)
    generator = torch.Generator().manual_seed(seed)
    own = _map_of(attribute, images)
    largest: Tensor = own.new_zeros(len(images))
    for _ in range(samples):
        draw = 2 * torch.rand(images.shape[1:], generator=generator) - 1
        change = _map_of(attribute, images + (radius * draw).to(images)) - own
        largest = torch.maximum(largest, change.norm(dim=1))
    norm: Tensor = own.norm(dim=1)
    return largest / norm.where(norm > 0, 1.0)


def _map_of(attribute: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the maps as (B, N) float64, detached."""
    found = check_tensor("attribute(images)", attribute(images)).detach()
    if found.dim() < 1 or len(found) != len(images):
        raise ValueError(
            f"attribute must return one map per example, got shape {tuple(found.shape)} for "
            f"{len(images)} images."
        )
    check_finite("attribute(images)", found)
    return found.double().flatten(1) if found.dim() > 1 else found.double()[:, None]
