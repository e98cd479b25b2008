"""The scalar of the model that a path integral explains, and its gradients."""

from collections.abc import Callable
from typing import Any

import torch
from captum._utils.common import _run_forward
from torch import Tensor

from usu_captum._score import Target, argument_tuple, follow
from usu_core._precision import wide

OBJECTIVES = ("logit", "log-probability", "probability")

Transform = Callable[[Tensor], Tensor]
"""The model's outputs (N, classes) to outputs of the same shape."""


class Objective:
    """One scalar per example, as a function of the explained inputs.

    Args:
        forward_func: A module or any function, as in Captum.
        target: As in Captum.
        additional_forward_args: As in Captum; tensors with one entry per example follow it.
        objective: ``"logit"`` (the outputs as they are), ``"log-probability"``,
            ``"probability"`` (softmax over dimension 1), or a function of the outputs.
        examples: The size of the batch.

    Raises:
        TypeError: If the target is of no kind that Captum takes.
        ValueError: If it has not one entry per example.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        target: Any,
        additional_forward_args: Any,
        objective: str | Transform,
        examples: int,
    ) -> None:
        self._forward = forward_func
        self._target = Target(target, examples)
        self._args = argument_tuple(additional_forward_args)
        self._objective = check_objective(objective)
        self._examples = examples

    def __call__(self, points: tuple[Tensor, ...], example: Tensor) -> Tensor:
        """Evaluate the objective.

        Args:
            points: Each (N, ...), in place of the forward function's inputs.
            example: (N,) int64, the example of the batch each row belongs to.

        Returns:
            (N,) values, differentiable where gradients are enabled.
        """
        args = tuple(_tracked(follow(arg, example, self._examples)) for arg in self._args)
        outputs = _run_forward(self._forward, points, None, args or None)
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"forward_func must return a tensor, got {type(outputs).__name__}. "
                "Try a wrapper that selects the tensor."
            )
        return self._target.select(self._transformed(outputs), example)

    def values(self, points: tuple[Tensor, ...], example: Tensor, chunk: int) -> Tensor:
        """Evaluate without gradients, at most ``chunk`` rows at a time."""
        with torch.no_grad():
            parts = [
                self(tuple(p[i] for p in points), example[i])
                for i in torch.arange(len(example), device=example.device).split(chunk)
            ]
        return torch.cat(parts)

    def gradients(
        self, points: tuple[Tensor, ...], example: Tensor, chunk: int
    ) -> tuple[Tensor, ...]:
        """Return the gradient at each row, with at most ``chunk`` rows in a model call.

        Raises:
            ValueError: If the output does not depend on the inputs through autograd.
        """
        return self.values_and_gradients(points, example, chunk)[1]

    def values_and_gradients(
        self, points: tuple[Tensor, ...], example: Tensor, chunk: int
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return what one pass gives: values (N,), and gradients as :meth:`gradients` does."""
        if len(example) <= chunk:
            return self._gradients(points, example)
        pieces = zip(*(p.split(chunk) for p in points), strict=True)
        values, found = zip(
            *(
                self._gradients(piece, rows)
                for piece, rows in zip(pieces, example.split(chunk), strict=True)
            ),
            strict=True,
        )
        return torch.cat(values), tuple(torch.cat(each) for each in zip(*found, strict=True))

    def _gradients(
        self, points: tuple[Tensor, ...], example: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        # Callers may be under no_grad or inference mode, whose tensors autograd refuses.
        with torch.inference_mode(False), torch.enable_grad():
            leaves = tuple(
                (p.clone() if p.is_inference() else p.detach()).requires_grad_() for p in points
            )
            values = self(leaves, example)
            total = values.sum()
            if not total.requires_grad:
                raise ValueError(
                    "forward_func must be differentiable in its inputs, got an output without a "
                    "gradient. Try removing no_grad, detach, argmax or a detour through NumPy."
                )
            found = torch.autograd.grad(total, leaves, allow_unused=True)
        return values.detach(), tuple(
            torch.zeros_like(leaf) if g is None else g.detach()
            for g, leaf in zip(found, leaves, strict=True)
        )

    def _transformed(self, outputs: Tensor) -> Tensor:
        if self._objective == "logit":
            return outputs
        if callable(self._objective):
            return self._objective(outputs)
        if outputs.dim() < 2 or outputs.shape[1] < 2:
            raise ValueError(
                f"objective={self._objective!r} needs outputs of several classes, got shape "
                f"{tuple(outputs.shape)}. Try objective='logit'."
            )
        logits = wide(outputs)
        log_p = logits.log_softmax(1)
        return log_p.exp() if self._objective == "probability" else log_p


def _tracked(value: Any) -> Any:
    """Copy a tensor that inference mode made, which autograd would refuse."""
    refused = isinstance(value, Tensor) and value.is_inference() and torch.is_grad_enabled()
    return value.clone() if refused else value


def check_objective(objective: object) -> str | Transform:
    """Return a known objective.

    Raises:
        ValueError: If it is neither a known name nor a function.
    """
    if callable(objective):
        return objective
    if isinstance(objective, str) and objective in OBJECTIVES:
        return objective
    raise ValueError(
        f"objective must be one of {', '.join(OBJECTIVES)}, or a function of the outputs, "
        f"got {objective!r}."
    )
