"""Settings of deletion and insertion as papers use them, for results that can be compared."""

from dataclasses import dataclass

import torch
from torch import Tensor

from usu_core._checks import check_choice, check_count
from usu_core.metrics._ranking import equal_counts
from usu_core.metrics._references import Blur, Reference
from usu_core.scoring import OUTPUTS

CURVE_OUTPUTS = (*OUTPUTS, "normalised-logit")
AREAS = ("trapezoid", "mean")


@dataclass(frozen=True)
class CurveProtocol:
    """How deletion and insertion curves are drawn and summed up.

    Change a named protocol with :func:`dataclasses.replace`.

    Attributes:
        deletion: References that deleted pixels take; curves are averaged over them.
        insertion: References that insertion starts from; curves are averaged over them.
        output: ``"probability"``, ``"logit"``, ``"log-odds"`` or ``"normalised-logit"``.
        steps: Number of equal steps. Give this or ``pixels_per_step``.
        pixels_per_step: Pixels changed per step; the last step takes what is left.
        area: ``"trapezoid"``, or ``"mean"`` for the plain mean of all points. A shorter last step
            counts as a full one, as in the papers' code.

    Raises:
        ValueError: If a name is unknown, there is no reference, or not exactly one of ``steps``
            and ``pixels_per_step`` is given.

    Example:
        >>> from dataclasses import replace
        >>> replace(SAMP, pixels_per_step=10).output
        'normalised-logit'
    """

    deletion: tuple[Reference, ...]
    insertion: tuple[Reference, ...]
    output: str = "probability"
    steps: int | None = None
    pixels_per_step: int | None = None
    area: str = "trapezoid"

    def __post_init__(self) -> None:
        """Check the settings once, when they are given."""
        check_choice("output", self.output, CURVE_OUTPUTS)
        check_choice("area", self.area, AREAS)
        for name, references in (("deletion", self.deletion), ("insertion", self.insertion)):
            if not references:
                raise ValueError(f"{name} must hold at least one reference, got none.")
        if (self.steps is None) == (self.pixels_per_step is None):
            raise ValueError(
                "exactly one of steps and pixels_per_step must be given, got "
                f"steps={self.steps} and pixels_per_step={self.pixels_per_step}."
            )
        for name, value in (("steps", self.steps), ("pixels_per_step", self.pixels_per_step)):
            if value is not None:
                check_count(name, value)

    def counts(self, pixels: int) -> list[int]:
        """Return how many of ``pixels`` have changed at each point, from 0 to all."""
        if self.steps is not None:
            return equal_counts(pixels, self.steps)
        step = self.pixels_per_step or pixels
        return [*range(0, pixels, step), pixels]

    def summary(self, scores: Tensor) -> Tensor:
        """Reduce curves (B, points) to one number each, (B,)."""
        if self.area == "mean":
            return scores.mean(1)
        return torch.trapezoid(scores, dx=1.0 / (scores.shape[1] - 1), dim=1)


RISE = CurveProtocol(deletion=(0.0,), insertion=(Blur(5.0, 5),), pixels_per_step=224)
"""Petsiuk et al., 2018: one row of a 224 x 224 image per step, softmax probability, trapezoid.

Deletion writes 0 in the model's space, insertion starts from a blur 11 pixels wide. The border of
the blur is reflected here; the paper's code pads with zeros.
"""

SAMP = CurveProtocol(
    deletion=(0.0,),
    insertion=(Blur(5.0, 15),),
    output="normalised-logit",
    pixels_per_step=1792,
    area="mean",
)
"""Zhang et al., 2024 (SAMP): 28 steps of a 224 x 224 image, logit over the whole image's logit.

The area is the plain mean of the points. Values can lie below 0 and above 1. The paper takes 10
pixels per step on small images. A whole image whose logit is not above 0 is refused, for dividing
by it would turn the curve upside down.
"""

AHA = CurveProtocol(
    deletion=("black", 0.0, Blur(37.0, 18)), insertion=("black", 0.0, Blur(37.0, 18)), steps=20
)
"""Schinagl et al., 2026 (AHA): 21 percentiles, softmax probability, trapezoid.

Averaged over three references: black (give ``black``), the data's mean colour, which is 0 in the
model's space, and a blur 37 pixels wide.
"""
