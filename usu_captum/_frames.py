"""The patches of Captum that are open, and what each of them asks for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from usu_core import AnyUpsampler
from usu_core._patches import Patches


@dataclass(frozen=True, eq=False)
class Frame:
    """One ``patch()``: its default and, for ``interpolate``, what is being explained."""

    upsampler: str | AnyUpsampler | None
    image: Tensor | None
    forward_func: Callable[..., Any] | None
    target: Any
    additional_forward_args: Any


FRAMES: Patches[Frame] = Patches("usu_captum_frames")
