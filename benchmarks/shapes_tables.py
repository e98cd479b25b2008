"""The synthetic shapes of arXiv:2603.16067: its Tables 1 and 5, measured.

    python -m benchmarks.shapes_tables

Four networks tell circles, triangles and squares apart: the paper's CNN and its MLP, each vanilla
and right for the right reasons. Their input gradients (and Grad-CAM maps of the CNNs), averaged to
4 x 4, 7 x 7 and 14 x 14 cells, are brought to the size of the picture in every way there is, and
compared with the shape. Networks other than the shipped one are trained by the first run and kept
beside the results, out of the repository. Measurements are appended picture by picture, so a run
that was stopped continues where it was. ``--markdown`` prints the tables of ``docs/shapes.md``.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from benchmarks._common import RESULTS, append_journal, environment, read_journal, write_json
from benchmarks._shapes_maps import (
    ROWS,
    TEMPERATURE,
    coarse_maps,
    find_scores,
    fine_maps,
    gradient_magnitude,
)
from benchmarks._shapes_measures import MEASURES, measure, summarise
from benchmarks._shapes_networks import NETWORKS, load_network
from benchmarks._shapes_pages import markdown
from usu_cli._shapes import CLASSES, Shapes, balanced_labels, draw_shapes

SEED = 2027  # none of these pictures was drawn for training, or for choosing a setting
RESULT = RESULTS / "shapes_tables.json"


def main() -> None:
    """Train what is missing, measure what is missing, write the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=45)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--markdown", action="store_true", help="only print the result's tables")
    options = parser.parse_args()
    if options.markdown:
        print(markdown(json.loads(options.out.read_text(encoding="utf-8"))))
        return
    shapes = held_out_pictures(options.images)
    journal = options.out.with_suffix(".jsonl")
    trained = {}
    for name in options.networks:
        model, trained[name] = load_network(name)
        _measure(name, model, shapes, journal)
    records = [r for r in read_journal(journal) if r["image"] < options.images]
    write_json(
        options.out,
        {
            "environment": environment(),
            "seed": SEED,
            "images": options.images,
            "share_of_shapes": round(float(shapes.masks.mean()), 4),
            "temperature": TEMPERATURE,
            "measures": MEASURES,
            "scores": {name: kind for name, (kind, _) in ROWS.items()},
            "networks": {
                name: {
                    "training": trained[name],
                    **summary([r for r in records if r["network"] == name]),
                }
                for name in options.networks
            },
            "drawn": {"rrr-patterns": {"training": load_network("rrr-patterns")[1]}},
        },
    )
    print(f"written: {options.out}")


def held_out_pictures(count: int) -> Shapes:
    """Return the first ``count`` pictures to judge on; more do not change the first."""
    rng = np.random.default_rng(SEED)
    drawn = [draw_shapes(balanced_labels(len(CLASSES), rng), rng) for _ in range(-(-count // 3))]
    return Shapes(
        np.concatenate([part.images for part in drawn])[:count],
        np.concatenate([part.masks for part in drawn])[:count],
        np.concatenate([part.labels for part in drawn])[:count],
    )


def measure_picture(model: nn.Module, shapes: Shapes, index: int) -> dict[str, Any]:
    """Return the figures of every coarse map of one picture, upsampled in every way."""
    image = torch.from_numpy(shapes.images[index : index + 1])
    mask, target = torch.from_numpy(shapes.masks[index]), int(shapes.labels[index])
    with torch.no_grad():
        probabilities = model(image).softmax(1)[0]
    scores = find_scores(model, image, target, mask)
    whole = {"gradient": {"not averaged": gradient_magnitude(model, image, target)[:, 0]}}
    return {
        "label": CLASSES[target],
        "predicted": CLASSES[int(probabilities.argmax())],
        "probability": round(float(probabilities[target]), 6),
        "evaluations": scores.evaluations,
        "flat_scores": [name for name, found in scores.maps.items() if not bool(found.any())],
        "figures": {
            source: {
                str(side): measure(fine_maps(cells, image, scores) | whole.get(source, {}), mask)
                for side, cells in grids.items()
            }
            for source, grids in coarse_maps(model, image, target).items()
        },
    }


def summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Average over the pictures of one network."""
    first = records[0]["figures"]
    return {
        "images": len(records),
        "correct": float(np.mean([r["predicted"] == r["label"] for r in records])),
        "evaluations": {
            name: float(np.mean([r["evaluations"][name] for r in records]))
            for name in records[0]["evaluations"]
        },
        "flat_scores": {
            name: float(np.mean([name in r["flat_scores"] for r in records]))
            for name in records[0]["evaluations"]
            if name not in {"none", "truth"}
        },
        "maps": {
            source: {
                side: summarise([r["figures"][source][side] for r in records]) for side in grids
            }
            for source, grids in first.items()
        },
    }


def _measure(name: str, model: nn.Module, shapes: Shapes, journal: Path) -> None:
    """Add one line per picture to the journal, but for those it has."""
    done = {(record["network"], record["image"]) for record in read_journal(journal)}
    missing = [i for i in range(len(shapes.labels)) if (name, i) not in done]
    for index in tqdm(missing, desc=name, unit="image"):
        append_journal(
            journal, {"network": name, "image": index, **measure_picture(model, shapes, index)}
        )


if __name__ == "__main__":
    main()
