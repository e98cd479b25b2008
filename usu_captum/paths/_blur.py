"""Integrated gradients in scale space: from a blurred image to the sharp one."""

from collections.abc import Callable
from typing import Any

import torch
from captum.log import log_usage
from torch import Tensor

from usu_captum.paths._attribution import PathAttribution, checked_inputs
from usu_captum.paths._engine import Points, integrate
from usu_captum.paths._objective import Transform
from usu_captum.paths._scale_space import BORDERS, BlurPath
from usu_core._checks import check_choice, check_positive


class BlurIG(PathAttribution):
    """Blur integrated gradients (Xu et al., 2020): what the model gains as the image sharpens.

    The path starts at the image blurred with ``max_sigma`` and ends at the image. It adds no colour
    of its own, so there is no baseline to choose; where it starts is :meth:`start`. With L(s) the
    image blurred by s (arXiv:2004.03383)::

        attribution = - integral over s from 0 to max_sigma of dF / dL(s) * dL(s) / ds

    Every step counts the change of the image over it, so a linear model's attributions are exact
    in any number of steps. Outputs change fast among nearly sharp images: take more steps than of
    the straight line where the completeness gap matters.

    What reproduces the authors' code up to rounding (``saliency`` 0.2.1 of PAIR) is::

        explainer = BlurIG(model, power=1, border="zero", truncate=4, grad_step=0.01)
        explainer.attribute(images, target, n_steps=100, max_sigma=50, method="riemann_right")

    Its ``sqrt=True`` is ``power=0.5`` and the root of its ``max_sigma``.

    Args:
        forward_func: A module or any function of images (B, C, *pixels), as in Captum.
        objective: ``"logit"`` (the output as it is), ``"log-probability"``, ``"probability"``, or
            a function of the outputs (N, classes).
        power: Above 0. At position ``alpha`` of the path the standard deviation is ``max_sigma``
            times ``(1 - alpha) ** power``: the higher, the more steps among nearly sharp images,
            where outputs change most.
        border: ``"reflect"`` (constants and means stay), or ``"zero"`` (zeros of the model's own
            space bleed in).
        truncate: Standard deviations at which to cut the Gaussian, as in SciPy, so that the path
            jumps where a pixel enters it. ``None`` leaves it whole.
        grad_step: Standard deviation over which to take the slope of the path at a gradient; a
            step then counts slope times length. ``None`` counts what changes.

    Raises:
        TypeError: If ``forward_func`` is not callable or a number is of the wrong kind.
        ValueError: If ``border`` is unknown or a number is not above 0.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
        >>> images = torch.rand(3, 1, 8, 8)
        >>> explainer = BlurIG(model)
        >>> attribution = explainer.attribute(images, target=1)
        >>> delta = explainer.compute_convergence_delta(
        ...     attribution, explainer.start(images), images, target=1
        ... )
        >>> attribution.shape, bool((delta.abs() < 1e-5).all())
        (torch.Size([3, 1, 8, 8]), True)
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        objective: str | Transform = "logit",
        power: float = 2.0,
        border: str = "reflect",
        truncate: float | None = None,
        grad_step: float | None = None,
    ) -> None:
        super().__init__(forward_func, objective=objective)
        check_choice("border", border, BORDERS)
        for name, value in {"power": power, "truncate": truncate, "grad_step": grad_step}.items():
            if value is not None:
                check_positive(name, value)
        self.power, self.border = power, border
        self.truncate, self.grad_step = truncate, grad_step

    def start(self, inputs: Tensor | Points, max_sigma: float | None = None) -> Any:
        """Return the blurred images that the path starts at.

        Args:
            inputs: As in ``attribute``.
            max_sigma: As in ``attribute``.

        Returns:
            Of the inputs' shapes: the ``start_point`` of ``compute_convergence_delta``.

        Raises:
            TypeError: If inputs are of the wrong kind.
            ValueError: If inputs are not finite or have no pixels, or ``max_sigma`` is not above 0.
        """
        path = self._path(checked_inputs(inputs), max_sigma)
        begin = tuple(p[0] for p in path.at(torch.zeros(1)))
        return begin if isinstance(inputs, tuple) else begin[0]

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | Points,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 400,
        max_sigma: float | None = None,
        method: str = "riemann_middle",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Attribute the objective's change from the blurred to the sharp image.

        Args:
            inputs: (B, C, *pixels) of any rank, or a tuple of such. All are blurred.
            target: As in Captum: which output is explained.
            additional_forward_args: As in Captum.
            n_steps: Gradients per example.
            max_sigma: Standard deviation at the start, in pixels. ``None`` is the authors' 50 for
                224 pixels, in proportion to each input's shorter side.
            method: ``"riemann_middle"``, ``"riemann_trapezoid"``, ``"gausslegendre"``,
                ``"riemann_left"``, ``"riemann_right"`` or ``"graded_middle"``.
            internal_batch_size: Images per model call: 8 by default on the CPU, 64 elsewhere.
                Memory depends on it, not on ``n_steps``.
            return_convergence_delta: Also return the completeness gap.

        Returns:
            Mass of the inputs' shape and dtype: it adds up to the objective of the image minus
            that of the blurred image. With ``return_convergence_delta`` also the gap, (B,).

        Raises:
            TypeError: If inputs are of the wrong kind.
            ValueError: If inputs have no pixels, an argument is out of range, the target selects
                no single value, the model is not differentiable or a gradient is not finite.

        Cost:
            ``n_steps`` forward and backward passes per example. Blurring takes two matrix
            products per step and dimension, 1 to 2 % of a ResNet's passes.
        """
        problem = self.problem(inputs, None, target, additional_forward_args, internal_batch_size)
        path = self._path(problem.inputs, max_sigma)
        attributions = integrate(
            path,
            problem.objective,
            problem.examples,
            n_steps=n_steps,
            method=method,
            batch_size=problem.batch_size,
            changes=path.slopes if self.grad_step else None,
        )
        begin = tuple(p[0] for p in path.at(torch.zeros(1))) if return_convergence_delta else None
        return self.result(problem, attributions, return_convergence_delta, begin)

    def _path(self, images: Points, max_sigma: float | None) -> BlurPath:
        if max_sigma is not None:
            check_positive("max_sigma", max_sigma)
        for image in images:
            if image.dim() < 3 or 0 in image.shape:
                raise ValueError(
                    f"inputs must be images (B, C, *pixels) to be blurred, got shape "
                    f"{tuple(image.shape)}. Try IntegratedGradients."
                )
        sigmas = tuple(max_sigma or 50 / 224 * min(i.shape[2:]) for i in images)
        step = self.grad_step or 0.0
        return BlurPath(images, sigmas, self.power, self.border, self.truncate, step)
