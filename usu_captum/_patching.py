"""Captum's own classes with the keyword, for code that cannot change its imports."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from threading import RLock
from typing import Any

from captum import attr as captum_attr
from torch import Tensor

from usu_captum._attribute import Attribute, Upsample, extended, unlogged
from usu_captum._guided import upsample_guided
from usu_captum._interpolate import interpolate
from usu_captum._layer_gradients import _SCORED
from usu_captum._layer_maps import upsample_layers, upsample_spatial_layers
from usu_captum._methods import WITH_UPSAMPLER
from usu_captum._models import keeping_gradient_flags
from usu_captum._options import Options, split_options
from usu_captum._patch_maps import upsample_patches
from usu_captum._upsampled import upsampling_of
from usu_captum._wrapping import innermost
from usu_core import AnyUpsampler


@dataclass(frozen=True, eq=False)
class _Frame:
    """One ``patch()``: its default and, for ``interpolate``, what is being explained."""

    upsampler: str | AnyUpsampler | None
    image: Tensor | None
    forward_func: Callable[..., Any] | None
    target: Any
    additional_forward_args: Any


_frames: ContextVar[tuple[_Frame, ...]] = ContextVar("usu_captum_frames", default=())
_open: set[_Frame] = set()  # Of all threads: while there is one, the classes are patched.
_installed: list[tuple[type, str, Any, Any]] = []
_lock = RLock()


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
            call passes ``upsampler=``.
        image: What is being explained, for ``LayerAttribution.interpolate``, which sees neither
            the image nor the model. Maps of another batch size, and sizes other than the image's,
            are interpolated as ever.
        forward_func: The model, likewise.
        target: The explained output, likewise.
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
    frame = _Frame(upsampler, image, forward_func, target, additional_forward_args)
    with _lock:
        if not _open:
            _install()
        _open.add(frame)
    _frames.set((*_frames.get(), frame))


def unpatch() -> None:
    """Undo the last :func:`patch` of this thread.

    Raises:
        RuntimeError: If there is none.
    """
    frames = _frames.get()
    if not frames:
        raise RuntimeError("unpatch() needs a patch() before it in the same thread, got none.")
    _close(frames[:-1])


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
    before = _frames.get()
    try:
        patch(
            upsampler,
            image=image,
            forward_func=forward_func,
            target=target,
            additional_forward_args=additional_forward_args,
        )
        yield
    finally:
        _close(before)


def _close(remaining: tuple[_Frame, ...]) -> None:
    """Go back to fewer frames, and restore the classes if no thread has any left."""
    with _lock:
        was_open = bool(_open)
        _open.difference_update(_frames.get()[len(remaining) :])
        _frames.set(remaining)
        if was_open and not _open:
            _uninstall()


def _current() -> _Frame | None:
    """Return the innermost open frame; a copied context may hold frames closed since."""
    return next((frame for frame in reversed(_frames.get()) if frame in _open), None)


def _install() -> None:
    """Swap the descriptors; all of them or none."""
    try:
        for cls in WITH_UPSAMPLER.values():
            base = cls.__mro__[1]
            _swap(base, "attribute", _patched_method(base))
        tunnel = captum_attr.NoiseTunnel
        runs = (_noise_tunnel(upsampling_of), _noise_tunnel(_of_layers))
        _swap(tunnel, "attribute", _gated(tunnel.__dict__["attribute"], *runs))
        layer = captum_attr.LayerAttribution
        _swap(layer, "interpolate", staticmethod(_patched_interpolate(layer.interpolate)))
    except BaseException:
        _uninstall()
        raise


def _swap(cls: type, name: str, ours: Any) -> None:
    _installed.append((cls, name, cls.__dict__[name], ours))
    setattr(cls, name, ours)


def _uninstall() -> None:
    """Put the very descriptors back, last first, but not over another's patch."""
    while _installed:
        cls, name, original, ours = _installed.pop()
        if cls.__dict__[name] is ours:
            setattr(cls, name, original)
        elif cls.__dict__[name] is not original:
            warnings.warn(
                f"{cls.__name__}.{name} was replaced while patched and is left as it is; it may "
                "still call this package, which then does what Captum does.",
                RuntimeWarning,
                stacklevel=4,
            )


