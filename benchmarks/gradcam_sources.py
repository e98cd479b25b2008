"""Seven CAMs on four classifiers, upsampled in five ways, on real images.

The CAM sources of Table 8 of arXiv:2603.16067. For each image, model and source the coarse map is
computed once, the segment scores once per image and model, and every upsampler gets the same two.

One line per image and model is appended to a ``.jsonl`` file beside the result, so that a run that
was stopped goes on where it was. The result itself is rewritten from these lines.

    python -m benchmarks.gradcam_sources --images 8

The folder of models and images is named by the environment variable ``USU_DATA``.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor
from tqdm import tqdm

import usu_gradcam
from benchmarks._common import (
    RESULTS,
    environment,
    image_files,
    load_image,
    load_model,
    write_json,
)
from usu_core import USU, metrics, resolve
from usu_gradcam import TargetScore

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
    "ranking are broken by the score map, as everywhere. Images are of the held-out half. Scores "
    "are made in float32; deletion and insertion are judged in bfloat16, for all maps alike."
)


def main() -> None:
    """Run what is missing, then write the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8, help="of the held-out half")
    parser.add_argument("--models", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--boxes", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="of deletion and insertion")
    parser.add_argument("--chunk-size", type=int, default=64, help="images per model call")
    parser.add_argument("--out", type=Path, default=RESULTS / "gradcam_sources.json")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lines = arguments.out.with_suffix(".jsonl")
    settings = {"boxes": arguments.boxes, "steps": arguments.steps}
    done = {(row["model"], row["file"]) for row in read(lines, settings)}
    for name in arguments.models:
        files = image_files("held-out", arguments.images)
        missing = [file for file in files if (name, file.name) not in done]
        if not missing:
            continue
        net, prep = load_model(name)
        for file in tqdm(missing, desc=name, unit="image"):
            started = time.perf_counter()
            row = explain(name, net, prep, file, arguments)
            row |= {"settings": settings, "seconds": round(time.perf_counter() - started, 2)}
            # A run killed in the middle of a line leaves a piece, which this keeps apart.
            with lines.open("a", encoding="utf-8") as stream:
                stream.write("\n" + json.dumps(row, allow_nan=False) + "\n")
    rows = [row for row in read(lines, settings) if row["model"] in arguments.models]
    write_json(arguments.out, summary(rows, settings))
    print(f"{len(rows)} rows summed up in {arguments.out}")


def explain(
    name: str,
    net: Any,
    prep: Callable[[Tensor], Tensor],
    file: Path,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Measure all sources and upsamplers on one image."""
    image = prep(load_image(file)[None])
    black = prep(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
    with torch.no_grad():
        probabilities = net(image).softmax(1)[0]
    category = int(probabilities.argmax())
    target = ClassifierOutputTarget(category)
    phi = USU().score_map(image, TargetScore(net, [target]))
    maps: dict[tuple[str, str], Tensor] = {}
    errors: dict[tuple[str, str], float] = {}
    for source in SOURCES:
        rest, layers = coarse_maps(source, net, LAYERS[name](net), image, target)
        for upsampler in UPSAMPLERS:
            key = (source, upsampler)
            maps[key], errors[key] = upsample(upsampler, rest, layers, image, phi.values)
    fine = torch.cat(list(maps.values())).detach()
    judged = judge(net, target, image, fine, phi.values, black, arguments)
    figures: dict[str, dict[str, dict[str, float]]] = {source: {} for source in SOURCES}
    for i, (source, upsampler) in enumerate(maps):
        figures[source][upsampler] = {
            "mass_error": errors[source, upsampler],
            **{figure: float(values[i]) for figure, values in judged.items()},
        }
    return {
        "model": name,
        "file": file.name,
        "category": category,
        "probability": float(probabilities[category]),
        "evaluations": phi.evaluations,
        "figures": figures,
    }


def judge(
    net: Any,
    target: Any,
    image: Tensor,
    fine: Tensor,
    ties: Tensor,
    black: Tensor,
    arguments: argparse.Namespace,
) -> dict[str, Tensor]:
    """Return each figure of all maps (N, H, W) of one image, averaged over the references."""

    def probability(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = net(images.contiguous(memory_format=torch.channels_last))
        chosen: Tensor = outputs.float().softmax(1)[:, target.category]
        return chosen

    boxes = metrics.random_boxes(arguments.boxes, (image.shape[2], image.shape[3]))
    sums = metrics.box_sums(fine, boxes)
    repeated, order = image.expand(len(fine), -1, -1, -1), ties.expand_as(fine)
    found = {
        name: torch.zeros(len(fine))
        for name in ("deletion", "insertion", "infidelity", "box_correlation")
    }
    share = 1 / len(metrics.REFERENCES)
    for reference in metrics.REFERENCES:
        for name, curve in (("deletion", metrics.deletion), ("insertion", metrics.insertion)):
            found[name] += (
                curve(
                    probability,
                    repeated,
                    fine,
                    reference=reference,
                    black=black,
                    steps=arguments.steps,
                    ties=order,
                    chunk_size=arguments.chunk_size,
                ).auc
                * share
            )
        effects = metrics.box_effects(
            probability, image, boxes, reference=reference, black=black
        ).expand(len(fine), -1)
        found["infidelity"] += metrics.scale_optimised_infidelity(effects, sums).float() * share
        found["box_correlation"] += metrics.box_correlation(effects, sums).float() * share
    return found


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
        error = max(error, float(result.mass_error))
    return fine, error


def read(lines: Path, settings: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Yield the rows measured under the same settings."""
    if not lines.exists():
        return
    for line in lines.read_text(encoding="utf-8").splitlines():
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
        "environment": environment(),
        "models": table,
    }


def _mean(values: list[float]) -> dict[str, float]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "standard_error": error}


if __name__ == "__main__":
    main()
