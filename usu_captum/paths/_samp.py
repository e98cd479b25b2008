"""SAMP: the greedy path on which few pixels carry most of the attribution."""

from collections.abc import Callable
from typing import Any

import torch
from captum.log import log_usage
from torch import Tensor

from usu_captum._image_space import ImageSpace
from usu_captum.paths._attribution import Baselines, PathAttribution, Problem
from usu_captum.paths._directions import (
    DIRECTIONS,
    SAMPDirections,
    manipulate,
    paper_blur,
    unit_range,
)
from usu_captum.paths._engine import Points
from usu_captum.paths._manipulation import Search
from usu_captum.paths._objective import Transform
from usu_core._checks import check_choice

COMBINATIONS = ("sum", "norm")
ACCUMULATIONS = ("gradient", "momentum")


class SAMP(PathAttribution):
    """Salient manipulation path (Zhang et al., 2024, Eq. 8 of arXiv:2401.10442).

    One path deletes the image: from it to a baseline, first the pixels whose change lowers the
    objective most. One inserts it: from a blurred image to it, first those that raise the
    objective most. Each integrates the gradient on the way, and the two maps are added. All
    images and both directions run in one batch.

    The printed algorithm weighs each step by the gradient where it starts. Steps are long, so the
    sum is then far from the change of the objective. By default a step weighs the mean of the
    gradients at its two ends, which costs nothing more; ``accumulate="momentum"`` is the printed
    form.

    Note:
        On smooth models the default adds up once steps are short. On deep networks it does not:
        the search favours gradients that do not last, and the sum was 10 to 80 times the change
        on ResNets, even with steps of 1 / 200 (``benchmarks/results/samp_tables.json``). Use the
        map as a ranking there, and look at the gap.

    Args:
        forward_func: A module or any function of one image, as in Captum.
        objective: ``"logit"`` (the output as it is), ``"log-probability"``, ``"probability"``, or
            a function of the outputs (N, classes).
        space: Where images live; needed for the baselines ``"black"`` and ``"mean"``.
        pixels_per_step: Pixels moved per step. ``None`` is the paper's: 10 of small images, 3584
            of 224 x 224 (see ``Search.pixels`` for others).
        step_bound: The longest step as a share of the path's length in the L1 norm (the paper's
            infinitesimal constraint): 1 / 10 is the paper's, less is more exact and costs more.
            ``None`` is no bound.
        momentum: Share of the previous gradients in the one that selects pixels, the paper's
            lambda: from 0 (none) to below 1.
        accumulate: ``"gradient"``: momentum steers the path, and the attribution is the integral
            along it by the trapezoidal rule. ``"momentum"``: as printed, the smoothed gradient
            where each step starts.

    Raises:
        TypeError: If ``forward_func`` is not callable or a number is of the wrong kind.
        ValueError: If a number is out of its range or a name unknown.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> images = torch.rand(3, 3, 2, 2)
        >>> attribution, delta = SAMP(model).attribute(
        ...     images, target=1, return_convergence_delta=True
        ... )
        >>> attribution.sum(1).shape, bool((delta.abs() < 1e-5).all())
        (torch.Size([3, 2, 2]), True)
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        objective: str | Transform = "logit",
        space: ImageSpace | None = None,
        pixels_per_step: int | None = None,
        step_bound: float | None = None,
        momentum: float = 0.0,
        accumulate: str = "gradient",
    ) -> None:
        super().__init__(forward_func, objective=objective, space=space)
        self.search = Search(pixels_per_step, step_bound, momentum)
        check_choice("accumulate", accumulate, ACCUMULATIONS)
        self.accumulate = accumulate

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | Points,
        baselines: Baselines = None,
        target: Any = None,
        additional_forward_args: Any = None,
        insertion_baselines: Baselines = None,
        directions: str = "both",
        combine: str = "sum",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Attribute the objective's changes along both paths.

        Args:
            inputs: (B, C, *pixels), or a tuple of one such.
            baselines: Where deletion ends: ``"black"``, ``"mean"``, ``"blur"``, a number, or a
                tensor of the inputs' shape or (1, ...). ``None`` is zero, as in the paper: the
                mean colour for models that take normalised images.
            target: As in Captum: which output is explained.
            additional_forward_args: As in Captum.
            insertion_baselines: Where insertion starts, as ``baselines``. ``None`` is the paper's
                blur: a Gaussian of deviation 5, in a window of 31 pixels or, on images of less
                than 64 a side, of 11. Its border is reflected, not padded by zeros. A noise tunnel
                repeats the inputs but not this: there, a name or a tensor (1, ...).
            directions: ``"both"``, ``"deletion"`` or ``"insertion"``.
            combine: ``"sum"``, or ``"norm"`` to bring each direction's map of pixels to 0 to 1
                before they are added. The result is then a ranking, and no mass.
            internal_batch_size: Images per model call: 8 by default on the CPU, 64 elsewhere. A
                batch of ``B`` images has ``2 B`` rows in both directions.
            return_convergence_delta: Also return the completeness gap, at no cost.

        Returns:
            Mass of the inputs' shape and dtype; ``.sum(1)`` is the paper's map of pixels. In both
            directions it stands for [f(x) - f(baseline)] + [f(x) - f(blur)], in one for its part.
            With ``return_convergence_delta`` also the gap to that, (B,).

        Raises:
            TypeError: If inputs or baselines are of the wrong kind.
            ValueError: If a name is unknown, a baseline does not fit, the target selects no
                single value, the model is not differentiable, a gradient is not finite, or the
                gap of a ranking is wanted.

        Cost:
            Per direction and image at most ``pixels / pixels_per_step + 1 / step_bound + 2``
            forward and backward passes. Memory does not depend on the number of steps.
        """
        check_choice("combine", combine, COMBINATIONS)
        if combine == "norm" and return_convergence_delta:
            raise ValueError(
                "combine='norm' gives a ranking, which has no completeness gap. Try "
                "combine='sum' or return_convergence_delta=False."
            )
        paths = self.attribute_directions(
            inputs,
            baselines,
            target,
            additional_forward_args,
            insertion_baselines,
            directions,
            internal_batch_size,
        )
        found = [path for path in paths if path is not None]
        parts = [path.attribution for path in found]
        if combine == "norm":
            parts = [unit_range(part) for part in parts]
        total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        laid_out = (total,) if isinstance(inputs, tuple) else total
        if not return_convergence_delta:
            return laid_out
        return laid_out, torch.stack([path.gap for path in found]).sum(0)

    def attribute_directions(
        self,
        inputs: Tensor | Points,
        baselines: Baselines = None,
        target: Any = None,
        additional_forward_args: Any = None,
        insertion_baselines: Baselines = None,
        directions: str = "both",
        internal_batch_size: int | None = None,
    ) -> SAMPDirections:
        """Return each direction's map, scores along the path, number of steps and gap.

        Args:
            inputs: As in :meth:`attribute`, and so are the others.
            baselines: Where deletion ends.
            target: Which output is explained.
            additional_forward_args: As in Captum.
            insertion_baselines: Where insertion starts.
            directions: ``"both"``, ``"deletion"`` or ``"insertion"``.
            internal_batch_size: Images per model call.

        Returns:
            One :class:`ManipulationPath` per direction. Deletion's runs from the input, so its
            scores fall; its map is the change back, f(x) - f(baseline).

        Example:
            >>> total = lambda images: images.sum((1, 2))
            >>> image = torch.tensor([[[3.0, 1.0, 2.0]]])
            >>> found = SAMP(total, pixels_per_step=1).attribute_directions(image)
            >>> found.deletion.scores.flatten()
            tensor([6., 3., 1., 0.])
            >>> found.deletion.attribution
            tensor([[[3., 1., 2.]]])
        """
        check_choice("directions", directions, DIRECTIONS)
        problem = self.problem(
            inputs, baselines, target, additional_forward_args, internal_batch_size
        )
        images, others = self._others(problem, insertion_baselines, directions)
        return manipulate(
            images,
            others,
            problem.objective,
            problem.examples,
            self.search,
            printed=self.accumulate == "momentum",
            batch_size=problem.batch_size,
        )

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def compute_convergence_delta(
        self,
        attributions: Tensor | Points,
        start_point: Baselines,
        end_point: Tensor | Points,
        target: Any = None,
        additional_forward_args: Any = None,
        insertion_baselines: Baselines = None,
        directions: str = "both",
    ) -> Tensor:
        """Return how far a sum of directions is from adding up, in units of the objective.

        Args:
            attributions: As :meth:`attribute` returns them.
            start_point: The ``baselines`` of :meth:`attribute`.
            end_point: The explained images.
            target: As in :meth:`attribute`.
            additional_forward_args: As in :meth:`attribute`.
            insertion_baselines: As in :meth:`attribute`.
            directions: As in :meth:`attribute`.

        Returns:
            (B,): sum of the attributions minus the sum, over the directions, of (objective at
            the image minus at the direction's other end).
        """
        check_choice("directions", directions, DIRECTIONS)
        problem = self.problem(end_point, start_point, target, additional_forward_args, None)
        images, others = self._others(problem, insertion_baselines, directions)
        several = attributions if isinstance(attributions, tuple) else (attributions,)
        total = sum(a.flatten(1).sum(1) for a in several)
        points = torch.cat((images, *others.values()))
        rows = problem.examples.repeat(1 + len(others))
        values = problem.objective.values((points,), rows, problem.batch_size).view(-1, len(images))
        return total - (values[0] - values[1:]).sum(0)

    def _others(
        self, problem: Problem, insertion_baselines: Baselines, directions: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the images, and the other end of each direction's path."""
        if len(problem.inputs) != 1 or problem.inputs[0].dim() < 3:
            raise ValueError(
                f"inputs must be one tensor of images (B, C, *pixels) for {type(self).__name__}, "
                f"got shapes {[tuple(v.shape) for v in problem.inputs]}. Try a forward_func that "
                "takes the image alone."
            )
        images, others = problem.inputs[0], {}
        if directions != "insertion":
            others["deletion"] = problem.baselines[0]
        if directions != "deletion":
            given, name = insertion_baselines, "insertion_baselines"
            others["insertion"] = (
                paper_blur(images) if given is None else self._baselines((images,), given, name)[0]
            )
        return images, others
