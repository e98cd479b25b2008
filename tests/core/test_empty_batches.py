"""Batches without an example: operators return as much, and what asks a model says why not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from usu_core import IWMR, USU, GradientScorer, Quadtree, ScoreMapOnly, Slic, Tilted
from usu_core.metrics import box_effects, complexity, deletion, diffid, random_boxes, sparseness

IMAGES, MAPS = torch.zeros(0, 3, 4, 4), torch.zeros(0, 4, 4)


def total(images: Tensor) -> Tensor:
    return images.flatten(1).sum(1)


@pytest.mark.parametrize("upsampler", [USU(), IWMR(), Tilted(), ScoreMapOnly()])
def test_a_score_map_at_hand_gives_as_many_maps(upsampler: Any) -> None:
    assert upsampler(torch.zeros(0, 2, 2, 2), score_map=MAPS).shape == (0, 2, 4, 4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: USU()(torch.zeros(0, 1, 2, 2), image=IMAGES, score=total),
        lambda: USU(scorer=GradientScorer())(torch.zeros(0, 1, 2, 2), image=IMAGES, score=total),
        lambda: Slic()(IMAGES),
        lambda: Quadtree()(IMAGES),
        lambda: deletion(total, IMAGES, MAPS),
        lambda: diffid(total, IMAGES, MAPS, torch.zeros(0, dtype=torch.long)),
        lambda: box_effects(total, IMAGES, random_boxes(2, (4, 4))),
        lambda: sparseness(MAPS),
        lambda: complexity(MAPS),
    ],
)
def test_the_empty_argument_is_named(call: Callable[[], Any]) -> None:
    message = r"(images|attribution) must have shape .*, none of them 0, got \(0, "
    with pytest.raises(ValueError, match=message):
        call()
