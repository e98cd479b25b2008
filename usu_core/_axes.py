"""One axis of a separable grid of cells."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """One axis of a separable grid: cell ``i`` owns pixels ``starts[i]`` to ``starts[i + 1]``."""

    starts: tuple[int, ...]
    pixels: int

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in pairwise(self.starts))

    @property
    def widest(self) -> int:
        return max(1, *self.counts)

    @property
    def uniform(self) -> bool:
        """Whether every cell has the same width and the cells cover the axis."""
        width, rest = divmod(self.pixels, len(self.starts) - 1)
        return rest == 0 and self.starts == tuple(range(0, self.pixels + 1, width))


@lru_cache(maxsize=256)
def axis_labels(axis: Axis) -> tuple[int, ...]:
    """Cell number of each pixel along an axis, -1 outside."""
    inside = [i for i, count in enumerate(axis.counts) for _ in range(count)]
    return (-1,) * axis.starts[0] + tuple(inside) + (-1,) * (axis.pixels - axis.starts[-1])


@lru_cache(maxsize=256)
def axis_positions(axis: Axis) -> tuple[int, ...]:
    """Position of each pixel among the padded cells of an axis, -1 outside."""
    return tuple(
        -1 if cell < 0 else cell * axis.widest + pixel - axis.starts[cell]
        for pixel, cell in enumerate(axis_labels(axis))
    )


def take(
    values: Tensor,
    dim: int,
    axis: Axis,
    index_of: Callable[[Axis], tuple[int, ...]],
) -> Tensor:
    """Select along ``dim`` by an axis index whose -1 entries stand for zero."""
    index = torch.tensor(index_of(axis), device=values.device)
    result = values.index_select(dim, index.clamp(min=0))
    if axis.starts[0] == 0 and axis.starts[-1] == axis.pixels:
        return result
    inside = (index >= 0).view(-1, *[1] * (-dim - 1))
    return result * inside
