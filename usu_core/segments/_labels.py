"""Label maps the caller already has, and the check that a hierarchy is nested."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from usu_core._precision import widest
from usu_core.segments._protocol import check_images
from usu_core.segments._reduce import relabel, segment_max


@dataclass(frozen=True, eq=False)
class GivenLabels:
    """Use label maps computed elsewhere: masks of a segmentation model, a ``feature_mask``.

    Args:
        levels: Integer label maps, coarsest first, each (*pixels) for every image or
            (B, *pixels). Labels may have gaps; finer levels must nest in coarser ones.

    Raises:
        TypeError: If the levels are one tensor, or a level is not an integer tensor.
        ValueError: If there is no level, or a level crosses a coarser one's border.

    Example:
        >>> segmenter = GivenLabels([torch.tensor([[7, 7, 9]])])
        >>> segmenter(torch.zeros(1, 3, 1, 3))[0]
        tensor([[[0, 0, 1]]])
    """

    levels: Sequence[Tensor]

    def __post_init__(self) -> None:
        """Check the levels once, when they are given."""
        if isinstance(self.levels, Tensor):
            raise TypeError(
                "levels must be a list of label maps, got one tensor. Try GivenLabels([labels])."
            )
        if not self.levels:
            raise ValueError("levels must hold at least one label map, got none.")
        for i, level in enumerate(self.levels):
            if not isinstance(level, Tensor) or level.is_floating_point() or level.is_complex():
                kind = level.dtype if isinstance(level, Tensor) else type(level).__name__
                raise TypeError(f"levels[{i}] must be an integer tensor, got {kind}.")

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the given levels for a batch, renumbered from 0."""
        check_images(images)
        batch, pixels = images.shape[0], tuple(images.shape[2:])
        result = []
        for i, level in enumerate(self.levels):
            if tuple(level.shape) not in {pixels, (batch, *pixels)}:
                raise ValueError(
                    f"levels[{i}] must have shape {pixels} or {(batch, *pixels)}, got "
                    f"{tuple(level.shape)}."
                )
            result.append(relabel(level.to(images.device).long().expand(batch, *pixels)))
        check_nested(result)
        return tuple(result)


def check_nested(levels: Sequence[Tensor]) -> None:
    """Raise ``ValueError`` unless each level's segments lie inside the level before's.

    Args:
        levels: Label maps (B, *pixels), labels from 0, coarsest first.
    """
    for depth, (coarse, fine) in enumerate(pairwise(levels), start=1):
        count = int(fine.max()) + 1
        parent = widest(coarse)
        high, low = segment_max(parent, fine, count), -segment_max(-parent, fine, count)
        crossing = (high > low).sum()
        if crossing:
            raise ValueError(
                f"levels[{depth}] must be nested in levels[{depth - 1}], got {int(crossing)} "
                "segments that cross its borders. Try giving the finest level alone."
            )


def nest(levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Make a hierarchy nested: each fine segment joins the coarse one it overlaps most.

    Borders of every level then follow the finest one. Ties go to the lower label, so the result
    is deterministic.

    Args:
        levels: Label maps (*pixels) of one image, coarsest first, int64, labels from 0.

    Returns:
        Label maps of the same shape, renumbered from 0.
    """
    nested = [torch.unique(levels[-1], return_inverse=True)[1]]
    for level in reversed(levels[:-1]):
        fine = nested[0].flatten()
        width = int(level.max()) + 1
        overlap = torch.bincount(
            fine * width + level.flatten(), minlength=width * int(fine.max() + 1)
        )
        parent = overlap.view(-1, width).argmax(1)
        nested.insert(0, torch.unique(parent[nested[0]], return_inverse=True)[1])
    return tuple(nested)
