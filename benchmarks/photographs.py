"""Is redistribution better than resizing, on real classifiers and photographs?

    python -m benchmarks.photographs --split held-out --out benchmarks/results/photographs.json

For every image, the Grad-CAM map (ReLU, last stage) of the top-1 class is brought to the image's
size in several ways, and each way is judged by deletion and insertion (mean over black, mean and
blurred references; softmax probability; ties broken by the score map) and by how well the mass in
random boxes predicts what hiding the box costs (correlation; infidelity at the best scale).
Controls: nearest, the score map alone, RISE with as many model evaluations, the segments' scores
dealt out among them at random, and noise.

``--budget`` charts quality against model evaluations. Results are appended image by image, so a run
that was stopped continues where it was.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks._common import (
    MODELS,
    RESULTS,
    SPLITS,
    append_journal,
    environment,
    image_files,
    load_image,
    load_model,
    read_journal,
    table,
    write_json,
)
from benchmarks._photograph_maps import budget_maps, main_maps
from benchmarks._statistics import paired
from usu_captum import ForwardScore, LayerGradCam, default_layer
from usu_cli.evaluate._rise import rise
from usu_core import metrics

METRICS = ("deletion", "insertion", "correlation", "infidelity")
HIGHER_IS_BETTER = {
    "deletion": False,
    "insertion": True,
    "gap": True,  # insertion minus deletion
    "correlation": True,
    "infidelity": False,
}
PEERS = ("bilinear", "nearest", "score-map", "RISE", "usu, shuffled")
STEPS, BOXES = 8, 96


def main() -> None:
    """Measure, print the tables and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", choices=SPLITS, default="held-out")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--budget", action="store_true", help="quality against evaluations")
    parser.add_argument("--out", type=Path, default=RESULTS / "photographs.json")
    options = parser.parse_args()
    journal = options.out.with_suffix(".jsonl")
    for name in options.models:
        _measure(name, options, journal)
    records = [record for record in read_journal(journal) if record["model"] in options.models]
    summary = {name: _summarise(records, name) for name in options.models}
    for name in options.models:
        _print(name, summary[name])
    write_json(
        options.out,
        {
            "environment": environment(),
            "split": options.split,
            "steps": STEPS,
            "boxes": BOXES,
            "references": metrics.REFERENCES,
            "summary": summary,
            "images": records,
        },
    )


def _measure(name: str, options: argparse.Namespace, journal: Path) -> None:
    """Add one line per image to the journal, but for those it has."""
    done = {(record["model"], record["image"]) for record in read_journal(journal)}
    files = [f for f in image_files(options.split, options.images) if (name, f.stem) not in done]
    if not files:
        return
    model, prepare = load_model(name)
    for file in tqdm(files, desc=name, unit="image"):
        record = {"model": name, "image": file.stem}
        record |= _measure_image(model, prepare, load_image(file), options)
        append_journal(journal, record)


def _measure_image(
    model: nn.Module,
    prepare: Callable[[Tensor], Tensor],
    photograph: Tensor,
    options: argparse.Namespace,
) -> dict[str, Any]:
    image = prepare(photograph[None])
    black = prepare(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))[0]
    with torch.no_grad():
        target = int(model(image).argmax(1))
    score = ForwardScore(model, target)
    grad_cam = LayerGradCam(model, default_layer(model, image)[1])
    cells: Tensor = grad_cam.attribute(
        image, target=target, relu_attributions=True, upsampler=lambda coarse, **_: coarse
    ).detach()
    if options.budget:
        maps, ties, spent = budget_maps(cells, image, score)
        # Captum's own pass serves the scores as well, at a hidden layer.
        maps["usu one pass"] = grad_cam.attribute(
            image, target=target, relu_attributions=True, upsampler="usu-fast"
        )[:, 0].detach()
    else:
        maps, ties, spent = main_maps(cells, image, score)
        fill = image.mean((2, 3), keepdim=True).expand_as(image)
        maps["RISE"] = rise(score, image, spent["usu"], fill=fill)
        spent["RISE"] = spent["usu"]
    return {
        "target": target,
        "evaluations": spent,
        "metrics": _judge(model, target, image, black, maps, ties),
    }


