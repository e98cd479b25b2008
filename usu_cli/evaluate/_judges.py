"""Judge the maps of one image by name of metric, each distinct map once."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cache, partial

import torch
from torch import Tensor, nn

from usu_cli._errors import one_line
from usu_cli._maps import Scored
from usu_cli.evaluate._again import Again, Repeats
from usu_cli.evaluate._journal import Record
from usu_cli.evaluate._judged import Judged
from usu_cli.evaluate._maps import FineMap, tie_breaker
from usu_cli.evaluate._measures import MEASURES
from usu_cli.evaluate._plan import Plan
from usu_cli.evaluate._sources import Method, Subject


class Judges:
    """Runs metrics on chosen maps; those of the same pixels are judged once.

    Args:
        subject: The image.
        plan: How metrics are set.
        model: Judges, in mixed precision if the plan says so.
        scored: Scores of this image found so far.
        methods: What made the maps, for metrics that explain again.
    """

    def __init__(
        self,
        subject: Subject,
        plan: Plan,
        model: nn.Module,
        scored: Scored,
        methods: Mapping[str, Method],
    ) -> None:
        self._subject, self._plan = subject, plan
        self._repeats = Repeats(subject, model, methods, plan.upsamplers)
        self._ties = cache(partial(tie_breaker, subject, scored))
        self._cache: dict[tuple[int, ...], tuple[Judged, list[int]]] = {}
        mixed = plan.precision == "bf16"
        kind = subject.inputs.device.type

        def forward(images: Tensor) -> Tensor:
            with torch.autocast(kind, torch.bfloat16) if mixed else nullcontext():
                result: Tensor = model(images)
            return result.float()

        self._forward = forward

    def run(self, metric: str, maps: Sequence[FineMap]) -> tuple[Tensor, Tensor | None]:
        """Return a value per map, and curves where the metric has them."""
        measure = MEASURES[metric]
        if measure.run is None:
            return torch.tensor([float(m.mass_error or 0.0) for m in maps]), None
        if measure.explains_again:
            # Maps that are equal need not be so again: each for itself.
            judged = self._given([m.values for m in maps], self._repeats.of(metric, maps))
            places = list(range(len(maps)))
        else:
            judged, places = self._distinct(maps)
        found = measure.run(judged)
        curves = None if found.curves is None else found.curves[places].cpu()
        return found.values[places].double().cpu(), curves

    def _distinct(self, maps: Sequence[FineMap]) -> tuple[Judged, list[int]]:
        """Return the distinct maps, judged together, and the place of each map among them."""
        key = tuple(id(m) for m in maps)
        if key not in self._cache:
            distinct: list[Tensor] = []
            places = []
            for m in maps:
                same = (i for i, other in enumerate(distinct) if torch.equal(other, m.values))
                place = next(same, len(distinct))
                if place == len(distinct):
                    distinct.append(m.values)
                places.append(place)
            self._cache[key] = self._given(distinct), places
        return self._cache[key]

    def _given(self, maps: Sequence[Tensor], again: Again | None = None) -> Judged:
        return Judged(
            maps=torch.stack(list(maps)),
            inputs=self._subject.inputs,
            model=self._forward,
            target=self._subject.target,
            black=self._subject.black,
            find_ties=self._ties,
            again=again,
            mask=self._subject.mask,
            steps=self._plan.steps,
            samples=self._plan.samples,
            batch_size=self._plan.batch_size,
            seed=self._plan.seed,
        )


def judged_together(metric: str, maps: Sequence[FineMap]) -> list[list[FineMap]]:
    """Return the maps in the groups that :func:`records_of` may take.

    Those explained again go method by method: it is slow, so each is written down before the
    next, and one that fails does not cost others their values.
    """
    groups: dict[str, list[FineMap]] = {}
    for m in maps:
        groups.setdefault(m.method if MEASURES[metric].explains_again else "", []).append(m)
    return list(groups.values())


def records_of(
    image: str, subject: Subject, metric: str, maps: Sequence[FineMap], judges: Judges
) -> list[Record]:
    """Return the records of one metric of the chosen maps of one image."""
    curves, reason = None, "the value is not finite"
    try:
        values, curves = judges.run(metric, maps)
    except ValueError as error:
        # An image on which a metric is not defined must not end a long run; the record says why.
        values, reason = torch.full((len(maps),), torch.nan), one_line(error)
    found = []
    for i, m in enumerate(maps):
        value = float(values[i])
        finite = math.isfinite(value)
        curve = None if curves is None else tuple(round(float(v), 6) for v in curves[i])
        found.append(
            Record(
                image=image,
                method=m.method,
                upsampler=m.upsampler,
                metric=metric,
                value=value if finite else None,
                target=subject.target,
                evaluations=m.evaluations,
                curve=curve if finite else None,
                error=None if finite else reason,
            )
        )
    return found
