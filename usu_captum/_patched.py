"""What Captum's methods are while patched: themselves, but where their context has a frame open."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

from captum import attr as captum_attr
from torch import Tensor

from usu_captum._attribute import Attribute, Upsample, extended, unlogged
from usu_captum._frames import FRAMES, Frame
from usu_captum._guided import _KEYWORDS, upsample_guided
from usu_captum._interpolate import interpolate
from usu_captum._layer_gradients import _SCORED
from usu_captum._layer_maps import upsample_layers, upsample_spatial_layers
from usu_captum._models import keeping_gradient_flags
from usu_captum._options import split_options
from usu_captum._patch_maps import upsample_patches
from usu_captum._score import entries
from usu_captum._upsampled import upsampling_of
from usu_captum._wrapping import innermost


def patched_method(base: type) -> Attribute:
    """Return ``attribute`` of one of Captum's classes."""
    original = base.__dict__["attribute"]
    if issubclass(base, captum_attr.LayerAttribution):
        more = (_SCORED,) if base is captum_attr.LayerActivation else ()
        strict = extended(original, upsample_layers, *more)
        return _gated(original, strict, extended(original, upsample_spatial_layers, *more))
    if base is captum_attr.GuidedGradCam:
        guided = extended(original, upsample_guided, keywords=_KEYWORDS)
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
        frame = FRAMES.current()
        if frame is None:
            return original(*args, **kwargs)
        # What runs inside, the model and its score included, sees plain Captum.
        with FRAMES.suspended():
            if default is None or frame.upsampler is None or "upsampler" in kwargs:
                return explicit(*args, **kwargs)
            if args and isinstance(innermost(args[0]), captum_attr.LayerActivation):
                kwargs.setdefault("target", _target_for(frame, args, kwargs))
            return default(*args, **kwargs, upsampler=frame.upsampler)

    # Captum's classes call each other past the usage log: they must keep getting coarse maps. Where
    # Captum has no such way in, there is none here.
    if hasattr(original, "__wrapped__"):
        attribute.__wrapped__ = unlogged(original)
    else:
        del attribute.__wrapped__
    return attribute


def _target_for(frame: Frame, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the frame's target for a method that has none, if it fits the batch."""
    inputs = args[1] if len(args) > 1 else kwargs.get("inputs")
    image = inputs[0] if isinstance(inputs, tuple) else inputs
    fits = entries(frame.target) is None or (
        isinstance(image, Tensor) and entries(frame.target) == len(image)
    )
    return frame.target if fits else None


def patched_tunnel(tunnel: type) -> Attribute:
    """Return ``attribute`` of the noise tunnel."""
    runs = (_noise_tunnel(upsampling_of), _noise_tunnel(_of_layers))
    return _gated(tunnel.__dict__["attribute"], *runs)


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


def patched_interpolate(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return ``LayerAttribution.interpolate``."""

    @wraps(original)
    def replacement(
        layer_attribution: Tensor,
        interpolate_dims: int | tuple[int, ...],
        interpolate_mode: Any = "nearest",
    ) -> Tensor:
        frame = FRAMES.current()
        if frame is None:
            return original(layer_attribution, interpolate_dims, interpolate_mode)
        mode = interpolate_mode
        if frame.upsampler is not None and _fits(frame, layer_attribution, interpolate_dims):
            mode = frame.upsampler
        with FRAMES.suspended():
            return interpolate(
                layer_attribution,
                interpolate_dims,
                mode,
                image=frame.image,
                forward_func=frame.forward_func,
                target=frame.target,
                additional_forward_args=frame.additional_forward_args,
            )

    return replacement


def _fits(frame: Frame, cells: Tensor, dims: int | tuple[int, ...]) -> bool:
    """Whether a map is one of the frame's image, and still coarse."""
    image = frame.image
    if image is None or cells.dim() != image.dim() or len(cells) != len(image):
        return False
    size = (dims,) * (cells.dim() - 2) if isinstance(dims, int) else tuple(dims)
    return size == tuple(image.shape[2:]) != tuple(cells.shape[2:])
