"""Do attributions add up? The gap of every path method, at its defaults, on trained networks.

    python -m benchmarks.path_completeness

The gap is |sum of the attribution - (f(x) - f(start))| in per cent of |f(x) - f(start)|, where f is
the logit of the first class. Paths known beforehand should stay below 1 %; those found on the way
are reported. Captum's Integrated Gradients at its own 50 steps stands beside them.
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
    parser.add_argument("--out", type=Path, default=RESULTS / "path_completeness.json")
    options = parser.parse_args()
    journal = options.out.with_suffix(".jsonl")
    for name in options.models:
        _measure(name, journal)
    records = [r for r in read_journal(journal) if r["model"] in options.models]
    summary = {
        name: _summarise([r["gaps"] for r in records if r["model"] == name])
        for name in options.models
    }
    print(_table(summary))
    write_json(options.out, {"environment": environment(), "summary": summary, "images": records})


def _measure(name: str, journal: Path) -> None:
    done = {(record["model"], record["image"]) for record in read_journal(journal)}
    files = [f for f in image_files("held-out", IMAGES[name]) if (name, f.stem) not in done]
    if not files:
        return
    model, prepare = load_model(name)
    black = prepare(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    tuning = prepare(torch.stack([load_image(f) for f in image_files("tuning", 50)]))
    methods = _methods(model, black, fit_patch_pca(tuning, 16))
    for file in tqdm(files, desc=name, unit="image"):
        image = prepare(load_image(file)[None])
        with torch.no_grad():
            target = int(model(image).argmax())
        gaps = {method: _share(*run(image, target)) for method, run in methods.items()}
        append_journal(journal, {"model": name, "image": file.stem, "gaps": gaps})


def _methods(
    model: nn.Module, black: Tensor, coder: Any
) -> dict[str, Callable[[Tensor, int], tuple[Tensor, Tensor]]]:
    return {
        "Captum's IntegratedGradients, 50": with_gap(
            captum.attr.IntegratedGradients(model), baselines=black, internal_batch_size=8
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


def _summarise(gaps: list[dict[str, float]]) -> dict[str, Any]:
    result: dict[str, Any] = {"images": len(gaps)}
    for method in gaps[0]:
        values = [row[method] for row in gaps]
        result[method] = {"median": float(np.median(values)), "mean": float(np.mean(values))}
    return result


def _table(summary: dict[str, Any]) -> str:
    methods = [name for name in next(iter(summary.values())) if name != "images"]
    header = ("median (mean) gap in %", *(f"{n}, {p['images']}" for n, p in summary.items()))
    return table(
        header,
        [
            [m, *(f"{p[m]['median']:.2f} ({p[m]['mean']:.2f})" for p in summary.values())]
            for m in methods
        ],
    )


if __name__ == "__main__":
    main()
