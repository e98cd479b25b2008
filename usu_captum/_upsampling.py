"""The step every class of this package adds to Captum's result."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from usu_captum._score import ForwardScore
from usu_core import AnyUpsampler, resolve


def upsample(
    coarse: Any,
    upsampler: str | AnyUpsampler,
    *,
    inputs: Tensor | tuple[Tensor, ...],
    forward_func: Callable[..., Any],
    target: Any,
    additional_forward_args: Any,
    image_input: int,
) -> Any:
    """Redistribute one coarse map, or each of a tuple, over the pixels of the image.

    Captum has removed its hooks by now, so scoring the model records nothing.
    """
    if isinstance(coarse, tuple):
        return tuple(
            upsample(
                part,
                upsampler,
                inputs=inputs,
                forward_func=forward_func,
                target=target,
                additional_forward_args=additional_forward_args,
                image_input=image_input,
            )
            for part in coarse
        )
    several = inputs if isinstance(inputs, tuple) else (inputs,)
    if not -len(several) <= image_input < len(several):
        raise ValueError(f"image_input must name one of {len(several)} inputs, got {image_input}.")
    image = several[image_input]
    if coarse.dim() != image.dim() or coarse.dim() < 3:
        raise ValueError(
            "layer must give a spatial map of the image's rank to be upsampled, got shape "
            f"{tuple(coarse.shape)} for an image of shape {tuple(image.shape)}. Try a "
            "convolutional layer, another image_input, or upsampler=None."
        )
    score = ForwardScore(
        forward_func, target, additional_forward_args, several, image_input % len(several)
    )
    with torch.no_grad():
        image = image.detach()
    result: Tensor = resolve(upsampler)(coarse, image=image, score=score)
    return result
