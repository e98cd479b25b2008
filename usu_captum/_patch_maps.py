"""Maps of perturbed patches, redistributed inside each patch."""

from typing import Any

import torch
from captum import attr as captum_attr
from torch import Tensor

from usu_captum._attribute import Attribute
from usu_captum._options import Options
from usu_captum._patch_cells import mask_cells, window_cells
from usu_captum._upsampling import Redistribution, image_of, redistribution
from usu_captum._wrapping import innermost
from usu_core._precision import wide


def upsample_patches(
    method: Any, captum: Attribute, inputs: Any, arguments: dict[str, Any], options: Options
) -> Any:
    """Run a perturbation attribution and redistribute each patch's effect among its pixels.

    A patch's value is the model's whole response to losing it, so by default the pixels of the
    patch add up to it. The image's attribution becomes (B, 1, *pixels); other inputs keep theirs.
    """
    inner = innermost(method)
    on_dataset = isinstance(inner, captum_attr.DataLoaderAttribution)
    windows = isinstance(inner, captum_attr.Occlusion)
    if not windows and arguments.get("feature_mask") is None:
        raise ValueError(
            "feature_mask must be given to be redistributed: without one every value is a feature "
            "of its own. Try a grid of patches, or upsampler=None."
        )
    if not arguments.get("return_input_shape", True):
        raise ValueError(
            "return_input_shape must be True with an upsampler, got False. Try upsampler=None."
        )
    result = captum(method, inputs, **arguments)
    several = result if isinstance(result, tuple) else (result,)
    index = range(len(several))[options.image_input]
    values = several[index]
    if on_dataset:  # No one image is explained, so only upsamplers that need none can serve.
        step = Redistribution(options, None, None, None, "total")
    else:
        _check_shape(values, image_of(inputs, options.image_input))
        step = redistribution(options, inputs, inner.forward_func, arguments, "total")
    fine = _redistribute(values, index, len(several), windows, arguments, step)
    if not isinstance(result, tuple):
        return fine
    return tuple(fine if i == index else part for i, part in enumerate(several))


def _redistribute(
    values: Tensor,
    index: int,
    count: int,
    windows: bool,
    arguments: dict[str, Any],
    step: Redistribution,
) -> Tensor:
    if windows:
        shapes = arguments["sliding_window_shapes"]
        window = shapes[index] if isinstance(shapes[0], tuple) else shapes
        stride = _stride(arguments.get("strides"), index, count, len(window))
        cells, share = window_cells(values, window, stride)
        effects = cells.effects * share if step.convention == "total" else cells.effects
        return step(effects.to(wide(values).dtype), cells.grid)
    mask = arguments["feature_mask"]
    groups = mask_cells(values, mask[index] if isinstance(mask, tuple) else mask)
    if len(groups) == 1:
        return step(groups[0].effects, groups[0].grid)
    return step.one_by_one([group.effects for group in groups], [group.grid for group in groups])


def _stride(strides: Any, index: int, count: int, rank: int) -> tuple[int, ...]:
    """Return one of ``count`` inputs' stride, as Captum reads them.

    Of several inputs a tuple holds one stride for each, be there as many as dimensions.
    """
    if isinstance(strides, tuple) and (count > 1 or len(strides) == 1):
        strides = strides[index]
    strides = 1 if strides is None else strides
    return (strides,) * rank if isinstance(strides, int) else tuple(strides)


def _check_shape(values: Any, image: Tensor) -> None:
    if isinstance(values, Tensor) and values.shape == image.shape and image.dim() >= 3:
        return
    got = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
    raise ValueError(
        f"the attribution must have the image's shape {tuple(image.shape)} to be redistributed, "
        f"got {got}. Try a target, or a forward_func that returns one value per example, and an "
        "image_input with spatial dimensions."
    )
