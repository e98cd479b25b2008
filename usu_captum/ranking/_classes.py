"""Which class an image is explained for, and which classes judge the map."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from usu_captum.ranking._images import UNLABELLED
from usu_captum.ranking._labels import check_labels


class Explained(NamedTuple):
    """The classes of a batch.

    Attributes:
        conditions: (B,), what maps are made for.
        judges: (B,) or (B, 2), what they are judged by.
    """

    conditions: Tensor
    judges: Tensor


def choose_classes(
    logits: Tensor,
    labels: Tensor,
    *,
    mode: str,
    rivals: float,
    generator: torch.Generator,
) -> Explained:
    """Choose classes from what a classifier says of whole images.

    A rival is the true class where the top-1 is wrong, and the runner-up where it is right or the
    truth is not known.

    Args:
        logits: (B, classes).
        labels: (B,), ``UNLABELLED`` where not known.
        mode: ``"one"`` or ``"published"``; see :class:`TrainingConfig`.
        rivals: Share of rivals, for ``"one"``.
        generator: Draws them, on the CPU.

    Raises:
        ValueError: If a label is of no output.

    Example:
        >>> logits, labels = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([0])
        >>> draw = torch.Generator()
        >>> choose_classes(logits, labels, mode="published", rivals=0.5, generator=draw).judges
        tensor([[1, 0]])
        >>> choose_classes(logits, labels, mode="one", rivals=1.0, generator=draw)
        Explained(conditions=tensor([0]), judges=tensor([0]))
    """
    check_labels(labels, logits.shape[1])
    first, second = logits.topk(2, dim=1).indices.unbind(1)
    labels = labels.to(first.device)
    rival = torch.where((labels != UNLABELLED) & (labels != first), labels, second)
    if mode == "published":
        return Explained(first, torch.stack([first, rival], 1))
    drawn = torch.rand(len(first), generator=generator).to(first.device) < rivals
    chosen = torch.where(drawn, rival, first)
    return Explained(chosen, chosen)


def logits_of(classifier: Any, images: Tensor, classes: int) -> Tensor:
    """Return a classifier's outputs (B, classes), without gradient.

    Raises:
        ValueError: If they have another shape.
    """
    with torch.no_grad():
        logits = classifier(images)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (len(images), classes):
        raise ValueError(
            f"classifier must give logits of shape ({len(images)}, {classes}), as the network has "
            f"{classes} classes, got {shape}."
        )
    result: Tensor = logits
    return result
