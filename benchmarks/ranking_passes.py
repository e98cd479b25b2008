"""Single passes alone, on every reported photograph: is a trained explainer's the best of them?

    python -m benchmarks.ranking_passes resnet18 --gradients
    python -m benchmarks.ranking_passes deit_tiny --gradients

Takes the network of ``benchmarks.ranking_train`` (which trains it if it is not there), its
reported images and its measures. Without the methods that cost an image many passes there is time
for five times as many photographs, which tell smaller differences from chance.
"""

from typing import Any

import torch
from torch import Tensor

from benchmarks._common import RESULTS, environment, write_json
from benchmarks._ranking_case import ask, journalled
from benchmarks._ranking_maps import refined_maps, single_pass_maps
from benchmarks._ranking_subjects import PHOTOGRAPHS, Subject
from benchmarks.ranking_heldout import summarise, summary_table
from benchmarks.ranking_train import judge
from usu_captum.ranking import RankingNetwork

MEASURES = {"deletion": False, "insertion": True}


def main() -> None:
    """Measure, print the table and write the JSON."""
    case = ask(__doc__, tuple(PHOTOGRAPHS), images=400)
    records = journalled(case, "passes", _judge)
    summary = summarise([record["metrics"] for record in records], MEASURES)
    print(summary_table(summary))
    write_json(
        case.out or RESULTS / f"ranking_passes_{case.stem}.json",
        {
            "environment": environment(),
            "images": len(records),
            "summary": summary,
            "records": records,
        },
    )


def _judge(subject: Subject, network: RankingNetwork, image: Tensor) -> dict[str, Any]:
    with torch.no_grad():
        target = int(subject.model(image).argmax(1))
    maps = {
        **refined_maps(subject, network, image, target, ()),
        **single_pass_maps(subject, image, target),
    }
    return {"target": target, "metrics": judge(subject, image, target, maps)}


if __name__ == "__main__":
    main()
