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
        # A list of integers selects like a tensor does, without a Python loop per call.
        whole_numbers = isinstance(target, list) and all(isinstance(t, int) for t in target)
        self._target = torch.tensor(target) if whole_numbers and target else target
        args = additional_forward_args
        self._args = () if args is None else args if isinstance(args, tuple) else (args,)
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
                images if i == self._image_input else self._follow(value, example)
                for i, value in enumerate(self._inputs)
            )
        args = tuple(self._follow(arg, example) for arg in self._args)
        result = _run_forward(self._forward, inputs, None, args or None)
        if not isinstance(result, Tensor):
            raise TypeError(
                f"forward_func must return a tensor to be scored, got {type(result).__name__}. "
                "Try a wrapper that selects the tensor."
            )
        selected: Tensor = _select_targets(class_scores(result, output), self._pick_target(example))
        if selected.numel() != len(images):
            raise ValueError(
                f"target must select one value per example, got {self._target!r} for outputs of "
                f"shape {tuple(result.shape)} and {len(images)} examples. Try target=0, or a "
                "forward_func that returns one value per example."
            )
        return selected.reshape(len(images))

    def _pick_target(self, example: Tensor) -> Any:
        target = self._target
        if isinstance(target, Tensor) and target.numel() > 1:
            return target.to(example.device)[example]
        if isinstance(target, list):
            return [target[i] for i in example.tolist()]
        return target

    def _follow(self, value: Any, example: Tensor) -> Any:
        """Follow the examples in a tensor with one entry for each; leave anything else alone."""
        if not isinstance(value, Tensor) or value.dim() == 0:
            return value
        if len(value) == self._examples or (self._examples is None and len(value) > 1):
            return value[example.to(value.device)]
        return value
