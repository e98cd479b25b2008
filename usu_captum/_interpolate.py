"""A drop-in for Captum's ``LayerAttribution.interpolate``."""

from collections.abc import Callable
from typing import Any

from captum.attr import LayerAttribution
from torch import Tensor

from usu_captum._options import Options
from usu_captum._upsampling import Redistribution, redistribution
from usu_core import AnyUpsampler

_TORCH_MODES = ("nearest", "nearest-exact", "area", "linear", "bilinear", "bicubic", "trilinear")
_plain_interpolate = LayerAttribution.interpolate


def interpolate(
    layer_attribution: Tensor,
    interpolate_dims: int | tuple[int, ...],
    interpolate_mode: str | AnyUpsampler = "nearest",
    *,
    image: Tensor | None = None,
    forward_func: Callable[..., Any] | None = None,
    target: Any = None,
    additional_forward_args: Any = None,
) -> Tensor:
    """Resize a layer attribution as Captum does, or redistribute it.

    Args:
        layer_attribution: (B, C, *cells), from any layer attribution.
        interpolate_dims: The size wanted.
        interpolate_mode: One of torch's modes, for Captum's result bit for bit; or an upsampler's
            name or object, such as ``"usu"``.
        image: The explained input (B, C', *pixels). Guided upsamplers need it, and
            ``forward_func``.
        forward_func: The model.
        target: The explained output, as in Captum.
        additional_forward_args: As in Captum.

    Returns:
        (B, C, *interpolate_dims); channels are kept. Density unless the upsampler says otherwise.

    Raises:
        ValueError: If the mode is unknown, the image or ``forward_func`` is missing, or images are
            of another size or number.

    Example:
        >>> cells, image = torch.ones(1, 1, 2, 2), torch.rand(1, 3, 8, 8)
        >>> interpolate(cells, (8, 8)).shape
        torch.Size([1, 1, 8, 8])
        >>> model = torch.nn.Flatten()
        >>> interpolate(cells, (8, 8), "usu", image=image, forward_func=model, target=1).shape
        torch.Size([1, 1, 8, 8])
    """
    if isinstance(interpolate_mode, str) and interpolate_mode in _TORCH_MODES:
        result: Tensor = _plain_interpolate(layer_attribution, interpolate_dims, interpolate_mode)
        return result
    options = Options(interpolate_mode, reduce=None)
    rank = layer_attribution.dim() - 2
    size = (interpolate_dims,) * rank if isinstance(interpolate_dims, int) else interpolate_dims
    if options.needs_score and (image is None or forward_func is None):
        missing = "image" if image is None else "forward_func"
        raise ValueError(
            f"{missing} must be given to {type(options.resolved).__name__}, which follows the "
            "model's own scores. Try image=images, forward_func=model, target=0."
        )
    if image is None:
        return Redistribution(options, None, None, None).resize(layer_attribution, tuple(size))
    if len(image) != len(layer_attribution):
        raise ValueError(
            f"image must hold the {len(layer_attribution)} examples of layer_attribution, got "
            f"{len(image)}."
        )
    if tuple(image.shape[2:]) != tuple(size):
        raise ValueError(
            f"interpolate_dims must be the image's size {tuple(image.shape[2:])}, got "
            f"{tuple(size)}."
        )
    arguments = {"target": target, "additional_forward_args": additional_forward_args}
    if forward_func is None:
        return Redistribution(options, image, None, None)(layer_attribution)
    return redistribution(options, image, forward_func, arguments)(layer_attribution)
