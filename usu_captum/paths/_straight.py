"""Integrated gradients: the straight line."""

from typing import Any

from captum.log import log_usage
from torch import Tensor

from usu_captum.paths._attribution import Baselines, PathAttribution
from usu_captum.paths._engine import Points, integrate


class StraightLine:
    """The path that changes all values at the same pace."""

    def __init__(self, start: Points, end: Points) -> None:
        self._start, self._end = start, end

    def at(self, alphas: Tensor) -> Points:
        """Return start + alpha (end - start), each (K, B, ...)."""
        return tuple(
            start + alphas.to(end).view(-1, *[1] * end.dim()) * (end - start)
            for start, end in zip(self._start, self._end, strict=True)
        )


class IntegratedGradients(PathAttribution):
    """Integrated gradients (Sundararajan et al., 2017): (x - x') times the mean gradient between.

    Networks say most of what they say of an image at a small part of its contrast, so the default
    rule takes more steps near the baseline than near the image. Under one of Captum's rules, by its
    name, the result is Captum's up to rounding; but for ``"riemann_trapezoid"``, whose weights add
    up to (n - 1) / n there and to one here. Captum's defaults are::

        explainer.attribute(images, target=1, n_steps=50, method="gausslegendre")

    Args:
        forward_func: A module or any function of the inputs, as in Captum.
        objective: ``"logit"`` (the output as it is), ``"log-probability"``, ``"probability"``, or
            a function of the outputs (N, classes).
        space: Where images live; needed for the baselines ``"black"`` and ``"mean"``.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> images = torch.rand(3, 1, 2, 2)
        >>> explainer = IntegratedGradients(model)
        >>> attribution, delta = explainer.attribute(
        ...     images, target=1, return_convergence_delta=True
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
        n_steps: int = 300,
        method: str = "graded_middle",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Attribute the objective's change from the baseline to the input.

        Args:
            inputs: (B, ...), or a tuple of such.
            baselines: ``"black"``, ``"mean"``, ``"blur"``, a number, a tensor of the inputs' shape
                or (1, ...), or a tuple of these for a tuple of inputs. ``None`` is zero.
            target: As in Captum: which output is explained.
            additional_forward_args: As in Captum.
            n_steps: Gradients per example. The gap shrinks about as fast as they grow.
            method: ``"graded_middle"`` (the middles of stretches that are shortest near the
                baseline), or as in Captum ``"gausslegendre"``, ``"riemann_trapezoid"``,
                ``"riemann_middle"``, ``"riemann_left"`` or ``"riemann_right"``.
            internal_batch_size: Images per model call: 8 by default on the CPU, 64 elsewhere.
                Memory depends on it, not on ``n_steps``.
            return_convergence_delta: Also return the completeness gap.

        Returns:
            Mass of the inputs' shape and dtype: it adds up to the change of the objective. With
            ``return_convergence_delta`` also the gap, (B,).

        Raises:
            TypeError: If inputs or baselines are of the wrong kind.
            ValueError: If a baseline does not fit, the target selects no single value, the model
                is not differentiable or a gradient is not finite.

        Cost:
            ``n_steps`` forward and backward passes per example.
        """
        problem = self.problem(
            inputs, baselines, target, additional_forward_args, internal_batch_size
        )
        attributions = integrate(
            StraightLine(problem.baselines, problem.inputs),
            problem.objective,
            problem.examples,
            n_steps=n_steps,
            method=method,
            batch_size=problem.batch_size,
        )
        return self.result(problem, attributions, return_convergence_delta)
