"""What a training run is made of."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from usu_captum.ranking._checks import frozen
from usu_captum.ranking._objective import RankingObjective, check_objective
from usu_captum.ranking._references import REFERENCES
from usu_captum.ranking._sinkhorn import GumbelSinkhorn
from usu_captum.ranking._transport import RankTransport
from usu_core._checks import (
    check_choice,
    check_count,
    check_not_negative,
    check_positive,
    check_share,
)

TARGETS = ("one", "published")
PRECISIONS = ("no", "bf16")


@dataclass(frozen=True)
class TrainingConfig:
    """How to train a ranking network.

    Args:
        steps: Optimiser steps in all.
        batch_size: Images per step and process.
        learning_rate: Peak of the schedule.
        weight_decay: Of AdamW.
        warm_up: Share of the steps in which the rate rises linearly; a cosine to 0 follows.
        clip: Largest norm of the gradient.
        temperatures: Of the sorter, at the first and the last step; linear between them.
        noise_scale: Of the sorter's Gumbel noise.
        grids: Cells per side, one drawn per step; empty for the divisors of the image's shorter
            side from 7 to 32.
        references: Names of the reference images, one drawn per step.
        targets: ``"one"``: each image's map is made for, and judged by, one class, the top-1 or
            its rival (the label if top-1 is wrong, else the runner-up). ``"published"``: made for
            the top-1, judged by both.
        rivals: Share of images explained for the rival, for ``"one"``.
        objective: What is minimised.
        precision: ``"bf16"`` for automatic mixed precision, or ``"no"``.
        seed: Of everything random. A step's draws depend on it and the step's number alone.
        log_every: Steps between rows of the training curve.
        evaluate_every: Steps between evaluations on held-out images, the first before any step;
            0 for none but the last.
        checkpoint_every: Steps between checkpoints; the last step always writes one.
        patience: Stop after so many evaluations without a better one; 0 for never.
        workers: Processes per process that read images.
        strict: Stop at the first unreadable image.

    Raises:
        TypeError: If a count is no integer, or anything else of the wrong kind.
        ValueError: If anything is out of range or unknown.

    Example:
        >>> TrainingConfig(steps=100).warm_up
        0.06
        >>> TrainingConfig.published(1000).objective.n_percentiles
        16
    """

    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    warm_up: float = 0.06
    clip: float = 1.0
    temperatures: tuple[float, float] = (1.0, 0.3)
    noise_scale: float = 0.0
    grids: tuple[int, ...] = ()
    references: tuple[str, ...] = ("black", "mean", "blur")
    targets: str = "one"
    rivals: float = 0.25
    objective: RankingObjective = field(
        # Chosen on photographs that benchmarks/ranking_train.py does not report. Exact gradients
        # learn faster than ranks do; softer masks leave a little of every pixel, and what is
        # learnt of insertion by them does not hold when pixels are shown or not.
        default_factory=lambda: RankingObjective(
            RankTransport(regularisation=0.005, normalise="range"), n_percentiles=8
        )
    )
    precision: str = "no"
    seed: int = 0
    log_every: int = 10
    evaluate_every: int = 200
    checkpoint_every: int = 200
    patience: int = 0
    workers: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        """Freeze sequences into tuples and check everything."""
        for name, example in (
            ("temperatures", "(1.0, 0.3)"), ("grids", "(14,)"), ("references", "('blur',)")
        ):  # fmt: skip
            object.__setattr__(self, name, frozen(name, getattr(self, name), example))
        for name in ("steps", "batch_size", "log_every", "checkpoint_every"):
            check_count(name, getattr(self, name))
        for name in ("evaluate_every", "patience", "workers", "seed"):
            check_count(name, getattr(self, name), 0)
        for name in ("learning_rate", "clip"):
            check_positive(name, getattr(self, name))
        for name in ("weight_decay", "noise_scale"):
            check_not_negative(name, getattr(self, name))
        for name in ("warm_up", "rivals"):
            check_share(name, getattr(self, name))
        if len(self.temperatures) != 2:
            raise ValueError(f"temperatures must be a first and a last, got {self.temperatures}.")
        for value in self.temperatures:
            check_positive("temperatures", value)
        for grid in self.grids:
            check_count("grids", grid, 2)
        if not self.references:
            raise ValueError("references must name at least one reference, got none.")
        for reference in self.references:
            check_choice("references", reference, REFERENCES)
        check_objective(self.objective)
        check_choice("targets", self.targets, TARGETS)
        check_choice("precision", self.precision, PRECISIONS)

    @classmethod
    def published(cls, steps: int) -> "TrainingConfig":
        """Return the settings of the released code of "Learn to Rank" for ``steps`` steps."""
        return cls(
            steps=steps,
            learning_rate=3e-4,
            noise_scale=1.0,
            grids=tuple(range(7, 29)),
            references=("black", "mean", "wide-blur"),
            targets="published",
            precision="bf16",
            seed=42,
            objective=RankingObjective(
                GumbelSinkhorn(n_iterations=30, score_range=None, tolerance=1e9, warm_start=False),
                n_percentiles=16,
                consistent_cells=False,
                shared_order=False,
                scaled_peaks=False,
            ),
        )

    def grids_for(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Return the grids to draw from for images of ``size``.

        Raises:
            ValueError: If a grid is finer than the image.
        """
        side = min(size)
        if not self.grids:
            divisors = tuple(g for g in range(7, 33) if side % g == 0)
            return divisors or tuple(sorted({min(side, g) for g in (7, 14, 28)}))
        if max(self.grids) > side:
            raise ValueError(f"grids must be at most the image's side {side}, got {self.grids}.")
        return self.grids

    def temperature_at(self, step: int) -> float:
        """Return the sorter's temperature at a step, counted from 0."""
        first, last = self.temperatures
        return first + (last - first) * step / max(1, self.steps - 1)

    def rate_at(self, step: int) -> float:
        """Return the learning rate at a step, counted from 0."""
        rising = max(1, round(self.warm_up * self.steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        share = (step - rising) / max(1, self.steps - rising)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))

    def record(self) -> dict[str, Any]:
        """Return what JSON can hold, for records and for telling two runs apart."""
        facts = dataclasses.asdict(self)
        facts["objective"]["sorter"] = {
            "name": type(self.objective.sorter).__name__,
            **dict(vars(self.objective.sorter)),
        }
        return facts
