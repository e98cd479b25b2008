"""Seven CAMs on four classifiers, upsampled in five ways, on real images.

The CAM sources of Table 8 of arXiv:2603.16067. For each image, model and source the coarse map is
computed once, the segment scores once per image and model, and every upsampler gets the same two.

One line per image and model is appended to a ``.jsonl`` file beside the result, so that a run that
was stopped goes on where it was. The result itself is rewritten from these lines.

    python benchmarks/gradcam_sources.py --images 50 --out benchmarks/results/gradcam_sources.json

The folder of models and images is named by the environment variable ``USU_DATA``.
"""

import argparse
import csv
import importlib
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

import usu_gradcam
from usu_core import USU, CellGrid, metrics, resolve
from usu_gradcam import TargetScore

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("USU_DATA", ROOT.parent / "shared" / "data"))

SOURCES = (
    "GradCAM",
    "HiResCAM",
    "GradCAMPlusPlus",
    "XGradCAM",
    "FullGrad",
    "ShapleyCAM",
    "FinerCAM",
)
UPSAMPLERS = ("bilinear", "nearest", "usu", "iwmr", "iwmr-mass")
LAYERS: dict[str, Callable[[Any], Any]] = {
    "resnet18": lambda net: net.layer4[-1],
    "resnet50": lambda net: net.layer4[-1],
    "mobilenet_v2": lambda net: net.features[-1],
    "deit_tiny": lambda net: net.blocks[-1].norm1,  # patch tokens no longer count after it
}
FIGURES = {
    "mass_error": "largest deviation of a cell's mass, relative to the largest cell mass; lower",
    "deletion": "area under the probability, mean over black, mean and blur; lower",
    "insertion": "area under the probability, mean over black, mean and blur; higher",
    "infidelity": "scale-optimised, over random boxes, mean over the three references; lower",
    "box_correlation": "of boxes' mass and effect, mean over the three references; higher",
}
NOTES = (
    "Explained: the predicted class. Maps: the positive part of the coarse map (the library's "
    "ReLU), redistributed as density, unscaled. FinerCAM's maps compare classes, but share the "
    "predicted class's scores with the other sources. FullGrad's mass error is the largest of its "
    "layers; on DeiT its only layer with a spatial bias is the patch embedding. Ties of the "
    "ranking are broken by order in memory."
)


def main() -> None:
    """Run what is missing, then write the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50, help="spread evenly over the folder")
    parser.add_argument("--models", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--boxes", type=int, default=64)
    parser.add_argument("--steps", type=int, default=16, help="of deletion and insertion")
    parser.add_argument("--chunk-size", type=int, default=64, help="images per model call")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "gradcam_sources.json"
    )
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lines = arguments.out.with_suffix(".jsonl")
    settings = {"boxes": arguments.boxes, "steps": arguments.steps}
    done = {(row["model"], row["file"]) for row in read(lines, settings)}
    for name in arguments.models:
        missing = [file for file in chosen(arguments.images) if (name, file) not in done]
        if not missing:
            continue
        net, prep = load(name, arguments.device)
        for file in missing:
            started = time.perf_counter()
            row = explain(name, net, prep, file, arguments)
            row |= {"settings": settings, "seconds": round(time.perf_counter() - started, 2)}
            # A run killed in the middle of a line leaves a piece, which this keeps apart.
            with lines.open("a") as stream:
                stream.write("\n" + json.dumps(row, allow_nan=False) + "\n")
            print(f"{name} {file} {row['seconds']} s", flush=True)
    rows = [row for row in read(lines, settings) if row["model"] in arguments.models]
    arguments.out.write_text(json.dumps(summary(rows, settings), indent=1, allow_nan=False) + "\n")
    print(f"{len(rows)} rows summed up in {arguments.out}")


def chosen(count: int) -> list[str]:
    """Return file names spread evenly over the labelled images."""
    with (DATA / "imagenet" / "labels.csv").open() as stream:
        files = [row["file"] for row in csv.DictReader(stream)]
    return [files[int(i)] for i in np.linspace(0, len(files) - 1, min(count, len(files)))]


def load(name: str, device: str) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """Return a classifier of the data folder and its preprocessing."""
    if str(DATA) not in sys.path:
        sys.path.insert(0, str(DATA))
    net, prep = importlib.import_module("load_models").imagenet(name)
    return net.to(device), prep


def explain(
    name: str, net: Any, prep: Callable[[Tensor], Tensor], file: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measure all sources and upsamplers on one image."""
    with Image.open(DATA / "imagenet" / "images" / file) as picture:
        rgb = np.array(picture.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None].to(arguments.device)
    image, black = prep(pixels), prep(torch.zeros_like(pixels))
    with torch.inference_mode():
        probabilities = net(image).softmax(1)[0]
    category = int(probabilities.argmax())
    target = ClassifierOutputTarget(category)
    score = TargetScore(net, [target])
    phi = USU().score_map(image, score)
    effects = {}
    boxes = metrics.random_boxes(arguments.boxes, (224, 224))
    for reference in metrics.REFERENCES:
        effects[reference] = metrics.box_effects(
            score, image, boxes, reference=reference, black=black, chunk_size=arguments.chunk_size
        )
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for source in SOURCES:
        rest, layers = coarse_maps(source, net, LAYERS[name](net), image, target)
        figures[source] = {}
        for upsampler in UPSAMPLERS:
            fine, error = upsample(upsampler, rest, layers, image, phi.values)
            figures[source][upsampler] = {
                "mass_error": error,
                **curves(score, image, fine, black, arguments),
                **agreement(effects, metrics.box_sums(fine, boxes)),
            }
    return {
        "model": name,
        "file": file,
        "category": category,
        "probability": float(probabilities[category]),
        "evaluations": phi.evaluations,
        "figures": figures,
    }


