"""Does a small trained explainer beat what one pass, or many, of other methods give?

    python -m benchmarks.ranking_train cifar10
    python -m benchmarks.ranking_train mnist
    python -m benchmarks.ranking_train cifar10 --gradients
    python -m benchmarks.ranking_train resnet18 --gradients --images 80
    python -m benchmarks.ranking_train deit_tiny --gradients --images 80

Trains the small network on one thread, of photographs on a GPU if there is one, then explains
images that neither training nor the choice of settings has seen, for the classifier's top-1 class.
Judged by deletion and insertion with 21 percentiles, softmax probability, and black, mean and
blurred references, per reference and averaged. What is trained on what:
``benchmarks/_ranking_subjects.py``.

Settings were chosen on the tuning split, which also chooses the best weights. Training resumes
where it was stopped; so does the evaluation, image by image.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._common import RESULTS, environment, table, write_json
from benchmarks._ranking_case import ask, journalled
from benchmarks._ranking_maps import PASSES, REFERENCES, explain, first_class
from benchmarks._ranking_subjects import NAMES, Subject
from benchmarks._statistics import signed_rank
from usu_captum import ForwardScore
from usu_captum.ranking import RankingNetwork, reference_images
from usu_core import metrics

STEPS = 20
Explain = Callable[[Subject, RankingNetwork, Tensor, int], dict[str, Tensor]]
"""Maps of an image (1, C, H, W) for a class."""


def main() -> None:
    """Train, evaluate, print the table and write the result."""
    case = ask(__doc__, NAMES, images=120)
    subject, network = case.subject, case.network
    records = journalled(case, "evaluation", judging(explain))
    summary = _summarise(records)
    _print(summary)
    write_json(
        case.out or RESULTS / f"ranking_train_{case.stem}.json",
        {
            "environment": environment(),
            "images": {
                "training": len(subject.training),
                "tuning": len(subject.tuning),
                "reported": len(records),
            },
            "network": dataclasses.asdict(network.config),
            "trained_weights": sum(p.numel() for p in network.parameters() if p.requires_grad),
            "training": subject.config.record(),
            "training_seconds": case.seconds,
            "summary": summary,
            "records": records,
        },
    )


def judging(explain: Explain) -> Callable[[Subject, RankingNetwork, Tensor], dict[str, Any]]:
    """Return what judges the maps of an image for its first class, as a journal wants it."""

    def judged(subject: Subject, network: RankingNetwork, image: Tensor) -> dict[str, Any]:
        target = first_class(subject, image)
        maps = explain(subject, network, image, target)
        return {"target": target, "metrics": judge(subject, image, target, maps)}

    return judged


def judge(
    subject: Subject, image: Tensor, target: int, maps: Mapping[str, Tensor]
) -> dict[str, dict[str, float]]:
    """Return deletion and insertion of maps (of H x W values) of one image (1, C, H, W)."""
    stacked = torch.cat([values.detach().view(1, *image.shape[2:]) for values in maps.values()])

    def forward(images: Tensor) -> Tensor:
        logits: Tensor = subject.model(images.contiguous(memory_format=torch.channels_last))
        return logits

    score = ForwardScore(forward, target)
    batch = image.expand(len(stacked), -1, -1, -1)
    found: dict[str, dict[str, float]] = {name: {} for name in maps}
    for reference in REFERENCES:
        fill = reference_images(image, reference, subject.space).expand_as(batch)
        for name, measure in (("deletion", metrics.deletion), ("insertion", metrics.insertion)):
            areas = measure(
                score, batch, stacked, reference=fill, steps=STEPS, chunk_size=256
            ).auc.tolist()
            for method, area in zip(maps, areas, strict=True):
                found[method][f"{name} {reference}"] = area
    for row in found.values():
        for name in ("deletion", "insertion"):
            row[name] = sum(row[f"{name} {r}"] for r in REFERENCES) / len(REFERENCES)
    return found


def _summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Average over images, and compare the single pass and its refinements by paired tests."""
    names = list(records[0]["metrics"])
    keys = list(records[0]["metrics"][names[0]])
    values = {
        name: {key: np.array([r["metrics"][name][key] for r in records]) for key in keys}
        for name in names
    }
    result: dict[str, Any] = {}
    for name in names:
        result[name] = {
            "passes": PASSES.get(name, "many"),
            **{key: float(value.mean()) for key, value in values[name].items()},
        }
        for own in (n for n in names if n.startswith("ranking") and n != name):
            result[name][f"against {own}"] = {
                key: _paired(values[own][key] - values[name][key], key)
                for key in ("deletion", "insertion")
            }
    return result


def _paired(difference: np.ndarray, key: str) -> dict[str, float]:
    """Return how much better the second is, and the p of Wilcoxon's two-sided test."""
    gain = difference if key == "insertion" else -difference
    return {
        "gain": float(gain.mean()),
        "p": signed_rank(gain),
        "better on": float((gain > 0).mean()),
    }


def _print(summary: dict[str, Any]) -> None:
    rows = []
    for name, row in summary.items():
        against = row.get("against ranking")
        tests = [f"{against[k]['p']:.1e}" if against else "" for k in ("deletion", "insertion")]
        rows.append(
            [name, row["passes"], f"{row['deletion']:.4f}", f"{row['insertion']:.4f}", *tests]
        )
    print(table(("map", "passes", "deletion", "insertion", "p del.", "p ins."), rows))


if __name__ == "__main__":
    main()
