"""The maps that ``benchmarks.photographs`` compares, by name."""

import torch
from torch import Tensor

from usu_core import USU, Slic, resolve
from usu_core._refinement import scaled
from usu_core.scoring import ModelScore

Maps = tuple[dict[str, Tensor], Tensor, dict[str, int]]
"""Maps (1, H, W) by name, the score map that breaks ties, and model evaluations by name."""

NAMES = ("nearest", "bilinear", "usu", "iwmr", "iwmr-mass", "tilted", "score-map")

GUIDED = ("usu", "iwmr-mass", "tilted", "score-map")
END, RANKS = ", coalitions", "usu, coalitions, ranks"


def main_maps(cells: Tensor, image: Tensor, score: ModelScore) -> Maps:
    """Every upsampler at its defaults; guided ones share one score map."""
    found = USU().score_map(image, score)
    maps = {name: resolve(name)(cells, image=image, score_map=found.values)[:, 0] for name in NAMES}
    spent = {"usu": found.evaluations}
    spent |= dict.fromkeys(("iwmr", "iwmr-mass", "tilted", "score-map"), found.evaluations)
    maps["usu-fast"] = resolve("usu-fast")(cells, image=image, score=score)[:, 0]
    spent["usu-fast"] = 1
    generator = torch.Generator().manual_seed(0)
    shuffled = _shuffled(found.values, generator)
    maps["usu, shuffled"] = USU()(cells, image=image, score_map=shuffled)[:, 0]
    maps["random"] = torch.rand(found.values.shape, generator=generator)
    return maps, found.values, spent


def coalition_maps(cells: Tensor, image: Tensor, score: ModelScore) -> Maps:
    """The guided upsamplers by drops and by scores of coalitions; drops break all ties."""
    drops = USU().score_map(image, score)
    asked = resolve("iwmr-coalitions").score_map(image, score)
    maps = {name: resolve(name)(cells, image=image)[:, 0] for name in ("nearest", "bilinear")}
    spent: dict[str, int] = {}
    for found, end in ((drops, ""), (asked, END)):
        for name in GUIDED:
            guided = resolve(name)(cells, image=image, score_map=found.values)
            maps[name + end] = guided[:, 0]
            spent[name + end] = found.evaluations
    ranks = scaled(asked.values, "rank")
    maps[RANKS] = USU()(cells, image=image, score_map=ranks)[:, 0]
    spent[RANKS] = asked.evaluations
    return maps, drops.values, spent


def _shuffled(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Deal the scores out to the same pieces anew: what a map owes to its pieces alone."""
    values, piece = scores.unique(return_inverse=True)
    dealt: Tensor = values[torch.randperm(len(values), generator=generator)]
    return dealt[piece]


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