def _judge(
    model: nn.Module,
    target: int,
    image: Tensor,
    black: Tensor,
    maps: dict[str, Tensor],
    ties: Tensor,
) -> dict[str, dict[str, float]]:
    """Return every metric of every map. All maps of an image are judged in one batch."""

    def forward(images: Tensor) -> Tensor:
        # Judging is most of the work. Half precision treats all maps alike; scores are made in
        # full precision.
        with torch.autocast(images.device.type, torch.bfloat16):
            result: Tensor = model(images.contiguous(memory_format=torch.channels_last))
        return result

    score = ForwardScore(forward, target)
    stacked = torch.cat([maps[name] for name in maps])
    images = image.expand(len(stacked), -1, -1, -1)
    found = {name: torch.zeros(len(stacked)) for name in METRICS}
    boxes = metrics.random_boxes(BOXES, (image.shape[2], image.shape[3]), seed=0)
    sums = metrics.box_sums(stacked, boxes)
    for reference in metrics.REFERENCES:
        for name, measure in (("deletion", metrics.deletion), ("insertion", metrics.insertion)):
            curve = measure(
                score,
                images,
                stacked,
                reference=reference,
                black=black,
                steps=STEPS,
                ties=ties.expand_as(stacked),
            )
            found[name] += curve.auc / len(metrics.REFERENCES)
    effects = metrics.box_effects(score, image, boxes, reference="blur")
    effects = effects.expand(len(stacked), -1)
    found["correlation"] = metrics.box_correlation(effects, sums)
    found["infidelity"] = metrics.scale_optimised_infidelity(effects, sums)
    return {
        name: {metric: float(found[metric][i]) for metric in METRICS} for i, name in enumerate(maps)
    }


def _summarise(records: list[dict[str, Any]], model: str) -> dict[str, Any]:
    """Average over images, and compare each map with the controls by paired tests."""
    chosen = [record for record in records if record["model"] == model]
    names = list(chosen[0]["metrics"])
    result: dict[str, Any] = {"images": len(chosen), "maps": {}}
    values = {
        name: {
            **{m: np.array([r["metrics"][name][m] for r in chosen]) for m in METRICS},
            "gap": np.array(
                [r["metrics"][name]["insertion"] - r["metrics"][name]["deletion"] for r in chosen]
            ),
        }
        for name in names
    }
    for name in names:
        spent = [r["evaluations"].get(name, 0) for r in chosen]
        row: dict[str, Any] = {"evaluations": float(np.mean(spent))}
        row |= {metric: float(v.mean()) for metric, v in values[name].items()}
        for peer in (peer for peer in PEERS if peer in names and peer != name):
            row[f"against {peer}"] = {
                metric: paired(v - values[peer][metric], HIGHER_IS_BETTER[metric])
                for metric, v in values[name].items()
            }
        result["maps"][name] = row
    return result


def _print(model: str, summary: dict[str, Any]) -> None:
    header = ("map", "evaluations", *HIGHER_IS_BETTER)
    for peer in PEERS:
        rows = []
        for name, row in summary["maps"].items():
            against = row.get(f"against {peer}")
            if against is None:
                continue
            cells = [name, f"{row['evaluations']:.0f}"]
            for metric in HIGHER_IS_BETTER:
                sign = "+" if against[metric]["gain"] > 0 else "-"
                cells.append(f"{row[metric]:.3f} ({sign}{against[metric]['p']:.3f})")
            rows.append(cells)
        if rows:
            print(f"\n{model}, {summary['images']} images; in brackets gain and p against {peer}")
            print(table(header, rows))


if __name__ == "__main__":
    main()
