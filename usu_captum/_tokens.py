"""Where a transformer's tokens lie in the image: read from the model, never guessed."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


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

    def unfold(self, tokens: Tensor) -> Tensor:
        """Lay tokens (B, N, C) out as a map (B, C, height, width), without the prefix.

        Raises:
            ValueError: If the number of tokens does not fit the grid.

        Example:
            >>> TokenGrid(2, 3, prefix=1).unfold(torch.zeros(1, 7, 4)).shape
            torch.Size([1, 4, 2, 3])
        """
        count = self.prefix + self.height * self.width
        if tokens.dim() != 3 or tokens.shape[1] != count:
            raise ValueError(
                f"layer must give {self.prefix} + {self.height} x {self.width} = {count} tokens as "
                f"the model's patch grid says, got shape {tuple(tokens.shape)}. Try a layer of the "
                "transformer blocks."
            )
        patches = tokens[:, self.prefix :].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], self.height, self.width)


def token_grid(model: Any) -> TokenGrid | None:
    """Return the token grid of a timm or torchvision vision transformer, ``None`` for others.

    Example:
        >>> token_grid(torch.nn.Linear(1, 1)) is None
        True
    """
    size = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if size is not None and hasattr(model, "num_prefix_tokens"):  # timm
        return TokenGrid(int(size[0]), int(size[1]), int(model.num_prefix_tokens))
    if hasattr(model, "class_token") and hasattr(model, "conv_proj"):  # torchvision
        side = int(model.image_size) // int(model.patch_size)
        return TokenGrid(side, side, 1)
    return None


def token_grad_cam(model: Any, activations: Tensor, gradients: Tensor) -> Tensor:
    """Return the Grad-CAM (B, 1, h, w) of a layer whose outputs are tokens (B, N, C).

    Raises:
        ValueError: If the model does not say how its tokens are laid out, or no gradient reaches
            the patch tokens, as after the last block of a model that reads its class token only.
    """
    grid = token_grid(model)
    if grid is None:
        raise ValueError(
            f"layer must give a spatial map to be upsampled, got tokens of shape "
            f"{tuple(activations.shape)}, and {type(model).__name__} does not say how they lie "
            "in the image. Try a timm or torchvision vision transformer, or a convolutional layer."
        )
    slopes, maps = grid.unfold(gradients), grid.unfold(activations)
    if not torch.is_nonzero(slopes.abs().amax()):
        raise ValueError(
            "layer must come before the last mixing of tokens, got one whose patch tokens have no "
            "gradient. Try the norm1 (timm) or ln_1 (torchvision) of the last block."
        )
    return (slopes.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True)
