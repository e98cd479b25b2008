"""Redistribution for code that uses pytorch-grad-cam itself.

Methods of the library's base classes are replaced while a patch is in force anywhere, but act only
in the thread or task that asked for it: a context variable decides. The library's resizing helper
is replaced in every module that imported it, for CAMs of others that call it themselves.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pytorch_grad_cam.utils import image as library_image

from usu_core import AnyUpsampler
from usu_core._patches import Swap, put_back
from usu_gradcam._context import ACTIVE
from usu_gradcam._name_bound import Copies, make_scale_accross, make_scale_cam_image
from usu_gradcam._options import Options, Scaling
from usu_gradcam._wrappers import places

_replaced: list[Swap] = []
_helpers = Copies()


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
    ACTIVE.open(Options.make(upsampler, scaling, raw, box), _install)


def unpatch() -> None:
    """Undo the last :func:`patch` of this thread.

    Raises:
        RuntimeError: If there is none.
    """
    options = ACTIVE.last()
    if options is None:
        raise RuntimeError("unpatch() needs a patch() in the same thread before it, got none.")
    ACTIVE.close(options, _uninstall)


@contextmanager
def patched(
    upsampler: str | AnyUpsampler | None = "usu",
    *,
    scaling: Scaling | None = None,
    raw: bool = False,
    box: Sequence[float] | None = None,
) -> Iterator[None]:
    """Make pytorch-grad-cam's own classes redistribute inside a ``with`` block.

    The library is restored on any exit, with it whatever was patched and not unpatched inside.

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
    try:
        ACTIVE.open(options, _install)
        yield
    finally:
        ACTIVE.close(options, _uninstall)


def _install() -> None:
    """Replace the methods and helpers; all of them or none."""
    try:
        for owner, name, make in places():
            original = owner.__dict__[name]
            wrapper: Any = make(original)
            wrapper._usu_gradcam = True
            _replaced.append((owner, name, original, wrapper))
            setattr(owner, name, wrapper)
        one, several = library_image.scale_cam_image, library_image.scale_accross_batch_and_channels
        _helpers.replace([(one, make_scale_cam_image(one)), (several, make_scale_accross(several))])
    except BaseException:
        _uninstall()
        raise


def _uninstall() -> None:
    left = put_back(_replaced)
    _helpers.restore()
    for place in left:  # Ours does nothing any more without an active patch: it may stay below.
        warnings.warn(
            f"{place} was replaced by other code while patched, and is left as it is.",
            RuntimeWarning,
            stacklevel=4,
        )
