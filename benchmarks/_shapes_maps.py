"""The coarse maps, the scores and the upsampled maps that the tables of shapes compare."""

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from usu_captum import ForwardScore, LayerGradCam
from usu_cli._shapes import ShapesCNN
from usu_core import (
    IWMR,
    USU,
    AnyUpsampler,
    CellGrid,
    GivenLabels,
    MaskedPerturbation,
    Refinement,
    ScoreMapOnly,
    Slic,
    Tilted,
    resolve,
)

GRIDS: Final = (4, 7, 14)
TEMPERATURE: Final = 0.1  # the paper's, also where it gives none: between cells
# From the coarsest partition, as the paper says. Numbers, and the fill and output of its scores,
# were chosen on nine pictures of another seed.
COARSE_FIRST: Final = Slic((4, 16, 64))

_PRINTED: Final = IWMR(
    TEMPERATURE, prior="uniform", importance="max", importance_temperature=TEMPERATURE
)
_MASS: Final = IWMR(TEMPERATURE, importance_temperature=TEMPERATURE)

# Which scores a row follows, and what turns them and the cells into a map.
ROWS: Final[dict[str, tuple[str, AnyUpsampler]]] = {
    **{
        name: ("none", resolve(name))
        for name in ("nearest", "bilinear", "bicubic", "lanczos", "bilinear-conserving")
    },
    **{
        name: ("default", resolve(name))
        for name in ("usu", "iwmr", "iwmr-mass", "tilted", "score-map")
    },
    "usu-fast": ("fast", resolve("usu-fast")),
    "usu, 0.1": ("default", USU(TEMPERATURE)),
    "iwmr, 0.1": ("default", _PRINTED),
    "usu, coarse first, 0.1": ("coarse first", USU(TEMPERATURE)),
    "iwmr, coarse first, 0.1": ("coarse first", _PRINTED),
    "iwmr-mass, coarse first, 0.1": ("coarse first", _MASS),
    "tilted, coarse first, 0.1": ("coarse first", Tilted(TEMPERATURE)),
    "usu, coarse first": ("coarse first", USU()),
    "iwmr-mass, coarse first": ("coarse first", IWMR()),
    "score-map, coarse first": ("coarse first", ScoreMapOnly()),
    "usu, printed, 0.1": ("printed", USU(TEMPERATURE)),
    "iwmr, printed, 0.1": ("printed", _PRINTED),
    "usu, true segments, 0.1": ("segments", USU(TEMPERATURE)),
    "oracle-usu": ("truth", USU(TEMPERATURE)),
    "oracle-iwmr": ("truth", _PRINTED),
    "oracle-iwmr-mass": ("truth", _MASS),
}


@dataclass(frozen=True)
class Scores:
    """Score maps (1, H, W) by name, and the model evaluations each took."""

    maps: dict[str, Tensor]
    evaluations: dict[str, int]


def gradient_magnitude(model: nn.Module, image: Tensor, target: int) -> Tensor:
    """Return the magnitude of the target logit's gradient at every pixel, (1, 1, H, W)."""
    pixels = image.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(pixels)[:, target].sum(), pixels)
    return gradient.abs()


def coarse_maps(model: nn.Module, image: Tensor, target: int) -> dict[str, dict[int, Tensor]]:
    """Return non-negative cells (1, 1, g, g) by source and grid.

    ``gradient`` is the mean gradient magnitude of each cell: the paper's "raw gradient
    attributions", which MLPs have as well. ``grad-cam``, of CNNs alone, is the positive part at the
    last stage, averaged to the grid.
    """
    fine = {"gradient": gradient_magnitude(model, image, target)}
    if isinstance(model, ShapesCNN):
        fine["grad-cam"] = (
            LayerGradCam(model, model.stages)
            .attribute(image, target=target, upsampler=None, relu_attributions=True)
            .detach()
        )
    return {
        source: {side: nn.functional.adaptive_avg_pool2d(found, side) for side in GRIDS}
        for source, found in fine.items()
    }


def coarse_first_scores(model: nn.Module) -> USU:
    """Return what scores segments from the coarsest partition on, by holes of the mean grey."""
    scorer = MaskedPerturbation("drop", "mean", output="logit", chunk_size=_chunk_size(model))
    return USU(TEMPERATURE, segmenter=COARSE_FIRST, scorer=scorer)


def find_scores(model: nn.Module, image: Tensor, target: int, mask: Tensor) -> Scores:
    """Score the segments of one image in every way that a row needs.

    Args:
        model: The network.
        image: (1, 1, H, W).
        target: The explained class.
        mask: The truth (H, W), bool.
    """
    score = ForwardScore(model, target)
    coarse_first = coarse_first_scores(model)
    ways = {
        "default": USU(scorer=MaskedPerturbation(chunk_size=_chunk_size(model))),
        "coarse first": coarse_first,
        "printed": replace(coarse_first, refinement=Refinement.paper()),
        "fast": resolve("usu-fast"),
        "segments": replace(coarse_first, segmenter=GivenLabels([mask.long()])),
    }
    found = {name: way.score_map(image, score) for name, way in ways.items()}
    maps = {name: one.values for name, one in found.items()}
    spent = {name: one.evaluations for name, one in found.items()}
    return Scores(maps | {"truth": mask[None].float()}, spent | {"truth": 0, "none": 0})


def fine_maps(cells: Tensor, image: Tensor, scores: Scores) -> dict[str, Tensor]:
    """Return the map (1, H, W) of every row, and a random one.

    Args:
        cells: One coarse map (1, 1, g, g).
        image: The picture (1, 1, H, W).
        scores: Its scores, from :func:`find_scores`.
    """
    maps = {}
    for name, (kind, upsampler) in ROWS.items():
        given = {} if kind == "none" else {"score_map": scores.maps[kind]}
        maps[name] = upsampler(cells, image=image, **given)[:, 0].detach()
    generator = torch.Generator().manual_seed(0)
    maps["random"] = torch.rand(1, *image.shape[2:], generator=generator)
    return maps


def _chunk_size(model: nn.Module) -> int:
    # A few wide feature maps at a time stay in the cache of one core: a third of the time.
    return 4 if isinstance(model, ShapesCNN) else 64


def truth_cells(mask: Tensor, side: int) -> Tensor:
    """Return the mean of a mask (H, W) in each cell, (1, 1, side, side)."""
    grid = CellGrid.even((side, side), tuple(mask.shape))
    return grid.mean(mask[None, None].float())
