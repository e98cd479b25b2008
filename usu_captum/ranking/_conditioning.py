"""How the class to explain is told to the decoder."""

from typing import Any

import torch
from torch import Tensor, nn

CONDITIONINGS = ("head", "embedding")


class EmbeddingConditioning(nn.Module):
    """A learned vector per class, as published; classes never seen in training stay random.

    Args:
        classes: Number of classes.
        width: Width of the description.

    Example:
        >>> EmbeddingConditioning(10, 4)(torch.tensor([3, 3])).shape
        torch.Size([2, 4])
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, width)

    def forward(self, targets: Tensor) -> Tensor:
        """Describe targets (B,) as (B, width)."""
        description: Tensor = self.embedding(targets)
        return description


class HeadConditioning(nn.Module):
    """A linear projection of the classifier's own row for the class.

    Rows of similar classes are similar, so what was learnt carries over to classes that training
    never chose. What all rows share moves no softmax, and is taken out.

    Args:
        rows: (classes, features), the weight of the classifier's last layer. Not part of the
            network's state: it comes with the classifier.
        width: Width of the description.

    Example:
        >>> HeadConditioning(torch.eye(10), 4)(torch.tensor([3, 3])).shape
        torch.Size([2, 4])
    """

    rows: Tensor

    def __init__(self, rows: Tensor, width: int) -> None:
        super().__init__()
        centred = rows.detach().float() - rows.detach().float().mean(0)
        scale = centred.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("rows", centred / scale, persistent=False)
        self.project = nn.Linear(rows.shape[1], width)

    def forward(self, targets: Tensor) -> Tensor:
        """Describe targets (B,) as (B, width)."""
        description: Tensor = self.project(self.rows[targets])
        return description


def head_rows(classifier: Any, classes: int) -> Tensor:
    """Return the weight (classes, features) of a classifier's last layer.

    That is the last linear layer, or convolution of one pixel, with an output for every class.

    Args:
        classifier: A module.
        classes: Number of its outputs.

    Raises:
        ValueError: If there is no such layer.

    Example:
        >>> head_rows(nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)), 3).shape
        torch.Size([3, 5])
    """
    found = last_layer(classifier, classes)
    if found is None:
        raise ValueError(
            f"classifier must end in a linear layer with {classes} outputs to condition on its "
            f'rows, got {type(classifier).__name__}. Try conditioning="embedding".'
        )
    return found.weight.detach().flatten(1)


def last_layer(classifier: Any, classes: int) -> nn.Linear | nn.Conv2d | None:
    """Return the layer whose rows :func:`head_rows` gives, ``None`` if there is none."""
    found: nn.Linear | nn.Conv2d | None = None
    for module in classifier.modules() if isinstance(classifier, nn.Module) else ():
        if (isinstance(module, nn.Linear) and module.out_features == classes) or (
            isinstance(module, nn.Conv2d)
            and module.out_channels == classes
            and module.kernel_size == (1, 1)
        ):
            found = module
    return found
