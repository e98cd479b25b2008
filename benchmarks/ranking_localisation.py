"""Do a trained explainer's first pixels lie on the object? COCO masks, which it never saw.

    python -m benchmarks.ranking_localisation resnet18
    python -m benchmarks.ranking_localisation deit_tiny

Takes the network of ``benchmarks.ranking_train NAME --gradients`` (which trains it if it is not
there). Only objects of 2 to 60 % of the image, of a class that the first prediction belongs to.
The pointing game asks for the first pixel, IoU for as many of the first as the mask has.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from benchmarks._common import RESULTS, environment, load_image, table, write_json
from benchmarks._ranking_maps import integrated_gradients, refined_maps, single_pass_maps
from benchmarks._ranking_subjects import PHOTOGRAPHS, Subject, load_subject
from benchmarks.localisation import coco_items
from benchmarks.ranking_heldout import summarise
from benchmarks.ranking_train import add_network_arguments, case_of, trained
from usu_captum.ranking import RankingNetwork
from usu_cli.evaluate import Item
from usu_core import metrics

MEASURES = {"pointing game": metrics.pointing_game, "IoU": metrics.matched_area_iou}


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=tuple(PHOTOGRAPHS))
    add_network_arguments(parser)
    parser.add_argument("--images", type=int, default=40, help="at most")
    parser.add_argument("--out", type=Path, help="by default in benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = load_subject(options.name)
    case, folder = case_of(options)
    network, _ = trained(subject, folder, gradients=options.gradients)
    items = coco_items(options.name, RESULTS / "localisation" / "masks")[: options.images]
    records = [_judge(subject, network, item) for item in tqdm(items, unit="image")]
    summary = summarise([record["metrics"] for record in records], dict.fromkeys(MEASURES, True))
    rows = [
        [name, *(f"{row[key]['mean']:.3f} ({row[key].get('p', 1):.0e})" for key in MEASURES)]
        for name, row in summary.items()
    ]
    print(table(("map", *MEASURES), rows))
    write_json(
        options.out or RESULTS / f"ranking_localisation_{case}.json",
        {
            "environment": environment(),
            "images": len(records),
            "summary": summary,
            "records": records,
        },
    )


def _judge(subject: Subject, network: RankingNetwork, item: Item) -> dict[str, Any]:
    image = subject.space.from_raw(load_image(item.path)[None].float() / 255)
    if item.mask is None:
        raise ValueError(f"{item.name} must have a mask.")
    with Image.open(item.mask) as picture:
        drawn = np.asarray(picture) > 0
    top, left = ((side - 224) // 2 for side in drawn.shape)
    mask = torch.from_numpy(drawn[top : top + 224, left : left + 224].copy())[None]
    with torch.no_grad():
        target = int(subject.model(image).argmax(1))
    maps = {
        **refined_maps(subject, network, image, target, ()),
        **single_pass_maps(subject, image, target),
        "IG": integrated_gradients(subject, image, target),
        "random": torch.rand(1, 224, 224, generator=torch.Generator().manual_seed(0)),
    }
    return {"image": item.name, "metrics": {name: _measure(m, mask) for name, m in maps.items()}}


def _measure(values: Tensor, mask: Tensor) -> dict[str, float]:
    flat = values.detach().view(1, *mask.shape[1:])
    return {name: float(measure(flat, mask)) for name, measure in MEASURES.items()}


if __name__ == "__main__":
    main()
