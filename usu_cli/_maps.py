"""Upsample one coarse map in several ways, scoring the image's segments only once."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import usu_core
from usu_cli._errors import unknown
from usu_core.scoring import ModelScore

Scored = dict[Hashable, usu_core.Upsampling]
"""The first upsampling with each kind of scores, for the next to take them from."""


@dataclass(frozen=True)
class Comparison:
    """What several upsamplers made of one coarse map.

    Args:
        results: One per upsampler, by name and in the order asked for.
        evaluations: Model evaluations behind each map; those that share scores share the bill.
        score_maps: Their different score maps, (1, H, W), by the first upsampler with each.
    """

    results: dict[str, usu_core.Upsampling]
    evaluations: dict[str, int]
    score_maps: dict[str, torch.Tensor]


def check_upsamplers(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names without repetition.

    Raises:
        UsageError: if one is unknown.
    """
    known = usu_core.available()
    for name in names:
        if name not in known:
            raise unknown("upsampler", name, known, "usu methods")
    return tuple(dict.fromkeys(names))


def upsample_all(
    cells: torch.Tensor,
    image: torch.Tensor,
    score: ModelScore,
    upsamplers: Mapping[str, usu_core.AnyUpsampler],
    scored: Scored | None = None,
) -> Comparison:
    """Upsample ``cells`` (1, 1, h, w) to the size of ``image`` (1, C, H, W) in each way.

    Args:
        cells: The coarse density.
        image: What the model saw.
        score: The explained scalar, as upsamplers take it.
        upsamplers: The ways, by the name to show.
        scored: Scores of the same image and class found before; new ones are added.
    """
    results: dict[str, usu_core.Upsampling] = {}
    evaluations: dict[str, int] = {}
    score_maps: dict[str, torch.Tensor] = {}
    scored = {} if scored is None else scored
    for name, upsampler in upsamplers.items():
        recipe = scores_recipe(name, upsampler)
        first = scored.get(recipe)
        result: Any = upsampler(
            cells,
            image=image,
            score=score,
            score_map=None if first is None else first.score_map,
            details=True,
        )
        if first is None and result.score_map is not None:
            scored[recipe] = result
        results[name] = result
        evaluations[name] = (first or result).evaluations
        phi = result.score_map
        if phi is not None and not any(phi is other for other in score_maps.values()):
            score_maps[name] = phi
    return Comparison(results, evaluations, score_maps)


def scores_recipe(name: str, upsampler: usu_core.AnyUpsampler) -> Hashable:
    """Return what decides an upsampler's score map: equal recipes, equal scores."""
    # Upsamplers of a third party may have none of these; they all differ then.
    return tuple(getattr(upsampler, part, name) for part in ("segmenter", "scorer", "refinement"))
