"""What specks buy: scattered pixels of high input x gradient, put in front of an explainer's order.

    python -m benchmarks.ranking_specks resnet18 --gradients
    python -m benchmarks.ranking_specks deit_tiny --gradients

A classifier misses such pixels at once, and they show it next to nothing alone. Takes the network
of ``benchmarks.ranking_train`` (which trains it if it is not there), its reported images and its
measures. A control of deletion, and no map for anybody to look at.
"""

from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks._common import RESULTS, environment, write_json
from benchmarks._ranking_case import ask
from benchmarks._ranking_maps import refined_maps, single_pass_maps
from benchmarks._ranking_subjects import PHOTOGRAPHS, Subject
from benchmarks.ranking_heldout import ranks, summarise, summary_table
from benchmarks.ranking_train import judge
from usu_captum.ranking import RankingNetwork

SHARES = (0.02, 0.05, 0.1, 0.2)
MEASURES = {"deletion": False, "insertion": True}
SPECKS = "input x gradient"


def main() -> None:
    """Measure, print the table and write the JSON."""
    case = ask(__doc__, tuple(PHOTOGRAPHS), images=40)
    records = [
        {"image": i, "metrics": _judge(case.subject, case.network, case.subject.shown(i))}
        for i in tqdm(range(min(case.images, len(case.subject.reported))), unit="image")
    ]
    summary = summarise([record["metrics"] for record in records], MEASURES)
    print(summary_table(summary))
    write_json(
        case.out or RESULTS / f"ranking_specks_{case.stem}.json",
        {
            "environment": environment(),
            "images": len(records),
            "shares": SHARES,
            "summary": summary,
            "records": records,
        },
    )


def specks_first(order: Tensor, specks: Tensor, share: float) -> Tensor:
    """Put a share of the pixels, the highest of ``specks``, in front of an order.

    Args:
        order: (B, H, W), higher comes first; so do ``specks``.
        specks: (B, H, W).
        share: Of the pixels, in [0, 1].

    Returns:
        (B, H, W), an order.
    """
    highest = ranks(specks)
    return torch.where(highest > 1 - share, 1 + highest, ranks(order))


def _judge(subject: Subject, network: RankingNetwork, image: Tensor) -> dict[str, dict[str, float]]:
    with torch.no_grad():
        target = int(subject.model(image).argmax(1))
    single = single_pass_maps(subject, image, target)
    maps: dict[str, Any] = refined_maps(subject, network, image, target, ())
    own, specks = (m.detach().view(1, *image.shape[2:]) for m in (maps["ranking"], single[SPECKS]))
    for share in SHARES:
        maps[f"{share:.0%} specks, ranking"] = specks_first(own, specks, share)
    for name in ("Grad-CAM bilinear", SPECKS):
        maps[name] = single[name]
    return judge(subject, image, target, maps)


if __name__ == "__main__":
    main()
