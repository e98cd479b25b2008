"""Do attributions add up? The gap of every path method, at its defaults, on trained networks.

    python -m benchmarks.path_completeness

The gap is |sum of the attribution - (f(x) - f(start))| in per cent of |f(x) - f(start)|, where f is
the logit of the first class. Paths known beforehand should stay below 1 %; those found on the way
are reported. Captum's Integrated Gradients at its own 50 steps stands beside them, and so does its
rule at 200 steps. Results are appended method by method, so a run that was stopped, or is given
more images, continues where it was.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import captum.attr
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks._common import (
    RESULTS,
    append_journal,
    environment,
    image_files,
    load_image,
    load_model,
    read_journal,
    table,
    write_json,
)
from benchmarks._patch_pca import fit_patch_pca
from benchmarks._path_methods import with_gap
from usu_captum.paths import (
    SAMP,
    BlurIG,
    GuidedIG,
    IntegratedGradients,
    ManifoldGuidedIG,
    SAMPPlusPlus,
    SpectralIG,
)

IMAGES = {"mobilenet_v2": 4, "resnet18": 4, "resnet50": 2}


def main() -> None:
    """Measure, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=IMAGES, default=list(IMAGES))
    parser.add_argument("--split", choices=("tuning", "held-out"), default="held-out")
    parser.add_argument("--methods", nargs="+", help="names in the table; by default all")
    parser.add_argument("--out", type=Path, default=RESULTS / "path_completeness.json")
    options = parser.parse_args()
    journal = options.out.with_suffix(".jsonl")
    for name in options.models:
        _measure(name, options, journal)
    records = [r for r in read_journal(journal) if r["model"] in options.models]
    summary = {
        name: _summarise([r for r in records if r["model"] == name]) for name in options.models
    }
    print(_table(summary))
    write_json(
        options.out,
        {
            "environment": environment(),
            "split": options.split,
            "summary": summary,
            "images": records,
        },
    )


def _measure(name: str, options: argparse.Namespace, journal: Path) -> None:
    """Add one line per image and method to the journal, but for those it has."""
    done = {(r["model"], r["image"], r["method"]) for r in read_journal(journal)}
    model, prepare = load_model(name)
    black = prepare(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    tuning = prepare(torch.stack([load_image(f) for f in image_files("tuning", 50)]))
    methods = _methods(model, black, fit_patch_pca(tuning, 16))
    chosen = options.methods or list(methods)
    for file in tqdm(image_files(options.split, IMAGES[name]), desc=name, unit="image"):
        image = prepare(load_image(file)[None])
        with torch.no_grad():
            target = int(model(image).argmax())
        for method in chosen:
            if (name, file.stem, method) not in done:
                gap = _share(*methods[method](image, target))
                line = {"model": name, "image": file.stem, "method": method, "gap": gap}
                append_journal(journal, line)


def _methods(
    model: nn.Module, black: Tensor, coder: Any
) -> dict[str, Callable[[Tensor, int], tuple[Tensor, Tensor]]]:
    return {
        "Captum's IntegratedGradients, 50": with_gap(
            captum.attr.IntegratedGradients(model), baselines=black, internal_batch_size=8
        ),
        "IntegratedGradients, gausslegendre, 200": with_gap(
            IntegratedGradients(model), baselines=black, n_steps=200, method="gausslegendre"
        ),
        "IntegratedGradients": with_gap(IntegratedGradients(model), baselines=black),
        "BlurIG": with_gap(BlurIG(model)),
        "SpectralIG": with_gap(SpectralIG(model), baselines=black),
        "GuidedIG": with_gap(GuidedIG(model), baselines=black),
        "ManifoldGuidedIG": with_gap(ManifoldGuidedIG(model, coder), baselines=black),
        "SAMP": with_gap(SAMP(model)),
        "SAMPPlusPlus": with_gap(SAMPPlusPlus(model)),
    }


def _share(attribution: Tensor, gap: Tensor) -> float:
    return 100 * abs(float(gap)) / abs(float(attribution.sum() - gap))


def _summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {"images": len({r["image"] for r in records})}
    for method in dict.fromkeys(r["method"] for r in records):
        values = [r["gap"] for r in records if r["method"] == method]
        result[method] = {
            "images": len(values),
            "median": float(np.median(values)),
            "mean": float(np.mean(values)),
            "worst": max(values),
        }
    return result


def _table(summary: dict[str, Any]) -> str:
    methods = dict.fromkeys(m for part in summary.values() for m in part if m != "images")
    header = ("mean (worst) gap in %", *(f"{n}, {p['images']}" for n, p in summary.items()))
    return table(header, [[m, *(_cell(p.get(m)) for p in summary.values())] for m in methods])


def _cell(found: dict[str, Any] | None) -> str:
    return "" if found is None else f"{found['mean']:.2f} ({found['worst']:.2f})"


if __name__ == "__main__":
    main()
