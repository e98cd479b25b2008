"""Upsamplers by name."""

from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from torch import Tensor

from usu_core._checks import check_choice
from usu_core._guided import IWMR, USU, ScoreMapOnly, Tilted
from usu_core._upsamplers import Interpolation
from usu_core.scoring import GradientScorer
from usu_core.segments import Quadtree

AnyUpsampler = Callable[..., Tensor]
"""Anything called as an :class:`Upsampler` is: ``upsampler(cells, image=…, score=…)``."""

ENTRY_POINT_GROUP = "usu.upsamplers"

_BUILT_IN: dict[str, AnyUpsampler] = {
    "nearest": Interpolation("nearest"),
    "bilinear": Interpolation("bilinear"),
    "bicubic": Interpolation("bicubic"),
    "lanczos": Interpolation("lanczos"),
    "bilinear-conserving": Interpolation("bilinear-conserving"),
    "usu": USU(),
    "usu-fast": USU(segmenter=Quadtree((14, 28)), scorer=GradientScorer()),
    "iwmr": IWMR(prior="uniform", importance="max"),
    "iwmr-mass": IWMR(prior="mass"),
    "tilted": Tilted(),
    "score-map": ScoreMapOnly(),
}


def available() -> tuple[str, ...]:
    """Return the names :func:`resolve` knows: built-in ones, then those of installed plug-ins.

    Example:
        >>> available()[:3]
        ('nearest', 'bilinear', 'bicubic')
    """
    return (*_BUILT_IN, *_plug_ins())


def resolve(upsampler: str | AnyUpsampler) -> Any:
    """Return the upsampler of a name; objects come back as they are.

    Other packages add names through the entry-point group ``usu.upsamplers``, each pointing to
    an upsampler object or to a class that makes one without arguments.

    Args:
        upsampler: A name, or a callable used as an :class:`Upsampler`.

    Raises:
        ValueError: If the name is unknown; the nearest ones are named.
        TypeError: If it is neither a name nor callable, or a class instead of an object.

    Example:
        >>> resolve("usu").convention
        'density'
    """
    if isinstance(upsampler, str):
        check_choice("upsampler", upsampler, available())
        if upsampler in _BUILT_IN:
            return _BUILT_IN[upsampler]
        loaded = _plug_ins()[upsampler].load()
        return loaded() if isinstance(loaded, type) else loaded
    if isinstance(upsampler, type) or not callable(upsampler):
        raise TypeError(f"upsampler must be a name or an object such as USU(), got {upsampler!r}.")
    return upsampler


@lru_cache(maxsize=1)
def _plug_ins() -> dict[str, Any]:
    found = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    return {name: point for name, point in found.items() if name not in _BUILT_IN}
