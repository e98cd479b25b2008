"""Redistribution for code that uses pytorch-grad-cam itself.

Methods of the library's base classes are replaced while a patch is in force anywhere, but act only
in the thread or task that asked for it: a context variable decides. The library's resizing helper
is replaced in every module that imported it, for CAMs of others that call it themselves.
"""

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pytorch_grad_cam.utils import image as library_image

from usu_core import AnyUpsampler
from usu_gradcam._context import ACTIVE, assigned
from usu_gradcam._name_bound import make_scale_accross, make_scale_cam_image, rebind
from usu_gradcam._options import Options, Scaling
from usu_gradcam._wrappers import places

_lock = threading.RLock()
_depth = 0
_replaced: list[tuple[Any, str, Any, Any]] = []
_helpers: list[tuple[Any, Any]] = []


def patch(
    upsampler: str | AnyUpsampler | None = "usu",
    *,
    scaling: Scaling | None = None,
    raw: bool = False,
    box: Sequence[float] | None = None,
) -> None:
    """Make pytorch-grad-cam's own classes redistribute, until :func:`unpatch`.

    Existing objects, and subclasses of others, follow too. Our own classes keep their options.
    Only the calling thread (or asynchronous task) is affected. Calls nest.

    Args:
        upsampler: As in :class:`Redistributed`.
        scaling: As in :class:`Redistributed`.
        raw: As in :class:`Redistributed`.
        box: As in :class:`Redistributed`.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown, or options exclude each other.

    Example:
        >>> patch("usu")
        >>> unpatch()
    """
    options = Options.make(upsampler, scaling, raw, box)
    _install()
    ACTIVE.set((*ACTIVE.get(), options))


def unpatch() -> None:
    """Undo the last :func:`patch` of this thread.

    Raises:
        RuntimeError: If there is none.
    """
    active = ACTIVE.get()
    if not active:
        raise RuntimeError("unpatch() needs a patch() in the same thread before it, got none.")
    ACTIVE.set(active[:-1])
    _uninstall()


@contextmanager
def patched(
    upsampler: str | AnyUpsampler | None = "usu",
    *,
    scaling: Scaling | None = None,
    raw: bool = False,
    box: Sequence[float] | None = None,
) -> Iterator[None]:
    """Make pytorch-grad-cam's own classes redistribute inside a ``with`` block.

    Args:
        upsampler: As in :class:`Redistributed`.
        scaling: As in :class:`Redistributed`.
        raw: As in :class:`Redistributed`.
        box: As in :class:`Redistributed`.

    Raises:
        TypeError: As in :func:`patch`.
        ValueError: As in :func:`patch`.

    Example:
        >>> with patched("usu"):
        ...     pass
    """
    options = Options.make(upsampler, scaling, raw, box)
    _install()
    try:
        with assigned(ACTIVE, (*ACTIVE.get(), options)):
            yield
    finally:
        _uninstall()


def _install() -> None:
    global _depth
    with _lock:
        _depth += 1
        if _depth > 1:
            return
        for owner, name, make in places():
            original = owner.__dict__[name]
            wrapper: Any = make(original)
            wrapper._usu_gradcam = True
            setattr(owner, name, wrapper)
            _replaced.append((owner, name, original, wrapper))
        for name, make in (
            ("scale_cam_image", make_scale_cam_image),
            ("scale_accross_batch_and_channels", make_scale_accross),
        ):
            original = getattr(library_image, name)
            wrapper = make(original)
            _helpers.append((original, wrapper))
            rebind(original, wrapper)


def _uninstall() -> None:
    global _depth
    with _lock:
        _depth -= 1
        if _depth:
            return
        while _replaced:
            owner, name, original, wrapper = _replaced.pop()
            if owner.__dict__.get(name) is wrapper:
                setattr(owner, name, original)
            else:
                # Ours does nothing any more without an active patch, so it may stay below.
                warnings.warn(
                    f"{owner.__name__}.{name} was replaced by other code while patched, and is "
                    "left as it is.",
                    RuntimeWarning,
                    stacklevel=3,
                )
        while _helpers:
            original, wrapper = _helpers.pop()
            # Modules imported meanwhile have bound the wrapper.
            rebind(wrapper, original)
