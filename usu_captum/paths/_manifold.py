"""Manifold-aligned guided integrated gradients: a path among images an autoencoder can make."""

from collections.abc import Callable
from typing import Any

import torch
from captum.log import log_usage
from torch import Tensor

from usu_captum._image_space import ImageSpace
from usu_captum.paths._attribution import Baselines, PathAttribution, Problem
from usu_captum.paths._autoencoders import Autoencoder
from usu_captum.paths._engine import Points, follow
from usu_captum.paths._latent import INTERPOLATIONS, LatentPath
from usu_captum.paths._objective import Transform
from usu_core._checks import check_choice, check_count, check_number


class ManifoldGuidedIG(PathAttribution):
    """Manifold-aligned guided integrated gradients, MA-GIG (arXiv:2605.02167).

    Guided IG on an autoencoder's latents: at each step the latents with the smallest gradients
    move towards the image's, and their L1 distance shrinks at an even pace. The path is the
    decoded images, so that the model sees few images unlike any it was trained on. How good the
    path is depends on the autoencoder.

    The path starts at the baseline and ends at the image themselves; straight ``jump_steps`` lead
    across the reconstruction errors of both. The paper jumps each in one step, keeps latents on
    an arc, which breaks the even pace, and takes the gradient at the start of a step. Its form,
    whose N points are ``n_steps = N - 1``, is::

        explainer = ManifoldGuidedIG(
            model, autoencoder, interpolation="slerp", jump_steps=0, objective="probability"
        )
        explainer.attribute(images, "black", target, n_steps=199, method="riemann_left")

    Args:
        forward_func: A module or any function of images (B, C, H, W), as in Captum.
        autoencoder: Any object with ``encode`` and ``decode`` between the model's inputs and
            latents (B, ...); see :class:`Autoencoder`, and :class:`DiffusersAutoencoder` for those
            of diffusers. Bring it to evaluation mode and to the inputs' device.
        fraction: Of latents, above 0 and at most 1: how many move at a time. At 1 all move, and
            latents follow a straight line.
        interpolation: ``"lerp"`` (the even pace is exact), or ``"slerp"`` (as printed; where an
            arc takes latents further than planned, they wait).
        jump_steps: Straight steps between the baseline and its reconstruction, and between the
            image's and the image; 0 leaves the two reconstructions out.
        objective: ``"logit"`` (the output as it is), ``"log-probability"``, ``"probability"``, or
            a function of the outputs (N, classes).
        space: Where images live; needed for the baselines ``"black"`` and ``"mean"``.

    Raises:
        TypeError: If ``autoencoder`` lacks a method, or a number is of the wrong kind.
        ValueError: If an argument is out of range.

    Example:
        >>> class Halves:  # keeps the mean of each pair of columns
        ...     def encode(self, images):
        ...         return images.unflatten(-1, (-1, 2)).mean(-1)
        ...     def decode(self, latents):
        ...         return latents.repeat_interleave(2, -1)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
        >>> images = torch.rand(3, 1, 8, 8)
        >>> explainer = ManifoldGuidedIG(model, Halves())
        >>> attribution, delta = explainer.attribute(
        ...     images, target=1, return_convergence_delta=True
        ... )
        >>> attribution.shape, bool((delta.abs() < 1e-5).all())
        (torch.Size([3, 1, 8, 8]), True)
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        autoencoder: Autoencoder,
        *,
        fraction: float = 0.05,
        interpolation: str = "lerp",
        jump_steps: int = 10,
        objective: str | Transform = "logit",
        space: ImageSpace | None = None,
    ) -> None:
        super().__init__(forward_func, objective=objective, space=space)
        for name in ("encode", "decode"):
            if not callable(getattr(autoencoder, name, None)):
                raise TypeError(
                    f"autoencoder must have methods encode and decode, got "
                    f"{type(autoencoder).__name__} without {name}."
                )
        check_number("fraction", fraction)
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}.")
        check_choice("interpolation", interpolation, INTERPOLATIONS)
        check_count("jump_steps", jump_steps, 0)
        self.autoencoder = autoencoder
        self.fraction, self.interpolation = fraction, interpolation
        self.jump_steps = jump_steps

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | Points,
        baselines: Baselines = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 200,
        method: str = "riemann_trapezoid",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Attribute the objective's change from the baseline to the image.

        Args:
            inputs: (B, C, H, W), or a tuple of one such.
            baselines: ``"black"``, ``"mean"``, ``"blur"``, a number, or a tensor of the inputs'
                shape or (1, ...). ``None`` is zero.
            target: As in Captum: which output is explained.
            additional_forward_args: As in Captum.
            n_steps: Steps in latent space. The steps of the two jumps come on top. Networks can be
                rugged along a path of few latents at a time: look at the gap.
            method: ``"riemann_trapezoid"`` (the mean of a step's two gradients), or
                ``"riemann_left"``.
            internal_batch_size: Images per call of the model and of the autoencoder: 8 by default
                on the CPU, 64 elsewhere. Memory depends on it, not on ``n_steps``.
            return_convergence_delta: Also return the completeness gap.

        Returns:
            Mass of the inputs' shape and dtype. It adds up to the change of the objective as far
            as the steps are short; with ``return_convergence_delta`` also the gap, (B,).

        Raises:
            TypeError: If inputs or baselines are of the wrong kind.
            ValueError: If inputs are not one batch of images, a baseline does not fit, the
                autoencoder changes the images' shape or is not differentiable, the target selects
                no single value, the model is not differentiable or a gradient is not finite.

        Cost:
            ``n_steps + 2 * jump_steps + 1`` forward and backward passes of the model per image,
            ``n_steps + 1`` of the decoder, and two of the encoder forward. Without jumps the model
            takes ``n_steps + 2`` and the decoder ``n_steps``. One backward pass serves both the
            attribution and the guidance.
        """
        check_count("n_steps", n_steps)
        problem = self.problem(
            inputs, baselines, target, additional_forward_args, internal_batch_size
        )
        if len(problem.inputs) != 1 or problem.inputs[0].dim() != 4:
            shapes = [tuple(v.shape) for v in problem.inputs]
            raise ValueError(f"inputs must be one batch of images (B, C, H, W), got {shapes}.")
        parts = [
            self._integrated(problem, rows, n_steps, method)
            for rows in problem.examples.split(problem.batch_size)
        ]
        return self.result(problem, (torch.cat(parts),), return_convergence_delta)

    def _integrated(self, problem: Problem, rows: Tensor, n_steps: int, method: str) -> Tensor:
        start, end = problem.baselines[0][rows], problem.inputs[0][rows]
        path = LatentPath(
            self.autoencoder,
            start,
            end,
            steps=n_steps,
            jump_steps=self.jump_steps,
            fraction=self.fraction,
            interpolation=self.interpolation,
            gradients=lambda p: problem.objective.gradients((p,), rows, problem.batch_size)[0],
        )
        (found,) = follow(
            (start,),
            path.step,
            problem.objective,
            rows,
            method=method,
            batch_size=problem.batch_size,
        )
        return found
