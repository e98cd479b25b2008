"""The maps that ``benchmarks.photographs`` compares, by name."""

import torch
from torch import Tensor

from usu_core import (
    IWMR,
    USU,
    GradientScorer,
    MaskedPerturbation,
    Quadtree,
    Refinement,
    ShapleyRegression,
    Slic,
    Tilted,
    resolve,
)
from usu_core.scoring import ModelScore

Maps = tuple[dict[str, Tensor], Tensor, dict[str, int]]
"""Maps (1, H, W) by name, the score map that breaks ties, and model evaluations by name."""

NAMES = ("nearest", "bilinear", "usu", "iwmr", "iwmr-mass", "tilted", "score-map")


def main_maps(cells: Tensor, image: Tensor, score: ModelScore) -> Maps:
    """Every upsampler at its defaults; guided ones share one score map."""
    found = USU().score_map(image, score)
    maps = {name: resolve(name)(cells, image=image, score_map=found.values)[:, 0] for name in NAMES}
    spent = {"usu": found.evaluations}
    spent |= dict.fromkeys(("iwmr", "iwmr-mass", "tilted", "score-map"), found.evaluations)
    maps["usu-fast"] = resolve("usu-fast")(cells, image=image, score=score)[:, 0]
    spent["usu-fast"] = 1
    generator = torch.Generator().manual_seed(0)
    maps["random"] = torch.rand(found.values.shape, generator=generator)
    return maps, found.values, spent


def scan_maps(cells: Tensor, image: Tensor, score: ModelScore) -> Maps:
    """One setting changed at a time, for USU and for tilting."""
    maps = {"bilinear": resolve("bilinear")(cells, image=image)[:, 0]}
    spent: dict[str, int] = {}
    base = USU().score_map(image, score)
    found = {"": base}
    for name, scores_of in _score_settings().items():
        found[name] = scores_of.score_map(image, score)
    for temperature in (0.1, 0.3, 0.6, 1.0, 2.0):
        maps[f"usu, temperature {temperature}"] = USU(temperature)(
            cells, image=image, score_map=base.values
        )[:, 0]
    for temperature in (0.2, 0.5, 1.0):
        maps[f"tilted, temperature {temperature}"] = Tilted(temperature)(
            cells, image=image, score_map=base.values
        )[:, 0]
    for importance in ("mean", "max"):
        maps[f"iwmr-mass, importance {importance}"] = IWMR(importance=importance)(
            cells, image=image, score_map=base.values
        )[:, 0]
    spent |= dict.fromkeys(list(maps)[1:], base.evaluations)
    for setting, scores in found.items():
        for name in ("usu", "tilted"):
            key = f"{name}, {setting}" if setting else name
            maps[key] = resolve(name)(cells, image=image, score_map=scores.values)[:, 0]
            spent[key] = scores.evaluations
    return maps, base.values, spent


def budget_maps(cells: Tensor, image: Tensor, score: ModelScore) -> Maps:
    """USU and tilting with scores from one gradient to some 500 model evaluations."""
    maps, spent = {"bilinear": resolve("bilinear")(cells, image=image)[:, 0]}, {}
    segments = {
        32: (36,),
        64: (64,),
        128: (36, 100),
        200: (36, 64, 90),
        512: (36, 64, 100, 144, 196),
    }
    fast = resolve("usu-fast").score_map(image, score)
    found = {"gradient": fast} | {
        str(budget): USU(segmenter=Slic(levels)).score_map(image, score)
        for budget, levels in segments.items()
    }
    for budget, scores in found.items():
        for name in ("usu", "iwmr-mass", "tilted"):
            key = f"{name} {budget}"
            maps[key] = resolve(name)(cells, image=image, score_map=scores.values)[:, 0]
            spent[key] = scores.evaluations
    return maps, found["200"].values, spent


def _score_settings() -> dict[str, USU]:
    """Ways to score, each the default but for one thing."""
    return {
        "one level of 196 segments": USU(segmenter=Slic((196,))),
        "quadtree": USU(segmenter=Quadtree((6, 12))),
        "adaptive refinement": USU(refinement=Refinement(mixing="segment")),
        "the paper's refinement": USU(refinement=Refinement.paper()),
        "keep": USU(scorer=MaskedPerturbation(mode="keep")),
        "mean fill": USU(scorer=MaskedPerturbation(fill="mean")),
        "log-odds": USU(scorer=MaskedPerturbation(output="log-odds")),
        "Shapley": USU(segmenter=Slic((64,)), scorer=ShapleyRegression(samples=180)),
        "gradient": USU(scorer=GradientScorer()),
    }
