"""The layer to explain when the user names none."""

from typing import Any

import torch
from torch import Tensor, nn

from usu_captum._layout import token_grid
from usu_captum._models import evaluating, input_channels
from usu_core._tokens import has_proportions, is_attention, norm_channels


def default_layer(model: nn.Module, inputs: Tensor | None = None) -> tuple[str, nn.Module]:
    """Return the layer Grad-CAM is usually taken from: the last spatial map.

    For timm and torchvision vision transformers that is the first normalisation of the last block;
    after it, patch tokens no longer reach the class token. For everything else the model is run
    once, and the last module with a (B, C, h, w) output larger than one pixel is taken, if there is
    one of about the image's proportions; for Swin transformers, whose maps are (B, h, w, C), that
    is the last norm.

    Args:
        model: A module.
        inputs: One batch to run it on. If not given, zeros of the size the model says it takes, or
            of 224 x 224 pixels with the channels of its first convolution.

    Returns:
        The layer's name in ``model.named_modules()`` and the layer.

    Raises:
        TypeError: If the model is no module.
        ValueError: If no module gives a spatial map, or the model does not take such zeros.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> default_layer(net)[0]
        '0'
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a module, got {type(model).__name__}. Try the module it runs."
        )
    names = {module: name for name, module in model.named_modules() if module is not model}
    normalisation = _last_normalisation(model)
    if normalisation is not None:
        return names[normalisation], normalisation
    image = _example(model) if inputs is None else inputs
    found: list[nn.Module] = []
    scaled: list[nn.Module] = []
    # Convolutions without padding lose borders; tokens by channels are about square at times.
    strict = bool(norm_channels(model.modules()))

    def record(module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or output.dim() != 4 or min(output.shape[2:]) <= 1:
            return
        if is_attention(output):
            return
        found.append(module)
        sizes = (output.shape[2:], output.shape[1:3])  # channels first, channels last
        is_map = len(output) == len(image) and image.dim() == 4
        if is_map and any(has_proportions(size, image.shape[2:], strict) for size in sizes):
            scaled.append(module)

    handles = [module.register_forward_hook(record) for module in names]
    try:
        with evaluating(model), torch.no_grad():
            model(image)
    # Models assert what they take, or fail inside torch. Of the caller's own batch, they say it.
    except (AssertionError, RuntimeError) as error:
        if inputs is not None:
            raise
        raise ValueError(
            f"inputs must be given, since {type(model).__name__} does not take zeros of shape "
            f"{tuple(image.shape)}: {' '.join(str(error).split())}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise ValueError(
            f"model must have a layer with a spatial output, got none in {type(model).__name__}."
        )
    last = (scaled or found)[-1]
    return names[last], last


def _last_normalisation(model: nn.Module) -> nn.Module | None:
    """Return the first normalisation of a vision transformer's last block."""
    for module in model.modules():
        encoder: Any = getattr(module, "encoder", None)
        blocks: Any = getattr(module, "blocks", None) or getattr(encoder, "layers", None)
        if blocks is None or token_grid(module) is None:
            continue
        found: nn.Module | None = getattr(blocks[-1], "norm1", getattr(blocks[-1], "ln_1", None))
        return found
    return None


def _example(model: nn.Module) -> Tensor:
    """Zeros of the size a model says it takes, else of the most usual one."""
    config = getattr(model, "pretrained_cfg", None) or {}
    size = tuple(config.get("input_size", (input_channels(model) or 3, 224, 224)))
    weight = next(model.parameters(), torch.empty(0))
    return torch.zeros(1, *size, dtype=weight.dtype, device=weight.device)
