"""Greedy paths that turn one image into another, the most effective pixels first."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from usu_captum.paths._engine import Points
from usu_captum.paths._objective import Objective
from usu_core._checks import check_count, check_number
from usu_core._precision import wide


@dataclass(frozen=True)
class Search:
    """How a greedy path is searched.

    Args:
        pixels_per_step: Pixels moved per step. ``None`` goes by the size of the image; see
            :meth:`pixels`.
        step_bound: The longest step as a share of the path's length, both in the L1 norm: more
            than 0 and at most 1. ``None`` is no bound.
        momentum: The share of the previous gradient in the one that selects, from 0 to below 1.

    Raises:
        TypeError: If ``pixels_per_step`` is no integer or another number is no number.
        ValueError: If a number is out of its range.
    """

    pixels_per_step: int | None
    step_bound: float | None
    momentum: float

    def __post_init__(self) -> None:
        """Check the numbers once, when they are given."""
        if self.pixels_per_step is not None:
            check_count("pixels_per_step", self.pixels_per_step)
        for name in ("step_bound", "momentum"):
            value = getattr(self, name)
            if name != "step_bound" or value is not None:
                check_number(name, value)
        if self.step_bound is not None and not 0 < self.step_bound <= 1:
            raise ValueError(
                "step_bound must be a share of the path's length, above 0 and at most 1, got "
                f"{self.step_bound}. Try None for no bound."
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {self.momentum}.")

    def pixels(self, count: int) -> int:
        """Return the pixels moved per step in an image of ``count``.

        The default follows the paper at the sizes it names: 10 of 28 x 28 or 32 x 32, and
        224 · 16 of 224 x 224. Between, it grows with the cube of the side. It is never more than
        a fourteenth of the image, which is the paper's largest share.

        Example:
            >>> search = Search(None, None, 0.0)
            >>> [search.pixels(side * side) for side in (4, 28, 32, 96, 224, 448)]
            [2, 10, 10, 282, 3584, 14336]
        """
        if self.pixels_per_step is not None:
            return min(self.pixels_per_step, count)
        return min(math.ceil(count / 14), max(10, round(math.sqrt(count) ** 3 / 3136)))


class Walk:
    """Greedy walks, one per row, as the engine follows them.

    Rows that have arrived take part in no further model call.

    Args:
        objective: What the walks raise or lower.
        start: (R, C, *pixels), finite.
        end: As ``start``.
        sign: (R,), 1 for rows that look for the largest rise of the objective and -1 for those
            that look for the largest fall.
        search: How.
        printed: Whether to keep the attribution as the paper prints it.

    Attributes:
        steps: (R,) int64, steps taken by each.
        printed: As ``start``, the attribution as the paper prints it: the gradient that selects,
            where a step starts, times the step.
    """

    def __init__(
        self,
        objective: Objective,
        start: Tensor,
        end: Tensor,
        sign: Tensor,
        search: Search,
        *,
        printed: bool,
    ) -> None:
        self._objective, self._search = objective, search
        self._end, self._sign = end, sign.view(-1, 1)
        self._wide = torch.promote_types(start.dtype, torch.float32)
        pixels = start[0, 0].numel()
        self._size = search.pixels(pixels)
        share = search.step_bound
        length = (end - start).abs().flatten(1).sum(1, dtype=self._wide)
        self._bound = None if share is None else share * length
        # Each clipped step covers the bound but for rounding, which alone could go on for ever.
        self._clipped_steps = (0 if share is None else math.ceil(1 / share)) - (
            -pixels // self._size
        )
        self._selecting = torch.zeros_like(start)
        self._moving: Tensor | None = None
        # Rows are doubled when they run out: a list of small tensors would fragment memory.
        self._scores = torch.empty(0)
        self._points = 0
        self.steps = torch.zeros(len(start), dtype=torch.long, device=start.device)
        self._keeps_printed = printed
        self.printed = torch.zeros_like(start, dtype=self._wide)

    @property
    def scores(self) -> Tensor:
        """The objective at every point so far, (K + 1, R)."""
        return self._scores[: self._points]

    def gradients(self, points: Points, example: Tensor, chunk: int) -> Points:
        """Evaluate the rows that have just moved; the others' gradients are zero."""
        rows = self._moving
        if rows is None or len(rows) == len(example):
            values, found = self._objective.values_and_gradients(points, example, chunk)
        else:
            moved = tuple(p[rows] for p in points)
            part, parts = self._objective.values_and_gradients(moved, example[rows], chunk)
            values = self._scores[self._points - 1].index_copy(0, rows, part)
            found = tuple(
                torch.zeros_like(p).index_copy(0, rows, g)
                for p, g in zip(points, parts, strict=True)
            )
        if not self._points:
            self._scores = values.new_empty(64, len(values))
        elif self._points == len(self._scores):
            self._scores = torch.cat((self._scores, torch.empty_like(self._scores)))
        self._scores[self._points] = values
        self._points += 1
        return found

    def step(self, number: int, points: Points, gradients: Points) -> Points | None:
        """Move the pixels with the largest projections of the gradient, or stop.

        Algorithm 1 of Zhang et al., 2024; a pixel moves in all its channels.
        """
        (here,), (gradient,) = points, gradients
        momentum = self._search.momentum if number else 0.0
        self._selecting = self._selecting.lerp(gradient, 1 - momentum)
        pending = (here != self._end).any(1).flatten(1)
        active = pending.any(1)
        self._moving = active.nonzero().flatten()  # the one wait for the device per step
        if not len(self._moving):
            return None
        left = self._end - here
        projection = (self._selecting * left).sum(1, dtype=self._wide).flatten(1) * self._sign
        # Infinite projections must stay above the pixels that have arrived, or nothing moves.
        projection = projection.nan_to_num().masked_fill(~pending, -math.inf)
        chosen = projection.topk(self._size, dim=1, sorted=False).indices
        picked = torch.zeros_like(pending).scatter_(1, chosen, True)
        picked = picked.view(len(here), 1, *here.shape[2:])
        reached = torch.where(picked, self._end, here)
        if self._bound is not None and number < self._clipped_steps:
            move = left * picked
            length = move.abs().flatten(1).sum(1, dtype=self._wide)
            each = (-1, *[1] * (here.dim() - 1))
            share = (self._bound / length).to(here).view(each)
            reached = torch.where((length > self._bound).view(each), here + share * move, reached)
        self.steps += active
        if self._keeps_printed:
            self.printed.add_(wide(self._selecting) * (wide(reached) - wide(here)))
        return (reached,)
