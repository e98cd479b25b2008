"""Attention rollout (Abnar and Zuidema, 2020), which benchmarks compare with."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from usu_captum._layout import token_grid
from usu_captum._models import evaluating


def attention_rollout(model: nn.Module, image: Tensor) -> Tensor:
    """Return how far attention carries each patch to the class token: (B, 1, H, W).

    Heads are averaged, half of every block is the identity, and blocks are multiplied. It knows
    of no class.

    Args:
        model: A timm vision transformer with a class token.
        image: (B, C, H, W).
    """
    blocks: Any = model.blocks
    attentions: list[Tensor] = []
    fused = [block.attn.fused_attn for block in blocks]
    handles = []
    try:
        for block in blocks:
            block.attn.fused_attn = False
            hook = block.attn.attn_drop.register_forward_hook(
                lambda module, args, output: attentions.append(output.mean(1))
            )
            handles.append(hook)
        with evaluating(model), torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
        for block, flag in zip(blocks, fused, strict=True):
            block.attn.fused_attn = flag
    identity = torch.eye(attentions[0].shape[-1], device=image.device)
    carried = identity.expand_as(attentions[0])
    for attention in attentions:
        carried = (attention + identity) / 2 @ carried
    grid = token_grid(model, image)
    if grid is None:
        raise ValueError("model must say how its tokens lie in the image, and does not.")
    cells = grid.unfold(carried[:, :1].transpose(1, 2))
    return F.interpolate(cells, image.shape[2:], mode="bilinear")
