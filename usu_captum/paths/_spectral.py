"""Spectral integrated gradients: from coarse to fine components of the image."""

from collections.abc import Callable
from typing import Any

from captum.log import log_usage
from torch import Tensor

from usu_captum._image_space import ImageSpace
from usu_captum.paths._attribution import Baselines, PathAttribution
from usu_captum.paths._engine import Points, integrate
from usu_captum.paths._objective import Transform
from usu_captum.paths._spectra import DECOMPOSITIONS
from usu_captum.paths._spectral_path import GATES, TIMINGS, SpectralPath
from usu_core._checks import check_choice, check_positive, check_share


class SpectralIG(PathAttribution):
    """Spectral integrated gradients (arXiv:2605.19607): structure first, detail last.

    The difference between image and baseline is split into components, which fade in from coarse
    to fine: path(alpha) = x' + sum_i gate_i(alpha) component_i. Each component's gate opens over
    its share of the path, stretched by ``overlap`` into those of others.

    Args:
        forward_func: A module or any function of images (B, C, H, W), as in Captum.
        decomposition: ``"svd"`` (rank-1 components by singular value, of each channel), ``"joint"``
            (the same of all channels together, so that colours stay in step), ``"dct"`` (rings of
            the cosine transform), or ``"laplacian"`` (6 bands of a pyramid). Rank-1 components
            favour horizontal and vertical structure; the last two do not.
        overlap: In [0, 1]. At 0 components come one at a time; at 1 they come all at once, which
            is the straight line under a linear gate.
        gate: ``"linear"``, ``"cosine"``, ``"sigmoid"``, or ``"step"``, whose components jump, so
            that attributions no longer add up.
        timing: When components start. ``"strength"``: as in the paper, by how much weaker than the
            first they are, without its gaps and jumps. ``"length"``: when those before have had
            their share of the path, in proportion to their Euclidean length. ``"rank"``: the same,
            with equal shares. ``"printed"``: as in the paper; ``power`` then has no effect.
        power: Above 0. At position ``alpha`` the path has made ``alpha ** power`` of its progress,
            in which all components count the same: the higher, the more steps near the baseline,
            where outputs change fast.
        objective: ``"logit"`` (the output as it is), ``"log-probability"``, ``"probability"``, or
            a function of the outputs (N, classes).
        space: Where images live; needed for the baselines ``"black"`` and ``"mean"``.

    Raises:
        TypeError: If a number is of the wrong kind.
        ValueError: If an argument is out of range.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> images = torch.rand(2, 3, 4, 4)
        >>> explainer = SpectralIG(model)
        >>> attribution, delta = explainer.attribute(
        ...     images, target=1, return_convergence_delta=True
        ... )
        >>> attribution.shape, bool((delta.abs() < 1e-5).all())
        (torch.Size([2, 3, 4, 4]), True)

    Note:
        From a black baseline the first component is nearly the mean brightness, and far stronger
        than the rest. As printed, it comes first and alone, then nothing happens for a while, and
        all else comes nearly at once; without overlap, the path starts at the first component and
        not at the baseline. ``"strength"`` keeps the order, and with it the character of the
        attributions; it leaves out the idle time and the jump. ``"length"`` and ``"rank"`` spread
        the weaker components out; the latter comes close to the straight line. Steps are spent
        where components fade in, more densely near the baseline, since networks change fast
        there. The paper's form is::

            explainer = SpectralIG(model, timing="printed", objective="probability")
            explainer.attribute(images, "black", target, n_steps=199, method="riemann_left")
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        decomposition: str = "svd",
        overlap: float = 0.4,
        gate: str = "linear",
        timing: str = "strength",
        power: float = 2.0,
        objective: str | Transform = "logit",
        space: ImageSpace | None = None,
    ) -> None:
        super().__init__(forward_func, objective=objective, space=space)
        check_choice("decomposition", decomposition, DECOMPOSITIONS)
        check_choice("gate", gate, GATES)
        check_choice("timing", timing, TIMINGS)
        check_share("overlap", overlap)
        check_positive("power", power)
        self.decomposition, self.overlap, self.gate = decomposition, overlap, gate
        self.timing, self.power = timing, power

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | Points,
        baselines: Baselines = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 300,
        method: str = "riemann_middle",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Attribute the objective's change from the baseline to the image.

        Args:
            inputs: (B, C, H, W), or a tuple of such, whose paths run side by side.
            baselines: ``"black"``, ``"mean"``, ``"blur"``, a number, a tensor of the inputs' shape
                or (1, ...), or a tuple of these for a tuple of inputs. ``None`` is zero.
            target: As in Captum: which output is explained.
            additional_forward_args: As in Captum.
            n_steps: Gradients per example.
            method: ``"riemann_middle"``, ``"riemann_trapezoid"``, ``"riemann_left"``,
                ``"riemann_right"``, ``"gausslegendre"`` or ``"graded_middle"``.
            internal_batch_size: Images per model call: 8 by default on the CPU, 64 elsewhere.
                Memory depends on it, not on ``n_steps``.
            return_convergence_delta: Also return the completeness gap.

        Returns:
            Mass of the inputs' shape and dtype: it adds up to the change of the objective. With
            ``return_convergence_delta`` also the gap, (B,).

        Raises:
            TypeError: If inputs or baselines are of the wrong kind.
            ValueError: If inputs are no images, a baseline does not fit, the target selects no
                single value, the model is not differentiable or a gradient is not finite.

        Cost:
            ``n_steps`` forward and backward passes per example, one decomposition, and for each
            step two products of an image with a matrix of its width.
        """
        problem = self.problem(
            inputs, baselines, target, additional_forward_args, internal_batch_size
        )
        for value in problem.inputs:
            if value.dim() != 4 or 0 in value.shape:
                raise ValueError(
                    f"inputs must be images (B, C, H, W), got shape {tuple(value.shape)}. "
                    "Try IntegratedGradients."
                )
        path = SpectralPath(
            problem.baselines,
            problem.inputs,
            decomposition=self.decomposition,
            overlap=self.overlap,
            gate=self.gate,
            timing=self.timing,
            power=self.power,
        )
        attributions = integrate(
            path,
            problem.objective,
            problem.examples,
            n_steps=n_steps,
            method=method,
            batch_size=problem.batch_size,
        )
        return self.result(problem, attributions, return_convergence_delta)
