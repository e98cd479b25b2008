"""A layer's output as a channels-first map: (B, N, C) and (B, h, w, C) to (B, C, h, w)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from usu_captum._models import owners
from usu_captum._options import Options
from usu_core._tokens import (
    CHANNELS_FIRST,
    TokenGrid,
    has_proportions,
    is_windowed,
    norm_channels,
    patch_grid,
    read_token_grid,
)


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
        ValueError: If ``values`` are not spatial, or it is not known how they lie, or a given grid
            is of another size.
    """
    if len(values) == len(image):
        if image.dim() == 4 and values.dim() == 3:
            return _unfold(values, image, forward_func, layer, options)
        if image.dim() >= 3 and values.dim() == image.dim():
            last = _is_channels_last(values, image, forward_func, layer, options)
            if last is not None:
                cells = values.movedim(-1, 1) if last else values
                _check_given(options.token_grid, cells)
                return cells
    raise ValueError(
        "layer must give one spatial map of the image's rank per example to be upsampled, got "
        f"shape {tuple(values.shape)} for an image of shape {tuple(image.shape)}. Try a "
        "convolutional layer, another image_input, upsampler=None, or grid=CellGrid.even(cells, "
        "pixels) if these are its cells."
    )


def is_channels_first(values: Tensor, image: Tensor, forward_func: Any, layer: nn.Module) -> bool:
    """Whether what a layer gave, of the image's rank, is a map (B, C, *cells) as it stands."""
    try:
        return _is_channels_last(values, image, forward_func, layer, Options()) is False
    except ValueError:
        return False


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
        or _may_be_last(layer, owners(forward_func, layer))
    )


def _check_given(grid: TokenGrid | None, cells: Tensor) -> None:
    if grid is not None and tuple(cells.shape[2:]) != (grid.height, grid.width):
        raise ValueError(
            f"grid must be the layer's, which gives a map of {tuple(cells.shape[2:])} cells, got "
            f"{grid}. Try leaving it out."
        )


def _unfold(
    tokens: Tensor, image: Tensor, forward_func: Any, layer: Any, options: Options
) -> Tensor:
    grid = options.token_grid or token_grid(forward_func, image, layer)
    if grid is None:
        sizes = _hierarchy(image, owners(forward_func, layer))
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


def _is_channels_last(
    values: Tensor, image: Tensor, forward_func: Any, layer: Any, options: Options
) -> bool | None:
    """Read a map (B, C, *cells) or (B, *cells, C) as what it can be a map of the image at.

    Types and numbers of channels only say which is tried first: a linear layer may as well run
    over the width. Without a layer the map has been laid out before.
    """
    if layer is None or isinstance(layer, CHANNELS_FIRST):
        return False
    readings = {False: tuple(values.shape[2:]), True: tuple(values.shape[1:-1])}
    inside = owners(forward_func, layer)
    tokens = options.token_grid or token_grid(forward_func, image, layer)
    windows = _hierarchy(image, inside)
    grids: tuple[tuple[int, ...], ...] = windows.grids if windows else ()
    if tokens:
        grids = ((tokens.height, tokens.width),)
    if options.cell_grid is not None:
        grids = (options.cell_grid.cells,)
    is_between_tokens = tokens and {*values.shape[-2:]} <= {
        tokens.height * tokens.width,
        tokens.prefix + tokens.height * tokens.width,
    }
    if is_between_tokens:
        raise ValueError(
            "layer must give a map to be upsampled, got what every token is to every other, of "
            f"shape {tuple(values.shape)}. Try the norm1 (timm) or ln_1 (torchvision) of the last "
            "block."
        )
    says_last = _type_says_last(values, layer)
    if says_last is None:
        says_last = _channels_say_last(values, _norms(layer, inside))
    if says_last is None:
        says_last = _is_in_windows(inside)
    order = (says_last, not says_last)
    fitting = [last for last in order if readings[last] in grids]
    if not fitting and windows is not None:
        raise ValueError(
            f"layer must give one of the grids {windows.grids} of the model, got shape "
            f"{tuple(values.shape)}. Try a block of the model, or its last norm."
        )
    pixels = tuple(image.shape[2:])
    for strict in (True, False):
        fitting += [last for last in order if has_proportions(readings[last], pixels, strict)]
    if fitting:
        return fitting[0]
    # Convolutions may stride as they like, and keep their channels first.
    return None if _may_be_last(layer, inside) else False


def _may_be_last(layer: Any, inside: Sequence[nn.Module]) -> bool:
    """Whether channels may lie anywhere but first in what a layer gives, inside those modules."""
    if isinstance(layer, CHANNELS_FIRST):
        return False
    return isinstance(layer, nn.Linear) or _is_in_windows(inside) or bool(_norms(layer, inside))


def _is_in_windows(inside: Sequence[nn.Module]) -> bool:
    return any(is_windowed(module) for module in inside)


def _norms(layer: Any, inside: Sequence[nn.Module]) -> frozenset[int]:
    """Return the channels that the model's layer norms are for, the layer's if it is hidden."""
    return norm_channels(next(iter(inside), layer).modules())


def _type_says_last(values: Tensor, layer: Any) -> bool | None:
    size = values.shape[-1]
    normal = getattr(layer, "normalized_shape", None)
    # Layer norms for maps that keep channels first are called LayerNorm2d, LayerNormAct2dFp32, ...
    if normal is not None and "2d" not in type(layer).__name__ and tuple(normal) == (size,):
        return True
    if isinstance(layer, nn.Linear) and size in (layer.in_features, layer.out_features):
        return True
    if type(layer).__name__ == "Permute":  # torchvision's
        return bool(layer.dims[-1] == 1)
    return None


def _channels_say_last(values: Tensor, channels: frozenset[int]) -> bool | None:
    """Ask the normalisations of the model, which are made for its numbers of channels."""
    first, last = values.shape[1] in channels, values.shape[-1] in channels
    return None if first == last else last


def _hierarchy(image: Tensor, inside: Sequence[nn.Module]) -> _Hierarchy | None:
    """Return the grids of a windowed transformer; each stage halves the last, rounding up."""
    for module in inside:
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
