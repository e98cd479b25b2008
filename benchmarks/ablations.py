"""One setting changed at a time: temperature, segments, depth, scorer, fill, kernel, prior.

    python -m benchmarks.ablations

Grad-CAM maps of photographs of the *tuning* half: defaults are chosen here, and reported on the
other half. Records are kept beside the result; a run that was stopped goes on.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks._common import DROPS, MODELS, RESULTS, image_files
from benchmarks._grid import plan, publish, run
from usu_cli.evaluate import Item
from usu_core import (
    IWMR,
    USU,
    AnyUpsampler,
    GradientScorer,
    MaskedPerturbation,
    Quadtree,
    Refinement,
    ShapleyRegression,
    Slic,
    Tilted,
    resolve,
)

METRICS = ("deletion", "insertion", "correlation", "infidelity")
ADAPTIVE = replace(DROPS, refinement=Refinement(mixing="segment"))
SCORES: dict[str, USU] = {
    "64 segments": USU(segmenter=Slic((64,))),
    "56 coalitions a level": USU(scorer=MaskedPerturbation(samples=56)),
    "25 + 64 segments": USU(segmenter=Slic((25, 64))),
    "quadtree": USU(segmenter=Quadtree((4, 8))),
    "mean fill": USU(scorer=MaskedPerturbation(fill="mean")),
    "log-odds": USU(scorer=MaskedPerturbation(output="log-odds")),
    "ranks": USU(refinement=Refinement(scale="rank")),
    "drop": USU(scorer=MaskedPerturbation(mode="drop")),
    "keep": USU(scorer=MaskedPerturbation(mode="keep")),
    "Shapley": USU(segmenter=Slic((64,)), scorer=ShapleyRegression(samples=160)),
    "gradient": USU(scorer=GradientScorer()),
    "drop, three levels": DROPS,
    "drop, adaptive": ADAPTIVE,
    "drop, adaptive, diagonal kernel": replace(
        ADAPTIVE, refinement=replace(ADAPTIVE.refinement, kernel="diagonal")
    ),
    "drop, adaptive, per pixel": replace(DROPS, refinement=Refinement(mixing="pixel")),
    "drop, the paper's refinement": replace(DROPS, refinement=Refinement.paper()),
}


def variants() -> dict[str, AnyUpsampler]:
    """Return every setting as an upsampler, by the name to show."""
    found: dict[str, AnyUpsampler] = {
        name: resolve(name)
        for name in ("bilinear", "nearest", "usu", "iwmr", "iwmr-mass", "tilted", "score-map")
    }
    found |= {f"usu, temperature {t}": USU(temperature=t) for t in (0.1, 0.3, 0.6, 2.0)}
    found |= {f"tilted, temperature {t}": Tilted(temperature=t) for t in (0.2, 1.0)}
    found |= {
        f"iwmr-mass, importance temperature {t}": IWMR(importance_temperature=t) for t in (0.1, 1.0)
    }
    found["iwmr-mass, importance max"] = IWMR(importance="max")
    for name, setting in SCORES.items():
        parts = {part: getattr(setting, part) for part in ("segmenter", "scorer", "refinement")}
        found[f"usu, {name}"] = setting
        found[f"tilted, {name}"] = Tilted(**parts)
    return found


def main() -> None:
    """Measure what is missing, and publish what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["mobilenet_v2", "resnet18"])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--records", type=Path, default=RESULTS / "ablations")
    parser.add_argument("--out", type=Path, default=RESULTS / "ablations.json")
    options = parser.parse_args()
    items = [Item(file.name, file) for file in image_files("tuning", options.images)]
    for name in options.models:
        chosen = replace(plan(name, ("GradCAM",), METRICS), upsamplers=variants())
        run(name, items, chosen, options.records / name)
    folders = {name: options.records / name for name in options.models}
    publish(folders, ("bilinear", "nearest"), options.out)


if __name__ == "__main__":
    main()
