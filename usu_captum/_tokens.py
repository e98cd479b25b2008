"""Where a transformer's tokens lie in the image: read from the model, never guessed."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from usu_captum._models import modules_of


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
    for module in owners(model, layer):
        if hasattr(module, "num_prefix_tokens"):  # timm
            size = patch_grid(module, image)
            if size is not None:
                return TokenGrid(*size, int(module.num_prefix_tokens))  # type: ignore[arg-type]
        if hasattr(module, "class_token") and hasattr(module, "conv_proj"):  # torchvision
            side = int(module.image_size) // int(module.patch_size)  # type: ignore[arg-type]
            return TokenGrid(side, side, 1)
    return None


def owners(model: Any, layer: nn.Module | None) -> list[nn.Module]:
    """Return the modules of a model that contain a layer, all of them if none is given."""
    modules = modules_of(model)
    if layer is None:
        return modules
    return [module for module in modules if any(part is layer for part in module.modules())]


def patch_grid(model: Any, image: Tensor | None) -> tuple[int, int] | None:
    """Return the rows and columns of a timm model's patches, ``None`` if it does not say."""
    embedding: Any = getattr(model, "patch_embed", None)
    size = getattr(embedding, "grid_size", None)
    if image is not None and hasattr(embedding, "dynamic_feat_size"):
        size = embedding.dynamic_feat_size(tuple(image.shape[-2:]))
    return None if size is None else (int(size[0]), int(size[1]))
