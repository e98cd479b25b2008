"""Maps of one layer or several, upsampled to the image."""

from typing import Any

import torch
from captum import attr as captum_attr
from torch import Tensor

from usu_captum._attribute import Attribute
from usu_captum._layout import is_spatial, lay_out
from usu_captum._options import Options
from usu_captum._shared_pass import shared_pass
from usu_captum._spatial_grad_cam import spatial
from usu_captum._upsampling import Redistribution, image_of, redistribution
from usu_captum._wrapping import innermost, uncompiled

_GROUPED = ("LayerFeatureAblation", "LayerFeaturePermutation")  # Captum 0.7 lacks the second.
_SEVERAL = (
    captum_attr.LayerActivation,
    captum_attr.LayerGradientXActivation,
    captum_attr.LayerIntegratedGradients,
    captum_attr.LayerLRP,
)


def upsample_layers(
    method: Any, captum: Attribute, inputs: Any, arguments: dict[str, Any], options: Options
) -> Any:
    """Run a layer attribution and upsample what it gives, keeping its structure.

    A convergence delta stays as Captum computed it; the total convention keeps it true of the fine
    map, so that is the default beside one.
    """
    return _upsample(method, captum, inputs, arguments, options, strict=True)


def upsample_spatial_layers(
    method: Any, captum: Attribute, inputs: Any, arguments: dict[str, Any], options: Options
) -> Any:
    """As :func:`upsample_layers`, but leave what is no map of an image as Captum gave it.

    Three dimensions may as well be a sentence of embeddings, so signals have to ask. An activation
    without a target has nothing to be scored by.
    """
    is_activation = isinstance(innermost(method), captum_attr.LayerActivation)
    unscored = is_activation and options.needs_score and arguments.get("target") is None
    if unscored or image_of(inputs, options.image_input).dim() < 4:
        return captum(method, inputs, **without_target(method, arguments))
    return _upsample(method, captum, inputs, arguments, options, strict=False)


def without_target(method: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return Captum's arguments of a call: of an activation, only the score has a target."""
    if not isinstance(innermost(method), captum_attr.LayerActivation):
        return arguments
    return {name: value for name, value in arguments.items() if name != "target"}


def _upsample(
    method: Any,
    captum: Attribute,
    inputs: Any,
    arguments: dict[str, Any],
    options: Options,
    strict: bool,
) -> Any:
    image = image_of(inputs, options.image_input)
    inner = innermost(method)
    if isinstance(inner.layer, list) and not isinstance(inner, _SEVERAL):
        raise ValueError(
            f"layer must be one layer for {type(inner).__name__}, got a list of "
            f"{len(inner.layer)}. Try one object for each."
        )
    passed = without_target(method, arguments)
    running = uncompiled(method)
    prepared = spatial(running, options)
    run = captum if prepared is running else type(prepared).attribute
    shared = shared_pass(prepared, captum, inputs, passed, options)
    if shared is None:
        result = run(prepared, inputs, **passed)
    else:
        with shared.recording():
            result = run(
                prepared, shared.inputs, **passed | {"grad_kwargs": {"retain_graph": True}}
            )
    has_delta = bool(arguments.get("return_convergence_delta"))
    maps, *deltas = result if has_delta else (result,)
    step = redistribution(
        options, inputs, inner.forward_func, arguments, "total" if has_delta else None, shared
    )
    is_grouped = any(kind.__name__ in _GROUPED for kind in type(inner).__mro__)
    mask = arguments.get("layer_mask") if is_grouped else None
    strict = strict and not _has_map(maps, image)
    # A Grad-CAM that was prepared is laid out already: asking its layer would turn it over again.
    asked = inner if prepared is running else None
    fine = _walk(maps, asked, asked and asked.layer, mask, image, options, step, strict)
    if options.expand_to_input and isinstance(inputs, tuple) and isinstance(fine, Tensor):
        fine = _mirrored(fine, inputs, options.image_input)
    return (fine, *deltas) if has_delta else fine


def _mirrored(fine: Tensor, inputs: tuple[Tensor, ...], image_input: int) -> tuple[Tensor, ...]:
    """Return a tuple like the inputs', in which only the image has an attribution.

    Captum's metrics pass tuples, and compare what comes back with them entry by entry.
    """
    index = range(len(inputs))[image_input]
    return tuple(fine if i == index else torch.zeros_like(x) for i, x in enumerate(inputs))


def _has_map(maps: Any, image: Tensor) -> bool:
    if isinstance(maps, list | tuple):
        return any(_has_map(part, image) for part in maps)
    return is_spatial(maps, image)


def _walk(
    maps: Any,
    method: Any,
    layer: Any,
    mask: Any,
    image: Tensor,
    options: Options,
    step: Redistribution,
    strict: bool,
) -> Any:
    """Upsample a map, or each of those that a layer or a list of layers gave."""
    if isinstance(maps, list | tuple):
        several = isinstance(maps, list) and isinstance(layer, list | tuple)
        layers = layer if several else [layer] * len(maps)
        masks = mask if isinstance(mask, tuple) else (mask,) * len(maps)
        parts = (
            _walk(part, method, owner, its_mask, image, options, step, strict)
            for part, owner, its_mask in zip(maps, layers, masks, strict=True)
        )
        return type(maps)(parts)
    # Beside a map, outputs of a layer that are none (states, scalars) are left as they are.
    if not strict and not is_spatial(maps, image):
        return maps
    mask = mask[0] if isinstance(mask, tuple) else mask
    cells = maps if mask is None else _shared(maps, mask)
    return step(lay_out(cells, image, method and method.forward_func, layer, options))


def _shared(values: Tensor, mask: Tensor) -> Tensor:
    """Divide a group's effect, which Captum repeats at each member, among its members."""
    # Labels may be any integers: neither negative nor huge ones can count members.
    labels, dense = torch.unique(mask.to(values.device), return_inverse=True)
    rows = dense.broadcast_to(values.shape).flatten(1)
    counts = rows.new_zeros(len(rows), len(labels))
    counts.scatter_add_(1, rows, torch.ones_like(rows))
    members: Tensor = counts.gather(1, rows).view_as(values)
    return values / members
