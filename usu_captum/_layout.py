"""A layer's output as a channels-first map: (B, N, C) and (B, h, w, C) to (B, C, h, w)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from usu_captum._models import owners
from usu_captum._options import Options
from usu_core._tokens import TokenGrid, is_windowed, patch_grid, read_token_grid

_CHANNELS_FIRST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.modules.batchnorm._BatchNorm)


class _Hierarchy(NamedTuple):
    """The grids a windowed transformer goes through, finest first."""

    grids: tuple[tuple[int, int], ...]


def lay_out(
    values: Tensor, image: Tensor, forward_func: Any, layer: Any, options: Options
) -> Tensor:
    """Return what a layer gave as a map (B, C, *cells), leaving out prefix tokens.

    Args:
        values: Attribution, activation or gradient of the layer.
        image: The image (B, C', *pixels).
        forward_func: The model, asked how its tokens lie.
        layer: The layer, asked which dimension its channels are in.
        options: May hold a token grid, which is believed.

    Raises:
        ValueError: If ``values`` are not spatial, or it is not known how they lie.
    """
    if len(values) == len(image):
        if image.dim() == 4 and values.dim() == 3:
            return _unfold(values, image, forward_func, layer, options)
        if image.dim() >= 3 and values.dim() == image.dim():
            last = image.dim() == 4 and _is_channels_last(values, image, forward_func, layer)
            return values.movedim(-1, 1) if last else values
    raise ValueError(
        "layer must give one spatial map of the image's rank per example to be upsampled, got "
        f"shape {tuple(values.shape)} for an image of shape {tuple(image.shape)}. Try a "
        "convolutional layer, another image_input, or upsampler=None."
    )


def is_scaled(size: Sequence[int], pixels: Sequence[int]) -> bool:
    """Whether a map of this size may be the image at some stride, a cell or two of border apart.

    Matrices of attention have as many dimensions as maps, and are none.
    """
    strides = (max(round(p / s), 1) for s, p in zip(size, pixels, strict=True))
    return all(
        abs(s * stride - p) <= 2 * stride
        for s, p, stride in zip(size, pixels, strides, strict=True)
    )


def is_spatial(values: Any, image: Tensor) -> bool:
    """Whether an attribution can be a map of the image at all."""
    return (
        isinstance(values, Tensor)
        and image.dim() >= 3
        and len(values) == len(image)
        and (values.dim() == image.dim() or (image.dim() == 4 and values.dim() == 3))
    )


def token_grid(
    model: Any, image: Tensor | None = None, layer: nn.Module | None = None
) -> TokenGrid | None:
    """Return the token grid of a timm or torchvision vision transformer, ``None`` for others.

    Args:
        model: A module or forward function; a transformer inside a wrapper is found.
        image: What it is run on (B, C, H, W). Models that take any size tell the grid by it.
        layer: Which transformer is meant, if there are several: the one that holds this layer.

    Example:
        >>> token_grid(torch.nn.Linear(1, 1)) is None
        True
    """
    grids = (read_token_grid(module, image) for module in owners(model, layer))
    return next((grid for grid in grids if grid is not None), None)


def needs_layout(forward_func: Any, layer: Any, options: Options) -> bool:
    """Whether a layer's output may be anything but (B, C, *cells)."""
    return (
        options.token_grid is not None
        or token_grid(forward_func, None, layer) is not None
        or any(is_windowed(module) for module in owners(forward_func, layer))
        or _type_says_last(layer) is True
    )


def _unfold(
    tokens: Tensor, image: Tensor, forward_func: Any, layer: Any, options: Options
) -> Tensor:
    grid = options.token_grid or token_grid(forward_func, image, layer)
    if grid is None:
        sizes = _hierarchy(image, forward_func, layer)
        fits = [g for g in (sizes.grids if sizes else ()) if g[0] * g[1] == tokens.shape[1]]
        grid = TokenGrid(*fits[0], 0) if fits else None
    if grid is None:
        name = type(forward_func).__name__
        raise ValueError(
            f"layer must give a spatial map to be upsampled, got tokens of shape "
            f"{tuple(tokens.shape)}, and {name} does not say how they lie in the image. Try a "
            "timm or torchvision vision transformer itself as forward_func, a convolutional "
            "layer, or grid=TokenGrid(height, width, prefix)."
        )
    if tokens.shape[1] == grid.height * grid.width:
        grid = grid._replace(prefix=0)  # As before the class token joins, after the embedding.
    patches = grid.unfold(tokens)
    # Zeros would be redistributed to zeros without a word.
    if grid.prefix and not patches.any() and tokens.any():
        raise ValueError(
            "layer must come before the last mixing of tokens, got one whose patch tokens have no "
            "gradient. Try the norm1 (timm) or ln_1 (torchvision) of the last block."
        )
    return patches


def _is_channels_last(values: Tensor, image: Tensor, forward_func: Any, layer: Any) -> bool:
    """Ask the layer's type, then the grids the model can have."""
    by_type = _type_says_last(layer)
    if by_type is not None:
        return by_type
    tokens = token_grid(forward_func, image, layer)
    windows = _hierarchy(image, forward_func, layer)
    if windows is None and any(is_windowed(module) for module in owners(forward_func, layer)):
        return is_scaled(values.shape[1:3], image.shape[2:])  # It says so, but not how finely.
    grids = ((tokens.height, tokens.width),) if tokens else windows.grids if windows else ()
    shape = tuple(values.shape)
    first, last = shape[2:4] in grids, shape[1:3] in grids
    if windows is not None and not first and not last:
        raise ValueError(
            f"layer must give one of the grids {windows.grids} of the model, got shape {shape}. "
            "Try a block of the model, or its last norm."
        )
    return last and (windows is not None or not first)


def _type_says_last(layer: Any) -> bool | None:
    if isinstance(layer, _CHANNELS_FIRST) or type(layer).__name__ == "Permute":
        return False
    # Layer norms for maps that keep channels first are called LayerNorm2d in both libraries.
    norm = isinstance(layer, nn.LayerNorm) and not type(layer).__name__.endswith("2d")
    return True if norm or isinstance(layer, nn.Linear) else None


def _hierarchy(image: Tensor, forward_func: Any, layer: Any) -> _Hierarchy | None:
    """Return the grids of a windowed transformer; each stage halves the last, rounding up."""
    for module in owners(forward_func, layer):
        if not is_windowed(module):
            continue
        size = patch_grid(module, image)
        if size is None and hasattr(module, "features"):
            stages: Any = module.features
            rows, columns = stages[0][0].stride
            size = (image.shape[-2] // int(rows), image.shape[-1] // int(columns))
        if size is None:
            continue
        grids = [size]
        while min(grids[-1]) > 1:
            grids.append((-(-grids[-1][0] // 2), -(-grids[-1][1] // 2)))
        return _Hierarchy(tuple(grids))
    return None
