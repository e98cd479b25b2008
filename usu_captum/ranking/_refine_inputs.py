"""What refinement is given, checked and brought into one form."""

from collections.abc import Sequence

import torch
from torch import Tensor

from usu_captum._image_space import ImageSpace
from usu_captum.ranking._checks import check_maps, frozen
from usu_captum.ranking._masks import Grid
from usu_captum.ranking._references import reference_images
from usu_core._checks import check_count


def as_targets(target: int | Sequence[int] | Tensor, images: Tensor) -> Tensor:
    """Return targets as (B,) or (B, K) int64 on the images' device."""
    if isinstance(target, bool) or not isinstance(target, int | list | tuple | Tensor):
        raise TypeError(
            f"target must be a class or one per example, got {type(target).__name__}. "
            "Try target=model(images).argmax(1)."
        )
    try:
        chosen = torch.as_tensor(target, device=images.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"target must hold integers in rows of one length, got {target!r}: {error}"
        ) from error
    if chosen.is_floating_point() or chosen.is_complex() or chosen.dtype is torch.bool:
        raise TypeError(f"target must hold integers, got {chosen.dtype}. Try .long().")
    chosen = chosen.expand(len(images)) if chosen.numel() == 1 and chosen.dim() < 2 else chosen
    if chosen.dim() not in (1, 2) or len(chosen) != len(images):
        raise ValueError(
            f"target must be one class, or one row for each of {len(images)} images, got shape "
            f"{tuple(chosen.shape)}."
        )
    return chosen.long()


def stack_references(
    images: Tensor,
    references: str | Tensor | Sequence[str | Tensor],
    space: ImageSpace | None,
) -> Tensor:
    """Return all references of all images, (R, B, C, H, W)."""
    if isinstance(references, Tensor) and references.dim() == 5:
        return references.to(images.device)
    if not isinstance(references, str | Tensor | Sequence):
        raise TypeError(
            f"references must be names or tensors, got {type(references).__name__}. Try ('blur',)."
        )
    every = [references] if isinstance(references, str | Tensor) else list(references)
    if not every:
        raise ValueError("references must name at least one, got none. Try ('blur',).")
    return torch.stack([reference_images(images, one, space) for one in every])


def starting_maps(images: Tensor, maps: Tensor | None) -> Tensor:
    """Return a copy of the maps to start from, (B, 1, H, W), zero if there are none."""
    dtype = torch.promote_types(images.dtype, torch.float32)
    if maps is None:
        return torch.zeros_like(images[:, :1], dtype=dtype)
    check_maps(maps, images)
    return maps.detach().to(images.device, dtype, copy=True)


def cut_grids(name: str, grids: Sequence[Grid], images: Tensor) -> list[Grid]:
    """Return grids that are at most as fine as the images."""
    every = frozen(name, grids, "(14,)")
    if not every:
        raise ValueError(f"{name} must hold at least one grid, got none. Try (14,).")
    height, width = images.shape[2:]
    pairs = [grid if isinstance(grid, tuple | list) else (grid, grid) for grid in every]
    for pair in pairs:
        if len(pair) != 2:
            raise ValueError(f"{name} must hold G or (rows, columns), got {tuple(pair)}.")
        for side in pair:
            check_count(name, side)
    return [(min(rows, height), min(columns, width)) for rows, columns in pairs]
