"""The library's resizing helpers, for CAMs that call them instead of what a patch replaces.

Modules hold copies of the helpers under their own names. The wrappers act only inside a patched
call and for maps that belong to it; anywhere else they are the original.
"""

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from types import ModuleType
from typing import Any

import numpy as np

from usu_gradcam import _maps
from usu_gradcam._arrays import Array
from usu_gradcam._context import ACTIVE, FRAME, Frame, suspended
from usu_gradcam._options import Options
from usu_gradcam._targets import predicted_targets

Wrapper = Callable[..., Any]


def in_force(cam: Any = None) -> Options | None:
    """Return the innermost options, ``None`` where the library's own code must run."""
    active = ACTIVE.current()
    if active is None or hasattr(cam, "redistribution") or active.upsampler is None:
        return None
    return active


def make_scale_cam_image(original: Wrapper) -> Wrapper:
    @wraps(original)
    def scale_cam_image(cam: Any, target_size: Any = None) -> Any:
        maps = np.asarray(cam)
        frame = _frame(maps, target_size)
        if frame is None:
            return original(cam, target_size)
        # A CAM of a batch, or the channels of one: images in order, channels of each together.
        return _redistribute(frame, maps.reshape(len(frame.image), -1, *maps.shape[1:])).reshape(
            len(maps), *frame.image.shape[2:]
        )

    return scale_cam_image


def make_scale_accross(original: Wrapper) -> Wrapper:
    @wraps(original)
    def scale_accross_batch_and_channels(tensor: Any, target_size: Any) -> Any:
        maps = np.asarray(tensor)
        frame = None if maps.ndim < 3 else _frame(maps[:, 0], target_size)
        return original(tensor, target_size) if frame is None else _redistribute(frame, maps)

    return scale_accross_batch_and_channels


def _frame(maps: Array, target_size: Any) -> Frame | None:
    """Return the call these maps (N, *cells) belong to, ``None`` if they belong to none."""
    frame, options = FRAME.get(), in_force()
    if frame is None or options is None or options.follows_library or target_size is None:
        return None
    pixels = tuple(frame.image.shape[2:])
    fits = tuple(target_size)[::-1] == pixels and maps.ndim == len(pixels) + 1
    if not fits or len(maps) % len(frame.image):
        return None
    return frame if all(c <= p for c, p in zip(maps.shape[1:], pixels, strict=True)) else None


def _redistribute(frame: Frame, maps: Array) -> Array:
    """Upsample (B, K, *cells) for a CAM that would have resized them itself."""
    cam, options = frame.cam, frame.options
    targets = frame.targets
    with suspended():
        images = frame.image
        if targets is None:
            targets = predicted_targets(cam.outputs)
        cells = maps if options.raw else np.maximum(maps, 0)
        (fine,) = _maps.upsample(cam.model, options, [cells], images, targets)
        if options.raw:
            return fine
        return options.scale(fine.reshape(-1, *fine.shape[2:])).reshape(fine.shape)


class Copies:
    """The copies of functions in every module but our own, replaced by identity and put back.

    One look at all modules replaces them. Back again, it takes a look at those only that are new or
    have gained or lost names: modules imported meanwhile have bound the replacements.
    """

    def __init__(self) -> None:
        self._replaced: dict[int, tuple[Any, Any]] = {}
        self._places: list[tuple[ModuleType, str, Any, Any]] = []
        self._seen: list[ModuleType] = []
        # Plain numbers: thousands of tuples would set off Python's garbage collection.
        self._sizes: dict[int, int] = {}

    def replace(self, functions: Sequence[tuple[Any, Any]]) -> None:
        """Put the second of each pair in the place of the first, everywhere."""
        for old, new in functions:
            self._replaced[id(new)] = (new, old)
        wanted = {id(old): (old, new) for old, new in functions}
        self._seen = _modules()
        for module in self._seen:
            self._sizes[id(module)] = len(vars(module))
            for key, (old, new) in _found(module, wanted):
                self._places.append((module, key, old, new))
                setattr(module, key, new)

    def restore(self) -> None:
        """Put all of them back."""
        for module, key, old, new in self._places:
            if vars(module).get(key) is new:
                setattr(module, key, old)
        for module in _modules():
            if len(vars(module)) != self._sizes.get(id(module)):
                for key, (_, old) in _found(module, self._replaced):
                    setattr(module, key, old)
        for kept in (self._replaced, self._places, self._seen, self._sizes):
            kept.clear()


def _modules() -> list[ModuleType]:
    return [
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and name.split(".")[0] != "usu_gradcam"
    ]


def _found(
    module: ModuleType, wanted: dict[int, tuple[Any, Any]]
) -> list[tuple[str, tuple[Any, Any]]]:
    """Return the names under which a module holds any of the wanted, known by their address."""
    held = vars(module).copy()
    return [(key, wanted[id(value)]) for key, value in held.items() if id(value) in wanted]
