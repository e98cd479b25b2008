"""A subject with its trained explainer, as a command line asks for it, and journals of images."""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks._common import append_journal, read_journal
from benchmarks._ranking_subjects import Subject, load_subject
from usu_captum.ranking import NetworkConfig, RankingNetwork, build_network, train_explainer

WORK = Path("usu-ranking-train")


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


def journalled(
    case: Case, stem: str, judge: Callable[[Subject, RankingNetwork, Tensor], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Judge the first reported images one by one; those in the journal are not repeated.

    Args:
        case: What is judged, and how many images at most.
        stem: Of the journal, in the case's folder.
        judge: Returns the record of an image (1, C, H, W).
    """
    journal, key = case.folder / f"{stem}.jsonl", maps_key(case.subject, case.network)
    found = {r["image"]: r for r in read_journal(journal) if r["maps"] == key}
    places = range(min(case.images, len(case.subject.reported)))
    for index in tqdm(places, desc="judging", unit="image"):
        if index not in found:
            image = case.subject.shown(index)
            record = {"maps": key, "image": index, **judge(case.subject, case.network, image)}
            append_journal(journal, record)
            found[index] = record
    return [found[index] for index in places]
