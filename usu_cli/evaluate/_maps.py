"""All maps of one image: every method's, brought to its size by every upsampler."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from usu_cli._maps import Scored, scores_recipe, upsample_all
from usu_cli.evaluate._sources import Explanation, Subject
from usu_core import USU, AnyUpsampler

AS_IS = "-"
"""In place of an upsampler's name, for maps that need none."""


@dataclass(frozen=True)
class FineMap:
    """One map to judge.

    Args:
        method: What explained.
        upsampler: What brought it to the image's size, or ``AS_IS``.
        values: (H, W) density.
        evaluations: Model evaluations spent on it.
        mass_error: Largest change of a cell's mass relative to the largest cell; of a fine map
            ``None``.
    """

    method: str
    upsampler: str
    values: Tensor
    evaluations: int
    mass_error: float | None = None


def fine_maps(
    method: str,
    explanation: Explanation,
    subject: Subject,
    upsamplers: Mapping[str, AnyUpsampler],
    scored: Scored,
) -> Iterable[FineMap]:
    """Yield a method's maps.

    Args:
        method: Its name.
        explanation: What it gave.
        subject: The image.
        upsamplers: The ways, by name; not used on maps that are fine.
        scored: Scores of this image found so far; new ones are added.
    """
    if not explanation.cells:
        if explanation.fine is None:
            raise ValueError(f"method {method} gave no map.")
        yield FineMap(method, AS_IS, explanation.fine[0], explanation.evaluations)
        return
    layers = [
        upsample_all(cells, subject.inputs, subject.score, upsamplers, scored)
        for cells in explanation.cells
    ]
    for name in upsamplers:
        results = [layer.results[name] for layer in layers]
        values = torch.stack([result.attribution[0, 0].detach() for result in results]).sum(0)
        if explanation.fine is not None:
            values = values + explanation.fine[0]
        yield FineMap(
            method,
            name,
            values,
            # Scores are found once, whatever the number of layers.
            explanation.evaluations + max(layer.evaluations[name] for layer in layers),
            max(float(result.mass_error[0]) for result in results),
        )


def tie_breaker(subject: Subject, scored: Scored) -> Tensor:
    """Return the score map of ``usu`` at its defaults, (H, W): it orders pixels of equal value.

    The same for all maps of an image, and for every run, whichever maps are asked for.
    """
    recipe = scores_recipe("usu", USU())
    found = scored.get(recipe)
    if found is not None and found.score_map is not None:
        return found.score_map[0]
    return USU().score_map(subject.inputs, subject.score).values[0]
