"""Do a trained explainer's first pixels lie on the object? COCO masks, which it never saw.

    python -m benchmarks.ranking_localisation resnet18 --gradients
    python -m benchmarks.ranking_localisation deit_tiny --gradients

Takes the network of ``benchmarks.ranking_train`` (which trains it if it is not there). Only objects
of 2 to 60 % of the image, of a class that the first prediction belongs to. The pointing game asks
for the first pixel, IoU for as many of the first as the mask has.
"""

from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks._common import RESULTS, environment, load_image, write_json
from benchmarks._ranking_case import ask
from benchmarks._ranking_maps import (
    first_class,
    integrated_gradients,
    refined_maps,
    single_pass_maps,
)
from benchmarks._ranking_subjects import PHOTOGRAPHS, Subject
from benchmarks.localisation import coco_items
from benchmarks.ranking_heldout import summarise, summary_table
from usu_captum._models import device_of
from usu_captum.ranking import RankingNetwork
from usu_captum.ranking._images import to_space
from usu_cli.evaluate import Item
from usu_core import metrics

MEASURES = {"pointing game": metrics.pointing_game, "IoU": metrics.matched_area_iou}


def main() -> None:
    """Measure, print the table and write the JSON."""
    case = ask(__doc__, tuple(PHOTOGRAPHS), images=40)
    items = coco_items(case.name, RESULTS / "localisation" / "masks")[: case.images]
    records = [_judge(case.subject, case.network, item) for item in tqdm(items, unit="image")]
    summary = summarise([record["metrics"] for record in records], dict.fromkeys(MEASURES, True))
    print(summary_table(summary))
    write_json(
        case.out or RESULTS / f"ranking_localisation_{case.stem}.json",
        {
            "environment": environment(),
            "images": len(records),
            "summary": summary,
            "records": records,
        },
    )


def _judge(subject: Subject, network: RankingNetwork, item: Item) -> dict[str, Any]:
    image = to_space(load_image(item.path), subject.space)[None].to(device_of(subject.model))
    if item.mask is None:
        raise ValueError(f"{item.name} must have a mask.")
    mask = load_image(item.mask)[:1].to(image.device) > 0
    target = first_class(subject, image)
    maps = {
        **refined_maps(subject, network, image, target, ()),
        **single_pass_maps(subject, image, target),
        "IG": integrated_gradients(subject, image, target),
        "random": torch.rand(1, 224, 224, generator=torch.Generator().manual_seed(0)),
    }
    return {"image": item.name, "metrics": {name: _measure(m, mask) for name, m in maps.items()}}


def _measure(values: Tensor, mask: Tensor) -> dict[str, float]:
    flat = values.detach().view(1, *mask.shape[1:]).to(mask.device)
    return {name: float(measure(flat, mask)) for name, measure in MEASURES.items()}


if __name__ == "__main__":
    main()
