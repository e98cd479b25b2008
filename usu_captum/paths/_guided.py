"""Guided integrated gradients: features the model is least sensitive to move first."""

import math
from typing import Any

import torch
from captum.log import log_usage
from torch import Tensor

from usu_captum.paths._attribution import Baselines, PathAttribution
from usu_captum.paths._engine import Points, follow
from usu_core._checks import check_count, check_share
from usu_core._precision import wide


class GuidedPath:
    """Steps that all close the same part of each example's L1 distance, where gradients are small.

    Features are kept by their progress, 0 at the start to 1 at the end, so that comparisons with
    the bounds are exact whatever the values.

    Args:
        start: Each (B, ...).
        end: Of the same shapes. The values of all inputs share one budget.
        n_steps: See :class:`GuidedIG`, as the rest.
    """

    def __init__(
        self, start: Points, end: Points, n_steps: int, fraction: float, max_distance: float
    ) -> None:
        self._start, self._end, self._n_steps = start, end, n_steps
        self._max_distance = max_distance
        self._distance = _features(tuple(e - s for s, e in zip(start, end, strict=True)))
        self._total = self._distance.sum(1, keepdim=True)
        self._progress = torch.zeros_like(self._distance)
        # The index of NumPy's quantile with method="lower", plus one.
        self._rank = math.floor(fraction * (self._distance.shape[1] - 1)) + 1

    def __call__(self, number: int, points: Points, gradients: Points) -> Points | None:
        """Move the features of least gradient; see :data:`Step`."""
        if number >= self._n_steps - 1:
            return self._end if number < self._n_steps else None
        position = (number + 1) / self._n_steps
        progress = self._progress.clamp_(min=position - self._max_distance)
        bound = torch.full_like(progress, min(position + self._max_distance, 1))
        left = self._distance * (bound - progress)
        # Features at their bound come last; selecting them all the same would move nothing.
        gradient = _features(gradients).where(left > 0, torch.inf)
        gap = position * self._total - (self._distance * progress).sum(1, keepdim=True)
        gap = gap.clamp(min=0).minimum(left.sum(1, keepdim=True))
        for _ in range(math.ceil(progress.shape[1] / self._rank)):
            if not bool((gap > 0).any()):
                break
            chosen = (gradient <= _smallest(gradient, self._rank)) & (gradient < torch.inf)
            room = left.where(chosen, 0).sum(1, keepdim=True)
            share = (gap / room.clamp(min=torch.finfo(room.dtype).tiny)).clamp(max=1)
            progress = torch.lerp(progress, bound, share * chosen)
            gap = (gap - room).where(share >= 1, 0)
            gradient = gradient.masked_fill(chosen & (share >= 1), torch.inf)
        self._progress = progress
        return self._points()

    def _points(self) -> Points:
        sizes = [s[0].numel() for s in self._start]
        parts = self._progress.split(sizes, dim=1)
        return tuple(
            torch.lerp(start, end, part.view_as(start).to(start))
            for start, end, part in zip(self._start, self._end, parts, strict=True)
        )


class GuidedIG(PathAttribution):
    """Guided integrated gradients (Kapishnikov et al., 2021): small gradients first.

    A straight path crosses steep places that have nothing to do with the image, and they leave
    noise. This one avoids them: every step moves the features of least absolute gradient until the
    L1 distance that is left has shrunk by one ``n_steps``-th of the whole (arXiv:2106.09788). How
    far a feature may stray is bounded as in the authors' code: by a distance from the straight
    line in place of the paper's anchor points. With ``method="riemann_left"`` it is equal up to
    rounding to that code (``saliency`` 0.2.1 of PAIR).

    Args:
        forward_func: A module or any function of the inputs, as in Captum.
        objective: ``"logit"`` (the output as it is), ``"log-probability"``, ``"probability"``, or
            a function of the outputs (N, classes).
        space: Where images live; needed for the baselines ``"black"`` and ``"mean"``.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> images = torch.rand(3, 1, 2, 2)
        >>> explainer = GuidedIG(model)
        >>> attribution, delta = explainer.attribute(
        ...     images, target=1, n_steps=20, return_convergence_delta=True
        ... )
        >>> attribution.shape, bool((delta.abs() < 1e-5).all())
        (torch.Size([3, 1, 2, 2]), True)
    """

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | Points,
        baselines: Baselines = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 200,
        fraction: float = 0.25,
        max_distance: float = 0.02,
        method: str = "riemann_trapezoid",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Attribute the objective's change from the baseline to the input.

        Args:
            inputs: (B, ...), or a tuple of such, whose values then share one L1 distance.
            baselines: ``"black"``, ``"mean"``, ``"blur"``, a number, a tensor of the inputs' shape
                or (1, ...), or a tuple of these for a tuple of inputs. ``None`` is zero.
            target: As in Captum: which output is explained.
            additional_forward_args: As in Captum.
            n_steps: Steps of the path.
            fraction: Above 0 up to 1: the part of all features that moves at once. Features that
                tie move together; 1 moves all, on the straight line if ``max_distance`` is 1.
            max_distance: From 0 to 1: how far, as a part of its way, a feature may be ahead of or
                behind the straight line. 0 is the straight line, 1 sets no bound.
            method: ``"riemann_trapezoid"`` or, as the authors have it, ``"riemann_left"``.
            internal_batch_size: Images per model call: 8 by default on the CPU, 64 elsewhere.
                Memory depends on it, not on ``n_steps``.
            return_convergence_delta: Also return the completeness gap.

        Returns:
            Mass of the inputs' shape and dtype: it adds up to the change of the objective, as far
            as steps are small. With ``return_convergence_delta`` also the gap, (B,).

        Raises:
            TypeError: If inputs or baselines are of the wrong kind.
            ValueError: If a baseline does not fit, an argument is out of range, the target selects
                no single value, the model is not differentiable or a gradient is not finite.

        Cost:
            ``n_steps + 1`` forward and backward passes per example, and at each step up to
            ``1 / fraction`` selections in time linear in the features, usually one or two.
        """
        check_count("n_steps", n_steps)
        check_share("fraction", fraction)
        check_share("max_distance", max_distance)
        if fraction == 0:
            raise ValueError("fraction must be above 0, got 0. Try 0.25.")
        problem = self.problem(
            inputs, baselines, target, additional_forward_args, internal_batch_size
        )
        path = GuidedPath(problem.baselines, problem.inputs, n_steps, fraction, max_distance)
        attributions = follow(
            problem.baselines,
            path,
            problem.objective,
            problem.examples,
            method=method,
            batch_size=problem.batch_size,
        )
        return self.result(problem, attributions, return_convergence_delta)


def _features(values: Points) -> Tensor:
    """Return the absolute values of each example in one row, in at least single precision."""
    return wide(torch.cat([v.abs().reshape(len(v), -1) for v in values], dim=1))


def _smallest(values: Tensor, rank: int) -> Tensor:
    """Return the ``rank``-th smallest of each row, (B, 1); ``quantile`` stops at 2**24 values."""
    if values.is_cuda:  # Where not every version's kthvalue is deterministic.
        return values.sort(dim=1).values[:, rank - 1 : rank]
    return values.kthvalue(rank, dim=1, keepdim=True).values
