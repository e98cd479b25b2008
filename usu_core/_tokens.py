"""Where a transformer's tokens lie in the image: read from the model, never guessed."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

CHANNELS_FIRST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.modules.batchnorm._BatchNorm)
"""Layers that leave no doubt where their channels are."""


class TokenGrid(NamedTuple):
    """The patch grid of a vision transformer.

    Attributes:
        height: Patches per column.
        width: Patches per row.
        prefix: Tokens before the patches, such as class and register tokens.
    """

    height: int
    width: int
    prefix: int

    def unfold(self, tokens: Tensor, source: str = "layer") -> Tensor:
        """Lay tokens (B, N, C) out as a map (B, C, height, width), without the prefix.

        Raises:
            ValueError: If the number of tokens does not fit the grid, naming their ``source``.

        Example:
            >>> TokenGrid(2, 3, prefix=1).unfold(torch.zeros(1, 7, 4)).shape
            torch.Size([1, 4, 2, 3])
        """
        count = self.prefix + self.height * self.width
        if tokens.dim() != 3 or tokens.shape[1] != count:
            raise ValueError(
                f"{source} must give {self.prefix} + {self.height} x {self.width} = {count} tokens "
                f"as the model's patch grid says, got shape {tuple(tokens.shape)}. Try a layer of "
                "the transformer blocks, images of the model's own size, or give the grid yourself."
            )
        patches = tokens[:, self.prefix :].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], self.height, self.width)


def read_token_grid(model: Any, image: Tensor | None = None) -> TokenGrid | None:
    """Return the token grid of a timm or torchvision vision transformer, ``None`` for others.

    Args:
        model: The transformer itself, not a wrapper around it.
        image: What it is run on (B, C, H, W). Models that take any size tell the grid by it.

    Example:
        >>> read_token_grid(torch.nn.Linear(1, 1)) is None
        True
    """
    size = patch_grid(model, image)
    if size is not None and hasattr(model, "num_prefix_tokens"):  # timm
        return TokenGrid(*size, int(model.num_prefix_tokens))
    if hasattr(model, "class_token") and hasattr(model, "conv_proj"):  # torchvision
        side = int(model.image_size) // int(model.patch_size)
        return TokenGrid(side, side, 1)
    return None


def is_windowed(model: Any) -> bool:
    """Whether a model keeps (B, h, w, C) inside, as Swin of timm and torchvision does.

    Example:
        >>> is_windowed(torch.nn.Linear(1, 1))
        False
    """
    torchvision = "torchvision.models.swin_transformer"
    return getattr(model, "output_fmt", None) == "NHWC" or (
        any(kind.__module__ == torchvision for kind in type(model).__mro__)
        and hasattr(model, "features")
    )


def patch_grid(model: Any, image: Tensor | None) -> tuple[int, int] | None:
    """Return the rows and columns of a timm model's patches, ``None`` if it does not say."""
    embedding: Any = getattr(model, "patch_embed", None)
    size = getattr(embedding, "grid_size", None)
    if image is not None and hasattr(embedding, "dynamic_feat_size"):
        size = embedding.dynamic_feat_size(tuple(image.shape[-2:]))
    return None if size is None else (int(size[0]), int(size[1]))


def norm_channels(modules: Iterable[nn.Module]) -> frozenset[int]:
    """Return the numbers of channels that the layer norms among modules are made for.

    Models without any are convolutional, and keep channels first.

    Example:
        >>> norm_channels(nn.Sequential(nn.LayerNorm(8), nn.LayerNorm([4, 2, 2])).modules())
        frozenset({8})
    """
    shapes: list[Any] = [getattr(module, "normalized_shape", ()) for module in modules]
    return frozenset(int(shape[0]) for shape in shapes if len(shape) == 1)


def has_proportions(size: Sequence[int], pixels: Sequence[int], strict: bool = False) -> bool:
    """Whether a map of some size may be an image's, at about the same stride along every axis.

    Convolutions without padding lose borders at any stride, so strides may differ by half. A
    strict look allows for a cell more or less along each axis, as rounding has it.

    Example:
        >>> has_proportions((7, 7), (224, 200), strict=True), has_proportions((56, 96), (224, 224))
        (True, False)
    """
    both = list(zip(size, pixels, strict=True))
    if any(s > p for s, p in both):
        return False
    if strict:
        fewest = max(p / (s + 1) for s, p in both)
        return fewest <= min(p / (s - 1) if s > 1 else math.inf for s, p in both)
    return max(p / s for s, p in both) < 1.5 * min(p / s for s, p in both)


def is_scaled(size: Sequence[int], pixels: Sequence[int]) -> bool:
    """Whether a map of this size may be the image at some stride, a cell or two of border apart."""
    strides = (max(round(p / s), 1) for s, p in zip(size, pixels, strict=True))
    return all(
        abs(s * stride - p) <= 2 * stride
        for s, p, stride in zip(size, pixels, strides, strict=True)
    )


def is_attention(values: Tensor) -> bool:
    """Whether every row sums to one: a matrix of attention has as many dimensions as a map.

    Example:
        >>> import torch
        >>> scores = torch.rand(1, 2, 4, 4)
        >>> is_attention(scores.softmax(-1)), is_attention(scores)
        (True, False)
    """
    if values.is_meta:
        return False  # Without values there are no shares.
    sums = values.detach().float().sum(-1)
    return bool((sums - 1).abs().max() < 0.01)
