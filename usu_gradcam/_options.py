"""What the user may choose, checked once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isclose, isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from usu_core import AnyUpsampler, CellGrid, Interpolation, resolve, scale_to_unit

Scaling = str | Callable[[Tensor], Tensor]
"""``"robust"``, ``"min-max"``, or a function from maps (B, *pixels) to maps in [0, 1]."""

_SCALINGS = ("robust", "min-max")


@dataclass(frozen=True)
class Options:
    """How coarse maps become fine ones.

    Attributes:
        upsampler: A resolved upsampler, or ``None`` for the library's own resizing.
        scaling: Brings fine maps into [0, 1]; ``None`` is robust for redistributed maps and the
            library's min-max for interpolated ones.
        raw: Whether to return signed density or mass instead.
        box: Where the cells lie in the image; evenly over all of it if ``None``.

    Example:
        >>> Options.make("usu").follows_library
        False
        >>> Options.make("bilinear").follows_library
        True
    """

    upsampler: AnyUpsampler | None
    scaling: Scaling | None = None
    raw: bool = False
    box: tuple[float, ...] | None = None

    @classmethod
    def make(
        cls,
        upsampler: str | AnyUpsampler | None,
        scaling: Scaling | None = None,
        raw: bool = False,
        box: Sequence[float] | None = None,
    ) -> "Options":
        """Check the user's choices and resolve names.

        Raises:
            TypeError: If an option has the wrong type.
            ValueError: If a name is unknown, or two options exclude each other.
        """
        if scaling is not None and not callable(scaling) and scaling not in _SCALINGS:
            raise ValueError(
                f"scaling must be one of {', '.join(_SCALINGS)}, or a function from maps to maps "
                f"in [0, 1], got {scaling!r}."
            )
        if not isinstance(raw, bool):
            raise TypeError(f"raw must be True or False, got {raw!r}.")
        if raw and scaling is not None:
            raise ValueError(
                f"scaling must be None with raw=True, got {scaling!r}: raw maps keep their units. "
                "Try usu_core.scale_to_unit on the result."
            )
        if upsampler is None:
            wanted = {"raw": raw, "scaling": scaling is not None, "box": box is not None}
            for name in (name for name, given in wanted.items() if given):
                raise ValueError(
                    f"upsampler must be given for {name}=, got None, which leaves everything to "
                    "pytorch-grad-cam. Try upsampler='bilinear'."
                )
            return cls(None)
        if box is not None and len(box) not in (4, 6):
            raise ValueError(
                "box must hold all lower corners, then all upper ones, such as (top, left, bottom, "
                f"right), got {len(box)} numbers."
            )
        for corner in () if box is None else box:
            if not isinstance(corner, int | float | Fraction):
                raise TypeError(
                    f"box must hold Python numbers, got {corner!r}. Try [float(c) for c in box]."
                )
            if not isfinite(corner):
                raise ValueError(f"box must be finite, got {tuple(box or ())}.")
        return cls(resolve(upsampler), scaling, raw, None if box is None else tuple(box))

    @property
    def follows_library(self) -> bool:
        """Whether maps are scaled where the library scales them: before and after resizing."""
        interpolates = self.upsampler is None or isinstance(self.upsampler, Interpolation)
        return interpolates and not self.raw and self.scaling is None

    def resizes_like_library(self, rank: int) -> bool:
        """Whether the library's own resizing gives what was asked for.

        In three dimensions it fits cubic splines, which overshoot, so there ``"bilinear"`` is not
        the library's. Nor does it know boxes.
        """
        if not self.follows_library or self.box is not None:
            return False
        return self.upsampler is None or (rank == 2 and self.upsampler == Interpolation("bilinear"))

    def grid(self, cells: Sequence[int], pixels: Sequence[int]) -> CellGrid | None:
        """Return the grid of the content box, ``None`` without a box."""
        return None if self.box is None else CellGrid.box(cells, pixels, self.box)

    def check_smoothing(self, transforms: Iterable[Any], pixels: Sequence[int]) -> None:
        """Raise ``ValueError`` if a transform moves cells where the box is not in the middle.

        A model pads on the same side whether its image is flipped or not, so that flipping the
        coarse map back would put cells of padding on the image.
        """
        if self.box is None or len(self.box) != 2 * len(pixels):  # The grid says what is wrong.
            return
        ends = zip(self.box, self.box[len(pixels) :], pixels, strict=False)
        uneven = [i for i, (low, high, size) in enumerate(ends) if not isclose(low + high, size)]
        for axis in uneven:
            shape = [-1 if i == axis else 1 for i in range(len(pixels))]
            place = torch.arange(float(pixels[axis])).view(1, 1, *shape).expand(1, 1, *pixels)
            if any(not torch.equal(one.deaugment_mask(place), place) for one in transforms):
                raise ValueError(
                    "aug_smooth must be False for a box that is off the middle of an axis that "
                    f"tta_transforms flip, got box={self.box} for {tuple(pixels)} pixels. Try "
                    "aug_smooth=False, or transforms that leave that axis alone."
                )

    def scale(self, maps: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Bring maps (B, *pixels) into [0, 1], float32."""
        scaling = "robust" if self.scaling is None else self.scaling
        values = torch.from_numpy(np.ascontiguousarray(maps))
        unit = scale_to_unit(values, scaling) if isinstance(scaling, str) else scaling(values)
        if not isinstance(unit, Tensor) or unit.shape != values.shape:
            got = tuple(unit.shape) if isinstance(unit, Tensor) else type(unit).__name__
            raise ValueError(
                f"scaling must return a tensor of shape {tuple(values.shape)}, got {got}."
            )
        result: np.ndarray[Any, Any] = unit.detach().to("cpu", torch.float32).numpy()
        return result
