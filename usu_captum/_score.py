"""Captum's way of naming a scalar (forward function, target, further arguments) as a score."""

from collections.abc import Callable
from typing import Any

import torch
from captum._utils.common import _run_forward, _select_targets
from torch import Tensor

from usu_core.scoring._model import ClassScores


class ForwardScore:
    """The output of a forward function for a target, on images that replace one of its inputs.

    Args:
        forward_func: A module or any function, as in Captum.
        target: ``None``, an integer, a tuple, a tensor, or a list of integers or tuples with one
            entry per example, as in Captum.
        additional_forward_args: Passed on; tensors with one entry per example follow it.
        inputs: All inputs of the forward function, if it has more than one.
        image_input: Which of ``inputs`` is the image.

    Raises:
        TypeError: If the target is of no kind that Captum takes.
        ValueError: If it has not one entry for each of the inputs' examples.

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
        self._args = argument_tuple(additional_forward_args)
        self._inputs = inputs
        self._image_input = image_input
        self._examples = None if inputs is None else len(inputs[image_input])
        self._target = Target(target, self._examples)
        self._scores = ClassScores()

    def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
        """Run the forward function; see :class:`usu_core.scoring.ModelScore`.

        Raises:
            TypeError: If the forward function does not return a tensor.
            ValueError: If the target is no output, or does not select one value per example.
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
        # Captum selects on one device, and a service may answer on another.
        return self._target.select(self._scores(result.to(images.device), output), example)


class Target:
    """Which output is explained: checked against the batch, and once against the outputs.

    Captum checks neither where it never sees the target, or sees a part of the batch at a time.

    Args:
        target: As in Captum.
        examples: The size of the batch, if it is known.

    Raises:
        TypeError: If it is of no kind that Captum takes.
        ValueError: If a list or tensor has not one entry per example.

    Example:
        >>> outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> Target([1, 0], 2).select(outputs, torch.tensor([0, 1]))
        tensor([2., 3.])
    """

    def __init__(self, target: Any, examples: int | None = None) -> None:
        if not isinstance(target, int | tuple | list | Tensor | None):
            raise TypeError(
                "target must be an integer, a tuple, a tensor, a list or None, got "
                f"{type(target).__name__}."
            )
        count = entries(target)
        if count is not None and examples is not None and count != examples:
            raise ValueError(
                f"target must have one entry for each of {examples} examples, got {count}."
            )
        self._given = target
        # A tensor selects without a Python loop per call.
        whole_numbers = isinstance(target, list) and all(isinstance(t, int) for t in target)
        self._target = torch.tensor(target) if whole_numbers and target else target
        self._checked = False

    def select(self, outputs: Tensor, example: Tensor) -> Tensor:
        """Pick each row's value of its example's target, (N,).

        Raises:
            TypeError: If the target holds anything but integers.
            ValueError: If the target is no output, or does not select one value per row.
        """
        if not self._checked:  # Once: reading a tensor makes its device wait.
            _check_places(self._given, outputs)
            self._checked = True
        chosen = self._target
        if isinstance(chosen, Tensor) and chosen.numel() > 1:
            chosen = chosen.to(example.device)[example]
        elif isinstance(chosen, list):
            chosen = [chosen[i] for i in example.tolist()]
        selected: Tensor = _select_targets(outputs, chosen)
        rows = len(example)
        if selected.numel() != rows:
            by_row = outputs.dim() > 0 and len(outputs) == rows
            shape = tuple(outputs.shape[1:] if by_row else outputs.shape)
            what = "for each example" if by_row else f"for {rows} images at once"
            raise ValueError(
                f"target must select one value per example, got {self._given!r} for outputs of "
                f"shape {shape} {what}. Try target=0, or a forward_func that returns one value "
                "per example."
            )
        return selected.reshape(rows)


def entries(target: Any) -> int | None:
    """Return how many examples a target is given for one by one, ``None`` if for all alike.

    A tensor of one element is for all; a list of one is not.
    """
    if isinstance(target, Tensor):
        return target.numel() if target.numel() != 1 else None
    return len(target) if isinstance(target, list) else None


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


def _check_places(target: Any, outputs: Tensor) -> None:
    """Raise unless a target names values that outputs (N, ...) have."""
    one_by_one = entries(target) is not None
    places = target.tolist() if isinstance(target, Tensor) else target
    sizes = outputs.shape[1:]
    for given in places if isinstance(places, list) else () if places is None else (places,):
        place = given if isinstance(given, tuple) else (given,)
        # Integers one by one are gathered: from rows alone, and not counted from the end.
        gathered = one_by_one and not isinstance(given, tuple)
        if len(place) > len(sizes) or (gathered and len(sizes) > 1):
            indices = f"a tuple with an index for each of {len(sizes)} dimensions"
            raise ValueError(
                f"target must fit outputs of shape {tuple(sizes)} for each example, got "
                f"{given!r}. Try {indices if sizes else 'target=None'}."
            )
        for index, size in zip(place, sizes, strict=False):
            if isinstance(index, slice):
                continue
            if not isinstance(index, int):
                raise TypeError(f"target must hold integers, got {index!r}.")
            if not (0 if gathered else -size) <= index < size:
                raise ValueError(
                    f"target must lie in [0, {size - 1}], as outputs have shape {tuple(sizes)} "
                    f"for each example, got {index}."
                )
