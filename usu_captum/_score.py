"""Captum's way of naming a scalar (forward function, target, further arguments) as a score."""

from collections.abc import Callable
from typing import Any

import torch
from captum._utils.common import _run_forward, _select_targets
from torch import Tensor

from usu_core.scoring import class_scores


class ForwardScore:
    """The output of a forward function for a target, on images that replace one of its inputs.

    Args:
        forward_func: A module or any function, as in Captum.
        target: ``None``, an integer, a tuple, a tensor, or a list of integers or tuples with one
            entry per example, as in Captum.
        additional_forward_args: Passed on; tensors with one entry per example follow it.
        inputs: All inputs of the forward function, if it has more than one.
        image_input: Which of ``inputs`` is the image.

    Example:
        >>> score = ForwardScore(torch.nn.Flatten(), target=1)
        >>> images = torch.tensor([[[1.0, 3.0]]])
        >>> score.evaluate(images, torch.tensor([0]), "logit")
        tensor([3.])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        target: Any = None,
        additional_forward_args: Any = None,
        inputs: tuple[Tensor, ...] | None = None,
        image_input: int = 0,
    ) -> None:
        self._forward = forward_func
        self._target = tensor_target(target)
        self._args = argument_tuple(additional_forward_args)
        self._inputs = inputs
        self._image_input = image_input
        self._examples = None if inputs is None else len(inputs[image_input])

    def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
        """Run the forward function; see :class:`usu_core.scoring.ModelScore`.

        Raises:
            TypeError: If the forward function does not return a tensor.
            ValueError: If the target does not select one value per example.
        """
        inputs: Any = images
        if self._inputs is not None:
            inputs = tuple(
                images if i == self._image_input else follow(value, example, self._examples)
                for i, value in enumerate(self._inputs)
            )
        args = tuple(follow(arg, example, self._examples) for arg in self._args)
        result = _run_forward(self._forward, inputs, None, args or None)
        if not isinstance(result, Tensor):
            raise TypeError(
                f"forward_func must return a tensor to be scored, got {type(result).__name__}. "
                "Try a wrapper that selects the tensor."
            )
        return select(class_scores(result, output), self._target, example)


def tensor_target(target: Any) -> Any:
    """Turn a list of integers into a tensor, which selects without a Python loop per call."""
    whole_numbers = isinstance(target, list) and all(isinstance(t, int) for t in target)
    return torch.tensor(target) if whole_numbers and target else target


def argument_tuple(additional_forward_args: Any) -> tuple[Any, ...]:
    """Return Captum's additional forward arguments as a tuple."""
    args = additional_forward_args
    return () if args is None else args if isinstance(args, tuple) else (args,)


def follow(value: Any, example: Tensor, examples: int | None) -> Any:
    """Follow the examples in a tensor with one entry for each; leave anything else alone."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    if len(value) == examples or (examples is None and len(value) > 1):
        return value[example.to(value.device)]
    return value


def select(outputs: Tensor, target: Any, example: Tensor) -> Tensor:
    """Pick each row's value of its example's target, (N,).

    Raises:
        ValueError: If the target does not select one value per row.
    """
    chosen = target
    if isinstance(target, Tensor) and target.numel() > 1:
        chosen = target.to(example.device)[example]
    elif isinstance(target, list):
        chosen = [target[i] for i in example.tolist()]
    selected: Tensor = _select_targets(outputs, chosen)
    if selected.numel() != len(example):
        raise ValueError(
            f"target must select one value per example, got {target!r} for outputs of "
            f"shape {tuple(outputs.shape)} and {len(example)} examples. Try target=0, or a "
            "forward_func that returns one value per example."
        )
    return selected.reshape(len(example))
