"""The maps that ``benchmarks.photographs`` compares, by name."""

from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarks._common import DROPS
from usu_cli.evaluate._summary import label
from usu_core import USU, MaskedPerturbation, Slic, resolve
from usu_core._refinement import scaled
from usu_core.scoring import ModelScore

Maps = tuple[dict[str, Tensor], Tensor, dict[str, int]]
"""Maps (1, H, W) by name, the score map that breaks ties, and model evaluations by name."""

GUIDED = ("usu", "iwmr-mass", "tilted", "score-map")
BY_DROPS, BY_RANKS = ", drops", ", ranks"
AIMED_AT = ("GradCAM", "LayerCAM", "HiResCAM")
RESIZES = ("nearest", "bilinear", "bicubic")


def main_maps(cells: Tensor, image: Tensor, score: ModelScore) -> Maps:
    """Every upsampler at its defaults, and the guided ones by drops alone and by ranks.

    Ties are broken by drops, which are nobody's default.
    """
    found, drops = USU().score_map(image, score), DROPS.score_map(image, score)
    ranks = scaled(found.values, "rank")
    maps = {name: resolve(name)(cells, image=image)[:, 0] for name in ("nearest", "bilinear")}
    spent: dict[str, int] = {}
    rows = [(name, "", found.values) for name in (*GUIDED, "iwmr")]
    rows += [(name, BY_DROPS, drops.values) for name in GUIDED]
    rows += [(name, BY_RANKS, ranks) for name in GUIDED[:3]]
    for name, end, scores in rows:
        maps[name + end] = resolve(name)(cells, image=image, score_map=scores)[:, 0]
        spent[name + end] = (drops if end == BY_DROPS else found).evaluations
    maps["usu-fast"] = resolve("usu-fast")(cells, image=image, score=score)[:, 0]
    spent["usu-fast"] = 1
    generator = torch.Generator().manual_seed(0)
    shuffled = _shuffled(found.values, generator)
    maps["usu, shuffled"] = USU()(cells, image=image, score_map=shuffled)[:, 0]
    maps["random"] = torch.rand(found.values.shape, generator=generator).to(cells.device)
    return maps, drops.values, spent


def resize_maps(cells: Mapping[str, Tensor], image: Tensor, score: ModelScore) -> Maps:
    """Every CAM by the default and by what it replaces.

    The default's scores are found once: they serve all CAMs and break the ties of all maps.
    """
    found = USU().score_map(image, score)
    stacked = torch.cat(list(cells.values()))
    images = image.expand(len(cells), -1, -1, -1)
    scores = found.values.expand(len(cells), -1, -1)
    fine = {
        way: resolve(way)(stacked, image=images, score_map=scores)[:, 0]
        for way in (*RESIZES, "usu")
    }
    maps = {label((cam, way)): fine[way][[i]] for i, cam in enumerate(cells) for way in fine}
    return maps, found.values, {label((cam, "usu")): found.evaluations for cam in cells}


def _shuffled(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Deal the scores out to the same pieces anew: what a map owes to its pieces alone."""
    values, piece = scores.unique(return_inverse=True)
    dealt: Tensor = values[torch.randperm(len(values), generator=generator).to(values.device)]
    return dealt[piece]


def budget_maps(cells: Tensor, image: Tensor, score: ModelScore) -> Maps:
    """Guided upsamplers with scores from one gradient to some 500 model evaluations."""
    maps, spent = {"bilinear": resolve("bilinear")(cells, image=image)[:, 0]}, {}
    budgets: dict[int, tuple[tuple[int, ...], int | None]] = {
        32: ((4, 12), 16),
        64: ((8, 24), 32),
        128: ((16, 64), 64),
        200: ((16, 64), None),  # the default
        512: ((32, 128), 256),
    }
    found = {"gradient": resolve("usu-fast").score_map(image, score)}
    for limit, (segments, samples) in budgets.items():
        way = USU(segmenter=Slic(segments), scorer=MaskedPerturbation(samples=samples))
        found[str(limit)] = way.score_map(image, score)
    for budget, scores in found.items():
        for name in ("usu", "iwmr-mass", "tilted"):
            key = f"{name} {budget}"
            maps[key] = resolve(name)(cells, image=image, score_map=scores.values)[:, 0]
            spent[key] = scores.evaluations
    return maps, found["200"].values, spent
