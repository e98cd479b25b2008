"""Where a transformer's tokens lie in the image: read from the model, never guessed."""

from typing import Any, NamedTuple

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
