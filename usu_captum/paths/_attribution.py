"""What all path methods share: arguments as Captum takes them, and the completeness gap."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from captum._utils.common import _format_output
from captum.attr import GradientAttribution
from captum.log import log_usage
from torch import Tensor

from usu_captum._image_space import BASELINES, ImageSpace, named_baseline
from usu_captum.paths._engine import Points
from usu_captum.paths._objective import Objective, Transform, check_objective
from usu_core._checks import check_choice, check_count

Baselines = str | float | Tensor | tuple[str | float | Tensor, ...] | None
"""A name, a number or a tensor, for all inputs or one for each; ``None`` is zero."""


@dataclass(frozen=True)
class Problem:
    """One call of ``attribute``, checked.

    Attributes:
        inputs: Each (B, ...).
        baselines: Of the inputs' shapes.
        objective: The explained scalar.
        examples: (B,) int64: 0 to B - 1.
        batch_size: Images per model call.
        is_tuple: Whether the caller passed a tuple, and so gets one.
    """

    inputs: Points
    baselines: Points
    objective: Objective
    examples: Tensor
    batch_size: int
    is_tuple: bool


class PathAttribution(GradientAttribution):
    """A gradient integrated along a path from a baseline to the input.

    Args:
        forward_func: A module or any function of the inputs, as in Captum.
        objective: What is explained: ``"logit"`` (the output as it is), ``"log-probability"``,
            ``"probability"``, or a function of the outputs (N, classes).
        space: Where images live; needed for the baselines ``"black"`` and ``"mean"``.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        objective: str | Transform = "logit",
        space: ImageSpace | None = None,
    ) -> None:
        if not callable(forward_func):
            raise TypeError(f"forward_func must be callable, got {type(forward_func).__name__}.")
        super().__init__(forward_func)
        self.objective = check_objective(objective)
        self.space = space

    @property
    def multiplies_by_inputs(self) -> bool:
        """Attributions are effects, not rates: they add up to a difference of outputs."""
        return True

    def has_convergence_delta(self) -> bool:
        """Every path method measures its completeness gap."""
        return True

    def attribute_future(self) -> None:
        """Not implemented, as for most of Captum."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}.")

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def compute_convergence_delta(
        self,
        attributions: Tensor | Points,
        start_point: Baselines,
        end_point: Tensor | Points,
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Return how far attributions are from adding up, in units of the objective.

        Args:
            attributions: As ``attribute`` returns them.
            start_point: Where the path starts; a baseline of any kind ``attribute`` takes.
            end_point: Where it ends.
            target: As in ``attribute``.
            additional_forward_args: As in ``attribute``.

        Returns:
            (B,): sum of the attributions minus (objective at the end minus at the start).
        """
        problem = self.problem(end_point, start_point, target, additional_forward_args, None)
        several = attributions if isinstance(attributions, tuple) else (attributions,)
        return self._gap(problem, several, problem.baselines, problem.inputs)

    def problem(
        self,
        inputs: Tensor | Points,
        baselines: Baselines,
        target: Any,
        additional_forward_args: Any,
        internal_batch_size: int | None,
    ) -> Problem:
        """Check the arguments of a call.

        Raises:
            TypeError: If inputs are no tensors of floating-point values, the target is of a kind
                that Captum does not take, or the batch size is no integer.
            ValueError: If inputs or baselines are not finite, inputs are empty, or a baseline or
                the target does not fit.
        """
        detached = checked_inputs(inputs)
        size = internal_batch_size
        if size is None:
            # On a CPU larger batches leave the cache: half the speed at 32 on MobileNetV2.
            size = 8 if detached[0].device.type == "cpu" else 64
        check_count("internal_batch_size", size)
        args = (self.forward_func, target, additional_forward_args, self.objective)
        return Problem(
            detached,
            self._baselines(detached, baselines),
            Objective(*args, len(detached[0])),
            torch.arange(len(detached[0]), device=detached[0].device),
            size,
            isinstance(inputs, tuple),
        )

    def result(
        self,
        problem: Problem,
        attributions: Points,
        return_convergence_delta: bool,
        start: Points | None = None,
    ) -> Any:
        """Lay attributions out as Captum does, with the gap if it is wanted.

        Args:
            problem: The call.
            attributions: One per input.
            return_convergence_delta: Whether to measure the gap: 2 evaluations per example.
            start: Where the path started, if not at the baselines.
        """
        laid_out = _format_output(problem.is_tuple, attributions)
        if not return_convergence_delta:
            return laid_out
        begin = problem.baselines if start is None else start
        return laid_out, self._gap(problem, attributions, begin, problem.inputs)

    def _gap(self, problem: Problem, attributions: Points, start: Points, end: Points) -> Tensor:
        rows, size = problem.examples, problem.batch_size
        change = problem.objective.values(end, rows, size) - problem.objective.values(
            start, rows, size
        )
        return sum(a.reshape(len(a), -1).sum(1) for a in attributions) - change

    def _baselines(self, inputs: Points, baselines: Baselines, name: str = "baselines") -> Points:
        each = baselines if isinstance(baselines, tuple) else (baselines,) * len(inputs)
        if len(each) != len(inputs):
            raise ValueError(
                f"{name} must be one for each of {len(inputs)} inputs, got {len(each)}."
            )
        starts = tuple(self._baseline(*pair, name) for pair in zip(inputs, each, strict=True))
        if not all(bool(start.isfinite().all()) for start in starts):
            raise ValueError(f"{name} must be finite, got NaN or infinity.")
        return starts

    def _baseline(self, value: Tensor, baseline: str | float | Tensor | None, name: str) -> Tensor:
        if isinstance(baseline, str):
            check_choice(name, baseline, BASELINES)
            return named_baseline(value, baseline, self.space)
        if isinstance(baseline, Tensor):
            if baseline.dim() == value.dim() and baseline.shape[1:] == value.shape[1:]:
                if len(baseline) in (1, len(value)):
                    return baseline.detach().to(value).expand_as(value)
            elif baseline.dim() == 0:
                return baseline.detach().to(value).expand_as(value)
            raise ValueError(
                f"{name} must have the shape of the inputs, {tuple(value.shape)}, or 1 in place "
                f"of the first dimension, got {tuple(baseline.shape)}. Try "
                f"shape {(1, *value.shape[1:])} or a name, which fit any number of inputs."
            )
        if baseline is not None and not isinstance(baseline, int | float):
            raise TypeError(
                f"{name} must be a name, a number, a tensor or None, got {type(baseline).__name__}."
            )
        return torch.full_like(value, 0.0 if baseline is None else baseline)


def checked_inputs(inputs: Tensor | Points) -> Points:
    """Return inputs as a tuple, detached.

    Raises:
        TypeError: If they are no tensors of floating-point values.
        ValueError: If they are not finite, empty, or of different numbers of examples.
    """
    several = inputs if isinstance(inputs, tuple) else (inputs,)
    if not several:
        raise ValueError("inputs must not be empty, got an empty tuple.")
    for value in several:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"inputs must be floating-point tensors, got {kind}.")
        if value.dim() < 1 or len(value) == 0 or len(value) != len(several[0]):
            raise ValueError(
                "inputs must have a first dimension of examples, the same for all, got "
                f"shapes {[tuple(v.shape) for v in several]}."
            )
        if not bool(value.isfinite().all()):
            raise ValueError("inputs must be finite, got NaN or infinity.")
    return tuple(value.detach() for value in several)
