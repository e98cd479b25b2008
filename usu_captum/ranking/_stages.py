"""Which layers of a classifier to read features from."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from usu_captum._layout import lay_out, token_grid
from usu_captum._models import bare_module, evaluating, in_its_dtype
from usu_captum._options import Options
from usu_core._tokens import has_proportions, is_attention, norm_channels

COUNT = 4
"""Layers to read, at most."""


def default_stages(
    classifier: nn.Module, images: Tensor, *, gradients: bool = False
) -> tuple[str, ...]:
    """Return the names of up to four layers to read a classifier's features from.

    Of a vision transformer, the blocks that end its quarters; of everything else, the last map of
    each size, finest first, by a layer that runs once.

    Args:
        classifier: A module.
        images: (B, C, H, W); the classifier is run on them once.
        gradients: Of a transformer, take the first normalisations of these blocks: behind the
            last block only the class token has a gradient.

    Raises:
        ValueError: If no module gives a spatial map.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        >>> default_stages(net, torch.rand(1, 1, 8, 8))
        ('1', '2')
    """
    classifier = bare_module(classifier)
    names = {module: name for name, module in classifier.named_modules() if name}
    for module in classifier.modules():
        encoder: Any = getattr(module, "encoder", None)
        blocks: Any = getattr(module, "blocks", None) or getattr(encoder, "layers", None)
        if blocks is not None and token_grid(module, images) is not None:
            total = len(blocks)
            ends = sorted({-(-(i + 1) * total // COUNT) - 1 for i in range(COUNT)})
            chosen = [blocks[i] for i in ends]
            if gradients:
                chosen = [getattr(b, "norm1", None) or getattr(b, "ln_1", b) for b in chosen]
            return tuple(names[block] for block in chosen)
    calls: Counter[nn.Module] = Counter()
    found: list[tuple[tuple[int, ...], nn.Module]] = []

    def record(module: nn.Module, args: Any, output: Any) -> None:
        calls[module] += 1
        if isinstance(output, Tensor) and output.dim() in (3, 4) and len(output) == len(images):
            try:
                values = lay_out(output, images, classifier, module, Options())
            except ValueError:
                return  # Not a map: tokens whose grid the model does not tell, for one.
            size = tuple(values.shape[2:])
            if min(size) > 1 and not is_attention(output):
                found.append((size, module))

    handles = []
    try:
        handles += [module.register_forward_hook(record) for module in names]
        with evaluating(classifier), torch.no_grad():
            classifier(in_its_dtype(classifier, images))
    finally:
        for handle in handles:
            handle.remove()
    # Of a layer that runs again, what the hooks keep is another size.
    once = [(size, names[module]) for size, module in found if calls[module] == 1]
    # Convolutions without padding lose borders; tokens by channels are about square at times.
    strict = bool(norm_channels(classifier.modules()))
    scaled = [pair for pair in once if has_proportions(pair[0], images.shape[2:], strict)]
    last = dict(scaled or once)
    if not last:
        raise ValueError(
            "classifier must have a layer with a spatial output that runs once, got none in "
            f'{type(classifier).__name__}. Try encoder="timm:resnet18".'
        )
    finest_first = sorted(last, key=lambda size: -size[0] * size[1])
    return tuple(last[size] for size in finest_first[-COUNT:])
