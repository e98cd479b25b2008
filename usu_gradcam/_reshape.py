"""Where a transformer's tokens lie in the image: read from the model, never guessed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from usu_core._tokens import TokenGrid, is_windowed, read_token_grid

ReshapeTransform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TokenReshape:
    """Lay the tokens (B, N, C) of a vision transformer out as a map (B, C, height, width).

    Maps of convolutions, such as the patch embedding's, pass through.

    Attributes:
        height: Patches per column.
        width: Patches per row.
        prefix: Tokens before the patches, such as class and register tokens.

    Example:
        >>> TokenReshape(2, 3, prefix=1)(torch.zeros(1, 7, 4)).shape
        torch.Size([1, 4, 2, 3])
    """

    height: int
    width: int
    prefix: int

    def __call__(self, tokens: Tensor) -> Tensor:
        if tokens.dim() == 4:
            return tokens
        grid = TokenGrid(self.height, self.width, self.prefix)
        return grid.unfold(tokens, "target_layers")


@dataclass(frozen=True)
class ChannelsLast:
    """Bring the channels of a Swin transformer's maps (B, h, w, C) to the front.

    Attributes:
        channels: Numbers of channels the model's normalisations are made for.

    Example:
        >>> ChannelsLast(frozenset({8}))(torch.zeros(1, 2, 3, 8)).shape
        torch.Size([1, 8, 2, 3])
    """

    channels: frozenset[int]

    def __call__(self, maps: Tensor) -> Tensor:
        last = maps.dim() == 4 and maps.shape[3] in self.channels
        first = maps.dim() == 4 and maps.shape[1] in self.channels
        if last == first:
            raise ValueError(
                f"target_layers must give maps with {sorted(self.channels)} channels first or last "
                f"as the model's normalisations say, got shape {tuple(maps.shape)}. Try a norm1 "
                "of a block, or reshape_transform=."
            )
        return maps.permute(0, 3, 1, 2) if last else maps


def reshape_transform_for(model: Any, image: Tensor | None = None) -> ReshapeTransform | None:
    """Return the reshape transform of a timm or torchvision transformer, ``None`` for others.

    The library's own transforms assume a 14 × 14 grid, one prefix token and channels last. With
    four register tokens and a 12 × 16 grid they still fit, and scramble the map.

    Args:
        model: A model, or a wrapper around one.
        image: What it is run on (B, C, H, W). Models that take any size tell the grid by it.

    Example:
        >>> reshape_transform_for(torch.nn.Linear(1, 1)) is None
        True
    """
    modules = model.modules() if isinstance(model, nn.Module) else [model]
    found = (_of_module(module, image) for module in modules)
    return next((reshape for reshape in found if reshape is not None), None)


def _of_module(model: Any, image: Tensor | None) -> ReshapeTransform | None:
    grid = read_token_grid(model, image)
    if grid is not None:
        return TokenReshape(*grid)
    if is_windowed(model):
        norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
        return ChannelsLast(frozenset(int(norm.normalized_shape[-1]) for norm in norms))
    return None
