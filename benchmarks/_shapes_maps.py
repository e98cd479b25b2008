"""The coarse maps, the scores and the upsampled maps that the tables of shapes compare."""

from dataclasses import dataclass
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
    Tilted,
    resolve,
)

GRIDS: Final = (4, 7, 14)
SOURCES: Final = ("gradient", "grad-cam")
TEMPERATURE: Final = 0.1  # the paper's, also where it gives none: between cells
ORACLES: Final = ("oracle-usu", "oracle-iwmr", "oracle-iwmr-mass", "oracle segments, usu")

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
    "iwmr-mass, 0.1": ("default", _MASS),
    "tilted, 0.1": ("default", Tilted(TEMPERATURE)),
    "usu, logit, 0.1": ("logit", USU(TEMPERATURE)),
    "iwmr, logit, 0.1": ("logit", _PRINTED),
    "iwmr-mass, logit, 0.1": ("logit", _MASS),
    "score-map, logit": ("logit", ScoreMapOnly()),
    "usu, printed": ("printed", USU(TEMPERATURE)),
    "iwmr, printed": ("printed", _PRINTED),
    "oracle segments, usu": ("segments", USU(TEMPERATURE)),
    "oracle-usu": ("truth", USU(TEMPERATURE)),
    "oracle-iwmr": ("truth", _PRINTED),
    "oracle-iwmr-mass": ("truth", _MASS),
}


@dataclass(frozen=True)
class Scores:
    """Score maps (1, H, W) by name, and the model evaluations each took."""

    maps: dict[str, Tensor]
    evaluations: dict[str, int]


def coarse_maps(model: nn.Module, image: Tensor, target: int) -> dict[str, dict[int, Tensor]]:
    """Return non-negative cells (1, 1, g, g) by source and grid.

    ``gradient`` is the magnitude of the target logit's gradient at the pixels, the mean of each
    cell: the paper's "raw gradient attributions", which MLPs have as well. ``grad-cam``, of CNNs
    alone, is the positive part at the last stage, averaged to the grid.
    """
    pixels = image.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(pixels)[:, target].sum(), pixels)
    fine = {"gradient": gradient.abs()}
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


def find_scores(model: nn.Module, image: Tensor, target: int, mask: Tensor) -> Scores:
    """Score the segments of one image in every way that a row needs.

    Args:
        model: The network.
        image: (1, 1, H, W).
        target: The explained class.
        mask: The truth (H, W), bool.
    """
    score = ForwardScore(model, target)
    ways = {
        "default": USU(),
        "logit": USU(scorer=MaskedPerturbation(output="logit")),
        "printed": USU(refinement=Refinement.paper()),
        "fast": resolve("usu-fast"),
        "segments": USU(segmenter=GivenLabels([mask.long()])),
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


def truth_cells(mask: Tensor, side: int) -> Tensor:
    """Return the mean of a mask (H, W) in each cell, (1, 1, side, side)."""
    grid = CellGrid.even((side, side), tuple(mask.shape))
    return grid.mean(mask[None, None].float())
