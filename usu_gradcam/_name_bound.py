"""The library's resizing helpers, for CAMs that call them instead of what a patch replaces.

Modules hold copies of the helpers under their own names. The wrappers act only inside a patched
call and for maps that belong to it; anywhere else they are the original.
"""

import sys
from collections.abc import Callable
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
        images = frame.image.to(cam.device)
        if targets is None:
            targets = predicted_targets(cam.outputs)
        cells = maps if options.raw else np.maximum(maps, 0)
        (fine,) = _maps.upsample(cam.model, options, [cells], images, targets)
        if options.raw:
            return fine
        return options.scale(fine.reshape(-1, *fine.shape[2:])).reshape(fine.shape)


def rebind(old: Any, new: Any) -> None:
    """Replace a function by identity in every module that holds it, but in our own."""
    for name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or name.split(".")[0] == "usu_gradcam":
            continue
        for key, value in list(vars(module).items()):
            if value is old:
                setattr(module, key, new)
