"""Guided Grad-CAM, with the resize inside it replaced."""

from dataclasses import replace
from typing import Any

import torch
from captum import attr as captum_attr

from usu_captum._attribute import Attribute, accepts_upsampler
from usu_captum._layout import is_spatial, lay_out
from usu_captum._options import PARAMETERS, Options
from usu_captum._spatial_grad_cam import spatial
from usu_captum._upsampling import redistribution
from usu_captum._wrapping import uncompiled


def upsample_guided(
    method: Any, captum: Attribute, inputs: Any, arguments: dict[str, Any], options: Options
) -> Any:
    """Multiply guided backpropagation by the upsampled, rectified Grad-CAM.

    Captum's own function is not run: it turns any failure to resize into an empty tensor.
    """
    several = inputs if isinstance(inputs, tuple) else (inputs,)
    shared = {name: arguments.get(name) for name in ("target", "additional_forward_args")}
    plain = uncompiled(method.grad_cam)
    grad_cam = spatial(plain, options)
    cells = type(grad_cam).attribute(
        grad_cam,
        several,
        attribute_to_layer_input=arguments.get("attribute_to_layer_input", False),
        relu_attributions=True,
        **shared,
    )
    if isinstance(cells, tuple):
        raise ValueError(
            f"layer must have a single output for GuidedGradCam, got {len(cells)}. Try a layer "
            "inside it."
        )
    backprop = uncompiled(method.guided_backprop)
    guided = type(backprop).attribute(backprop, several, **shared)
    forward_func = method.grad_cam.forward_func
    # A Grad-CAM that was prepared is laid out already.
    asked = grad_cam if grad_cam is plain else None
    model, layer = asked and forward_func, asked and asked.layer
    strict = not any(is_spatial(cells, image) for image in several)
    results = []
    for i, (gradient, image) in enumerate(zip(guided, several, strict=True)):
        if not strict and not is_spatial(cells, image):
            results.append(torch.empty(0))
            continue
        step = redistribution(replace(options, image_input=i), inputs, forward_func, shared)
        results.append(gradient * step(lay_out(cells, image, model, layer, options)))
    return tuple(results) if isinstance(inputs, tuple) else results[0]


_KEYWORDS = tuple(p for p in PARAMETERS if p.name in ("upsampler", "convention", "grid"))


@accepts_upsampler(upsample_guided, keywords=_KEYWORDS)
class GuidedGradCam(captum_attr.GuidedGradCam):
    """Captum's ``GuidedGradCam`` with any upsampler in place of its resize.

    The product of guided backpropagation and the rectified Grad-CAM, of the input's own shape. Of
    several inputs, each that the layer can be a map of gets its own upsampling; for the others an
    empty tensor stands, as in Captum. ``interpolate_mode`` has no effect beside ``upsampler``.

    Raises:
        ValueError: From ``attribute`` with an upsampler, where Captum would warn and return an
            empty tensor: if the Grad-CAM cannot be upsampled to any input.

    Example:
        >>> import warnings
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 2, 2, 2), torch.nn.ReLU(), torch.nn.Flatten()
        ... ).eval()
        >>> guided = GuidedGradCam(model, model[0])
        >>> images = torch.rand(1, 1, 8, 8, requires_grad=True)
        >>> with warnings.catch_warnings(action="ignore"):  # Captum announces its hooks.
        ...     guided.attribute(images, target=3, upsampler="usu").shape
        torch.Size([1, 1, 8, 8])
    """
