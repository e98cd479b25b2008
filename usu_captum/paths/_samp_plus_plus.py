"""SAMP++: SAMP with bounded steps and momentum."""

from collections.abc import Callable
from typing import Any

from usu_captum._image_space import ImageSpace
from usu_captum.paths._objective import Transform
from usu_captum.paths._samp import SAMP


class SAMPPlusPlus(SAMP):
    """SAMP with short steps and momentum (Zhang et al., 2024, Algorithm 1 of arXiv:2401.10442).

    The same as :class:`SAMP` with other defaults, the paper's.

    Args:
        forward_func: As in :class:`SAMP`, and so are the others.
        objective: What is explained.
        space: Where images live.
        pixels_per_step: Pixels moved per step.
        step_bound: The longest step as a share of the path's length.
        momentum: Share of the previous gradients in the one that selects pixels.
        accumulate: What weighs a step.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> SAMPPlusPlus(model).attribute(torch.rand(1, 3, 2, 2), target=0).shape
        torch.Size([1, 3, 2, 2])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        objective: str | Transform = "logit",
        space: ImageSpace | None = None,
        pixels_per_step: int | None = None,
        step_bound: float | None = 0.1,
        momentum: float = 0.5,
        accumulate: str = "gradient",
    ) -> None:
        super().__init__(
            forward_func,
            objective=objective,
            space=space,
            pixels_per_step=pixels_per_step,
            step_bound=step_bound,
            momentum=momentum,
            accumulate=accumulate,
        )