def coarse_maps(
    source: str, net: Any, layer: Any, image: Tensor, target: Any
) -> tuple[Tensor, list[Tensor]]:
    """Return what a source does not upsample (B, H, W), and its coarse maps (B, 1, h, w)."""
    cells: list[Tensor] = []

    def take(given: Tensor, **_: Any) -> Tensor:
        cells.append(given.clamp(min=0))
        return given.new_zeros(*given.shape[:2], *image.shape[2:])

    layers = [] if source == "FullGrad" else [layer]
    with getattr(usu_gradcam, source)(net, layers, upsampler=take, raw=True) as cam:
        # FinerCAM chooses the classes to compare with itself.
        rest = cam(image, None if source == "FinerCAM" else [target])
    return torch.from_numpy(rest).to(image.device), cells


def upsample(
    name: str, rest: Tensor, layers: list[Tensor], image: Tensor, phi: Tensor
) -> tuple[Tensor, float]:
    """Return the fine map (B, H, W) and its largest mass error."""
    fine, error = rest, 0.0
    for cells in layers:
        result = resolve(name)(cells, image=image, score_map=phi, details=True)
        fine = fine + result.attribution[:, 0]
        grid = CellGrid.even(cells.shape[2:], image.shape[2:])
        mass = cells.double() * grid.sizes(cells.device)
        off = (grid.sum(result.attribution.double()) - mass).abs().amax()
        error = max(error, float(off / mass.abs().amax().clamp(min=1e-300)))
    return fine, error


def curves(
    score: TargetScore, image: Tensor, fine: Tensor, black: Tensor, arguments: argparse.Namespace
) -> dict[str, float]:
    """Return deletion and insertion, averaged over the references."""
    found: dict[str, float] = {}
    for name, curve in (("deletion", metrics.deletion), ("insertion", metrics.insertion)):
        areas = [
            curve(
                score,
                image,
                fine,
                reference=reference,
                black=black,
                steps=arguments.steps,
                chunk_size=arguments.chunk_size,
            ).auc
            for reference in metrics.REFERENCES
        ]
        found[name] = float(torch.stack(areas).mean())
    return found


def agreement(effects: dict[str, Tensor], sums: Tensor) -> dict[str, float]:
    """Return infidelity and box correlation, averaged over the references."""
    infidelity = [metrics.scale_optimised_infidelity(one, sums) for one in effects.values()]
    correlation = [metrics.box_correlation(one, sums) for one in effects.values()]
    return {
        "infidelity": float(torch.stack(infidelity).mean()),
        "box_correlation": float(torch.stack(correlation).mean()),
    }


def read(lines: Path, settings: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Yield the rows measured under the same settings."""
    if not lines.exists():
        return
    for line in lines.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # blank, or cut off when the run was killed: measured again
            continue
        if row["settings"] == settings:
            yield row


def summary(rows: list[dict[str, Any]], settings: dict[str, int]) -> dict[str, Any]:
    """Return means and their standard errors, per model, source and upsampler."""
    table: dict[str, Any] = {}
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row["figures"] for row in rows if row["model"] == model]
        table[model] = {
            "images": len(mine),
            "sources": {
                source: {
                    upsampler: {
                        figure: _mean([one[source][upsampler][figure] for one in mine])
                        for figure in FIGURES
                    }
                    for upsampler in UPSAMPLERS
                }
                for source in SOURCES
            },
        }
    packages = ("torch", "torchvision", "timm", "grad-cam", "numpy", "scikit-image")
    return {
        "schema": 1,
        "what": __doc__.splitlines()[0] if __doc__ else "",
        "figures": FIGURES,
        "notes": NOTES,
        "settings": settings,
        "layers": {
            "resnet18": "layer4[-1]",
            "resnet50": "layer4[-1]",
            "mobilenet_v2": "features[-1]",
            "deit_tiny": "blocks[-1].norm1",
        },
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "models": table,
    }


def _mean(values: list[float]) -> dict[str, float]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "standard_error": error}


if __name__ == "__main__":
    main()