def _patched_method(base: type) -> Attribute:
    original = base.__dict__["attribute"]
    if issubclass(base, captum_attr.LayerAttribution):
        more = (_SCORED,) if base is captum_attr.LayerActivation else ()
        strict = extended(original, upsample_layers, *more)
        return _gated(original, strict, extended(original, upsample_spatial_layers, *more))
    if base is captum_attr.GuidedGradCam:
        guided = extended(original, upsample_guided)
        return _gated(original, guided, guided)
    return _gated(original, extended(original, upsample_patches))


def _gated(original: Any, explicit: Attribute, default: Attribute | None = None) -> Attribute:
    """Return ``attribute`` as Captum has it, unless a frame of this context is open.

    Args:
        original: Captum's method.
        explicit: Runs when the caller passes the keyword.
        default: Runs with the frame's upsampler when the caller does not.
    """

    @wraps(original)
    def attribute(*args: Any, **kwargs: Any) -> Any:
        frame = _current()
        if frame is None:
            return original(*args, **kwargs)
        # What runs inside, the model and its score included, sees plain Captum.
        token = _frames.set(())
        try:
            if default is None or frame.upsampler is None or "upsampler" in kwargs:
                return explicit(*args, **kwargs)
            return default(*args, **kwargs, upsampler=frame.upsampler)
        finally:
            _frames.reset(token)

    # Captum's classes call each other past the usage log: they must keep getting coarse maps. Where
    # Captum has no such way in, there is none here.
    if hasattr(original, "__wrapped__"):
        attribute.__wrapped__ = unlogged(original)
    else:
        del attribute.__wrapped__
    return attribute


def _noise_tunnel(choose: Callable[[Any], Upsample | None]) -> Attribute:
    captum = unlogged(captum_attr.NoiseTunnel.__dict__["attribute"])
    names = list(signature(captum).parameters)[2:]

    def attribute(method: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        options, arguments = split_options(kwargs)
        upsample = None if options.upsampler is None else choose(method)
        if upsample is None:
            return captum(method, inputs, *args, **arguments)
        named = dict(zip(names, args, strict=False)) | arguments
        with keeping_gradient_flags(inputs):
            return upsample(method, captum, inputs, named, options)

    return attribute


def _of_layers(method: Any) -> Upsample | None:
    """What a default upsampler does to a noise tunnel."""
    is_layer = isinstance(innermost(method), captum_attr.LayerAttribution)
    return upsample_spatial_layers if is_layer else None


def _patched_interpolate(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(original)
    def replacement(
        layer_attribution: Tensor,
        interpolate_dims: int | tuple[int, ...],
        interpolate_mode: Any = "nearest",
    ) -> Tensor:
        frame = _current()
        if frame is None:
            return original(layer_attribution, interpolate_dims, interpolate_mode)
        mode = interpolate_mode
        if frame.upsampler is not None and _fits(frame, layer_attribution, interpolate_dims):
            mode = frame.upsampler
        token = _frames.set(())
        try:
            return interpolate(
                layer_attribution,
                interpolate_dims,
                mode,
                image=frame.image,
                forward_func=frame.forward_func,
                target=frame.target,
                additional_forward_args=frame.additional_forward_args,
            )
        finally:
            _frames.reset(token)

    return replacement


def _fits(frame: _Frame, cells: Tensor, dims: int | tuple[int, ...]) -> bool:
    """Whether a map is one of the frame's image, and still coarse."""
    image = frame.image
    if image is None or cells.dim() != image.dim() or len(cells) != len(image):
        return False
    size = (dims,) * (cells.dim() - 2) if isinstance(dims, int) else tuple(dims)
    return size == tuple(image.shape[2:]) != tuple(cells.shape[2:])
