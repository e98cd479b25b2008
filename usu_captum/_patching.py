"""Captum's own classes with the keyword, for code that cannot change its imports."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from captum import attr as captum_attr
from torch import Tensor

from usu_captum._frames import FRAMES, Frame
from usu_captum._methods import WITH_UPSAMPLER
from usu_captum._options import Options
from usu_captum._patched import patched_interpolate, patched_method, patched_tunnel
from usu_core import AnyUpsampler
from usu_core._patches import Swap, put_back

_installed: list[Swap] = []


def patch(
    upsampler: str | AnyUpsampler | None = None,
    *,
    image: Tensor | None = None,
    forward_func: Callable[..., Any] | None = None,
    target: Any = None,
    additional_forward_args: Any = None,
) -> None:
    """Let Captum's own classes accept ``upsampler=`` until :func:`unpatch`.

    Holds for the calling thread (precisely: its context); others see plain Captum. Patches nest,
    and the last one counts. Names bound early, such as ``f = LayerAttribution.interpolate``, are
    out of reach.

    Args:
        upsampler: A default for layer attributions, noise tunnels around them, and Guided
            Grad-CAM. Results that are no map of an image stay as they are; so do perturbations
            of the input, which give a full-size map already. ``None`` changes nothing until a
            call passes ``upsampler=``. ``LayerActivation`` has no target: where the score needs
            one, its maps stay as they are unless ``target`` is given here.
        image: What is being explained, for ``LayerAttribution.interpolate``, which sees neither
            the image nor the model. Maps of another batch size, and sizes other than the image's,
            are interpolated as ever.
        forward_func: The model, likewise.
        target: The explained output, likewise, and for ``LayerActivation``.
        additional_forward_args: As in Captum, likewise.

    Raises:
        ValueError: If the upsampler's name is unknown.

    Example:
        >>> from captum.attr import LayerGradCam
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, 2), torch.nn.Flatten()).eval()
        >>> patch("usu")
        >>> LayerGradCam(model, model[0]).attribute(torch.rand(1, 1, 8, 8), target=3).shape
        torch.Size([1, 1, 8, 8])
        >>> unpatch()
        >>> LayerGradCam(model, model[0]).attribute(torch.rand(1, 1, 8, 8), target=3).shape
        torch.Size([1, 1, 4, 4])
    """
    Options(upsampler)
    frame = Frame(upsampler, image, forward_func, target, additional_forward_args)
    FRAMES.open(frame, _install)


def unpatch() -> None:
    """Undo the last :func:`patch` of this thread.

    Raises:
        RuntimeError: If there is none.
    """
    frame = FRAMES.last()
    if frame is None:
        raise RuntimeError("unpatch() needs a patch() before it in the same thread, got none.")
    FRAMES.close(frame, _uninstall)


@contextmanager
def patched(
    upsampler: str | AnyUpsampler | None = None,
    *,
    image: Tensor | None = None,
    forward_func: Callable[..., Any] | None = None,
    target: Any = None,
    additional_forward_args: Any = None,
) -> Iterator[None]:
    """Patch Captum inside a ``with`` block; see :func:`patch` for the arguments.

    Captum is restored on any exit, with it whatever was patched and not unpatched inside.

    Example:
        >>> from captum.attr import LayerAttribution
        >>> images, model = torch.rand(1, 1, 8, 8), torch.nn.Flatten()
        >>> with patched("usu", image=images, forward_func=model, target=3):
        ...     LayerAttribution.interpolate(torch.ones(1, 1, 2, 2), (8, 8)).shape
        torch.Size([1, 1, 8, 8])
    """
    Options(upsampler)
    frame = Frame(upsampler, image, forward_func, target, additional_forward_args)
    try:
        FRAMES.open(frame, _install)
        yield
    finally:
        FRAMES.close(frame, _uninstall)


def _install() -> None:
    """Swap the descriptors; all of them or none."""
    try:
        for cls in WITH_UPSAMPLER.values():
            base = cls.__mro__[1]
            _swap(base, "attribute", patched_method(base))
        tunnel = captum_attr.NoiseTunnel
        _swap(tunnel, "attribute", patched_tunnel(tunnel))
        layer = captum_attr.LayerAttribution
        _swap(layer, "interpolate", staticmethod(patched_interpolate(layer.interpolate)))
    except BaseException:
        _uninstall()
        raise


def _swap(cls: type, name: str, ours: Any) -> None:
    _installed.append((cls, name, cls.__dict__[name], ours))
    setattr(cls, name, ours)


def _uninstall() -> None:
    """Put the very descriptors back, but not over another's patch."""
    for place in put_back(_installed):
        warnings.warn(
            f"{place} was replaced while patched and is left as it is; it may still call this "
            "package, which then does what Captum does.",
            RuntimeWarning,
            stacklevel=4,
        )
