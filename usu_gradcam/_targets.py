"""pytorch-grad-cam's way of naming a scalar (a model and one target per image) as a score."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from usu_core.scoring._model import ClassScores

Target = Callable[[Any], Any]
"""From the model's output for one image to a number."""


class TargetScore:
    """The targets' values on perturbed images.

    A ``ClassifierOutputTarget`` follows the scale a scorer asks for (probability, logit or
    log-odds). All other targets choose their own scale; targets that give several values are
    summed, as the library's gradient of them is.

    Args:
        model: From images (N, C, *pixels) to one output per image: a tensor or a list.
        targets: One per example.

    Example:
        >>> score = TargetScore(torch.nn.Flatten(), [lambda output: output[1]])
        >>> score.evaluate(torch.tensor([[[1.0, 3.0]]]), torch.tensor([0]), "logit")
        tensor([3.])
    """

    def __init__(self, model: Callable[[Tensor], Any], targets: Sequence[Target]) -> None:
        self._model = model
        self._targets = list(targets)
        self._categories = _categories(self._targets)
        self._scores = ClassScores()

    def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
        """Run the model; see :class:`usu_core.scoring.ModelScore`.

        Raises:
            TypeError: If the model does not give one output per image.
            ValueError: If a target is out of range.
        """
        outputs = self._model(images)
        check_outputs(outputs, len(images))
        if self._categories is not None and isinstance(outputs, Tensor) and outputs.dim() == 2:
            chosen = self._categories.to(outputs.device)[example.to(outputs.device)]
            classes = outputs.shape[1]
            if bool((chosen >= classes).any()) or bool((chosen < -classes).any()):
                raise ValueError(_out_of_range(self._targets, outputs, None))
            column = (chosen % classes)[:, None]
            return self._scores(outputs, output).gather(1, column)[:, 0]
        values = []
        for i, one in zip(example.tolist(), outputs, strict=True):
            value = self._targets[i](one)
            values.append(torch.as_tensor(value, device=images.device).sum())
        return torch.stack(values)


def check_targets(targets: Any, images: Tensor) -> None:
    """Raise unless there are images, with one callable target for each or no targets at all.

    The library zips targets with images, so that images without a target get an all-zero map.

    Raises:
        TypeError: If ``targets`` is not a list of callables.
        ValueError: If there are more or fewer targets than images, or no images.
    """
    if len(images) == 0:
        raise ValueError("input_tensor must hold at least one image, got none.")
    if targets is None:
        return
    if not isinstance(targets, list | tuple):
        raise TypeError(
            f"targets must be a list with one target per image, got {type(targets).__name__}. "
            "Try targets=[target]."
        )
    for target in targets:
        if not callable(target):
            raise TypeError(
                f"targets must be callable, got {target!r}. Try ClassifierOutputTarget({target!r})."
            )
    if len(targets) != len(images):
        raise ValueError(
            f"targets must hold one target per image, got {len(targets)} for {len(images)} "
            "images. Try targets=[target] * len(input_tensor), or targets=None."
        )


def check_outputs(outputs: Any, images: int) -> None:
    """Raise ``TypeError`` unless ``outputs`` is a tensor or list with one entry per image."""
    if isinstance(outputs, Tensor | list) and len(outputs) == images:
        return
    size = f" of {len(outputs)}" if isinstance(outputs, list | tuple | dict) else ""
    shape = f" of shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else size
    raise TypeError(
        f"model must return a tensor or list with one output per image, got a "
        f"{type(outputs).__name__}{shape} for {images} images. Try score_fn=, a function from "
        "images to one number per image."
    )


def predicted_targets(outputs: Any) -> list[Target]:
    """Return the class of the highest output per image, as the library does.

    Raises:
        ValueError: If the outputs are not (B, classes).
    """
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"targets must be given for a model whose output is not (images, classes), got None "
            f"for {got}. Try one target per image, or score_fn=."
        )
    return [ClassifierOutputTarget(int(i)) for i in outputs.detach().argmax(1)]


def explain_failure(
    error: Exception, targets: Sequence[Target] | None, outputs: Any, images: int
) -> Exception | None:
    """Return a clearer error for what goes wrong inside the library, ``None`` to keep ``error``."""
    if targets is None and outputs is not None:
        try:
            predicted_targets(outputs)
        except ValueError as clearer:
            return clearer
    if isinstance(outputs, dict | tuple):
        try:
            check_outputs(outputs, images)
        except TypeError as clearer:
            return clearer
    if isinstance(error, IndexError) and not (targets and _fit(targets, outputs)):
        return ValueError(_out_of_range(targets or (), outputs, error))
    given = error.obj if isinstance(error, AttributeError) else None
    # A recorder, or a reshape transform, asks this of what a layer gives.
    if isinstance(given, tuple | list | dict) and str(error).endswith(("'cpu'", "'dim'")):
        return ValueError(
            f"target_layers must give one tensor each, got a {type(given).__name__}. Try a layer "
            "inside it."
        )
    if "does not require grad" in str(error):
        return ValueError(
            "input_tensor must be differentiable through the model, got an output without a "
            "gradient: no parameter needs one, or it was called inside torch.no_grad(). Try "
            "input_tensor.requires_grad_(), or a class without gradients such as EigenCAM."
        )
    return None


def _fit(targets: Sequence[Target], outputs: Any) -> bool:
    """Whether targets are known to select something, so that an error has another cause."""
    if not isinstance(outputs, Tensor | list):
        return False
    try:
        for target, output in zip(targets, outputs, strict=False):
            target(output)
    except IndexError:
        return False
    return True


def _out_of_range(targets: Sequence[Target], outputs: Any, error: Exception | None) -> str:
    categories = _categories(targets)
    named = "" if categories is None else f" with categories {categories.tolist()}"
    shape = f" of shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else ""
    cause = "" if error is None else f" ({error})"
    return f"targets must fit the model's output{shape}, got targets{named}{cause}."


def _categories(targets: Sequence[Target]) -> Tensor | None:
    """Return the classes (B,) if all targets are plain class targets."""
    if not targets or any(type(target) is not ClassifierOutputTarget for target in targets):
        return None
    try:
        return torch.tensor([operator.index(target.category) for target in targets])  # type: ignore[attr-defined]
    except TypeError:  # a slice or a mask selects too, and its target is called as it is
        return None
