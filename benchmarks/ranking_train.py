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

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks._common import (
    RESULTS,
    append_journal,
    environment,
    read_journal,
    table,
    write_json,
)
from benchmarks._ranking_maps import PASSES, REFERENCES, explain
from benchmarks._ranking_subjects import NAMES, Subject, load_subject
from benchmarks._statistics import signed_rank
from usu_captum import ForwardScore
from usu_captum.ranking import (
    NetworkConfig,
    RankingNetwork,
    build_network,
    reference_images,
    train_explainer,
)
from usu_core import metrics

STEPS = 20
WORK = Path("usu-ranking-train")


def main() -> None:
    """Train, evaluate, print the table and write the result."""
    case = ask(__doc__, NAMES, images=120)
    subject, network = case.subject, case.network
    result = _evaluate(subject, network, case.images, case.folder / "evaluation.jsonl")
    _print(result["summary"])
    write_json(
        case.out or RESULTS / f"ranking_train_{case.stem}.json",
        {
            "environment": environment(),
            "images": {
                "training": len(subject.training),
                "tuning": len(subject.tuning),
                "reported": len(result["records"]),
            },
            "network": dataclasses.asdict(network.config),
            "trained_weights": sum(p.numel() for p in network.parameters() if p.requires_grad),
            "training": subject.config.record(),
            "training_seconds": case.seconds,
            **result,
        },
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """A trained network, and what was asked for on the command line.

    Attributes:
        name: The subject's.
        stem: Of files: the name, and whether gradients are read.
        subject: What the network explains.
        network: Trained.
        seconds: As :func:`trained` tells.
        folder: Of its checkpoints and journals.
        images: How many to judge, at most.
        out: Where to write the result, unless in ``benchmarks/results``.
    """

    name: str
    stem: str
    subject: Subject
    network: RankingNetwork
    seconds: float | None
    folder: Path
    images: int
    out: Path | None


def ask(about: str, names: Sequence[str], *, images: int) -> Case:
    """Read the command line, and return the network it means, trained if it is not there."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("name", choices=names)
    parser.add_argument("--gradients", action="store_true", help="the network that reads gradients")
    parser.add_argument("--images", type=int, default=images, help="to judge, at most")
    parser.add_argument("--work", type=Path, default=WORK, help="checkpoints")
    parser.add_argument("--out", type=Path, help="by default in benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = load_subject(options.name)
    stem = f"{options.name}_gradients" if options.gradients else str(options.name)
    folder = options.work / stem
    network, seconds = trained(subject, folder, gradients=options.gradients)
    return Case(options.name, stem, subject, network, seconds, folder, options.images, options.out)


def trained(
    subject: Subject, folder: Path, *, gradients: bool
) -> tuple[RankingNetwork, float | None]:
    """Return the network and the processor time of its training, over all sittings.

    The time is not known where a sitting was killed.
    """
    torch.manual_seed(0)
    shape = tuple(subject.reported[0].image.shape)
    config = NetworkConfig(
        subject.classes,
        shape,  # type: ignore[arg-type]
        gradients=gradients,
        cells=subject.cells,
    )
    network = build_network(config, subject.model)
    folder.mkdir(parents=True, exist_ok=True)
    clock = folder / "seconds.json"
    begun = (folder / "training.safetensors").exists()
    before = json.loads(clock.read_text()) if clock.exists() else None if begun else 0.0
    clock.write_text("null")
    started = time.process_time()
    try:
        result = train_explainer(
            subject.model,
            network,
            subject.training,
            subject.config,
            folder,
            space=subject.space,
            held_out=subject.tuning,
        )
    finally:
        seconds = None if before is None else round(before + time.process_time() - started, 1)
        clock.write_text(json.dumps(seconds))
    return result.network, seconds


def maps_key(subject: Subject, network: RankingNetwork) -> str:
    """Return what tells the explainer's maps from others': judgements of those do not count."""
    weights = torch.cat([p.detach().flatten() for p in network.parameters() if p.requires_grad])
    grids, shares = subject.refinement_grids, subject.refinement.n_percentiles
    return f"{float(weights.double().sum()):.12g}, grids {grids}, {shares} percentiles"


def _evaluate(
    subject: Subject, network: RankingNetwork, images: int, journal: Path
) -> dict[str, Any]:
    """Explain and judge reported images one by one; those in the journal are not repeated."""
    key = maps_key(subject, network)
    records = [record for record in read_journal(journal) if record["maps"] == key]
    done = {record["image"] for record in records}
    for index in tqdm(range(min(images, len(subject.reported))), desc="judging", unit="image"):
        if index not in done:
            image = subject.shown(index)
            record = {"maps": key, "image": index, **_judge_image(subject, network, image)}
            append_journal(journal, record)
            records.append(record)
    chosen = sorted((r for r in records if r["image"] < images), key=lambda r: r["image"])
    return {"summary": _summarise(chosen), "records": chosen}


def _judge_image(subject: Subject, network: RankingNetwork, image: Tensor) -> dict[str, Any]:
    with torch.no_grad():
        target = int(subject.model(image).argmax(1))
    maps = explain(subject, network, image, target)
    return {"target": target, "metrics": judge(subject, image, target, maps)}


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
