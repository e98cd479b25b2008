"""Is redistribution better than resizing, on real classifiers and photographs?

    python -m benchmarks.photographs --split held-out --out benchmarks/results/photographs.json

For every image, the Grad-CAM map (ReLU, last stage) of the top-1 class is brought to the image's
size in several ways, and each way is judged by deletion and insertion (mean over black, mean and
blurred references; softmax probability; ties broken by the segments' drops) and by how well the
mass in random boxes predicts what hiding the box costs (correlation; infidelity at the best scale).
Controls: nearest, the score map alone, RISE, LIME and occlusion with as many model evaluations, the
segments' scores dealt out among them at random, and noise; and the guided upsamplers by drops
alone. On each model, and on all together.

``--budget`` charts quality against model evaluations. ``--resizes`` has ``usu``, and nearest,
bilinear and bicubic, which it is to replace, of several CAMs, for more photographs at less cost. A
GPU needs minutes, a CPU hours. Results are appended image by image, so a run that was stopped
continues where it was, and a run of other images or models adds them.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

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
    short,
    write_json,
)
from benchmarks._grid import cams
from benchmarks._grid_tables import EQUAL_COST
from benchmarks._photograph_maps import (
    AIMED_AT,
    BY_DROPS,
    GUIDED,
    RESIZES,
    Maps,
    budget_maps,
    main_maps,
    resize_maps,
)
from benchmarks._photograph_summary import METRICS, columns, print_summary, summarise
from usu_captum import IMAGENET, ForwardScore, LayerGradCam, default_layer
from usu_cli.evaluate._sources import Explanation, Setting, Subject, build_methods, explain
from usu_cli.evaluate._summary import label
from usu_core import metrics

PEERS = ("bilinear", "nearest", "usu, shuffled", "score-map", *EQUAL_COST)
STEPS, BOXES = 8, 96
EVALUATIONS = 160  # of RISE, LIME and occlusion: what the defaults spend, or a few more


def main() -> None:
    """Measure, print the tables and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", choices=SPLITS, default="held-out")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--images", type=int, default=100)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--budget", action="store_true", help="quality against evaluations")
    kinds.add_argument("--resizes", action="store_true", help="usu and plain resizes of CAMs")
    parser.add_argument("--out", type=Path, help="photographs*.json among the results if not given")
    options = parser.parse_args()
    kind = "_budget" if options.budget else "_resizes" if options.resizes else ""
    options.out = options.out or RESULTS / f"photographs{kind}.json"
    journal = options.out.with_suffix(".jsonl")
    for name in options.models:
        _measure(name, options, journal)
    records = [record for record in read_journal(journal) if record["model"] in options.models]
    groups = {name: [r for r in records if r["model"] == name] for name in options.models}
    if len(groups) > 1:
        groups["all"] = records
    summary = {name: summarise(group, _peers) for name, group in groups.items()}
    for name in groups:
        print_summary(name, summary[name])
    write_json(
        options.out,
        {
            "environment": environment(),
            "split": options.split,
            "steps": STEPS,
            "boxes": BOXES,
            "references": metrics.REFERENCES,
            "summary": summary,
            "models": {name: columns(groups[name]) for name in options.models},
        },
    )


def _peers(name: str) -> tuple[str, ...]:
    """Return what a map is compared with.

    A guided one with all, others with bilinear alone; ``usu`` of a CAM with its plain resizes.
    """
    chosen, _, variant = name.partition(", ")
    if chosen in AIMED_AT:
        return tuple(label((chosen, peer)) for peer in RESIZES) if variant == "usu" else ()
    if chosen not in GUIDED or f", {variant}" == BY_DROPS:
        return ("bilinear",)
    return (*PEERS, chosen if variant else chosen + BY_DROPS)


def _measure(name: str, options: argparse.Namespace, journal: Path) -> None:
    """Add one line per image to the journal, but for those it has."""
    done = {(record["model"], record["image"]) for record in read_journal(journal)}
    files = [f for f in image_files(options.split, options.images) if (name, f.stem) not in done]
    if not files:
        return
    model, prepare = load_model(name)
    for file in tqdm(files, desc=name, unit="image"):
        record = {"model": name, "image": file.stem}
        record |= _measure_image(name, model, prepare, load_image(file), options)
        append_journal(journal, record)


def _measure_image(
    name: str,
    model: nn.Module,
    prepare: Callable[[Tensor], Tensor],
    photograph: Tensor,
    options: argparse.Namespace,
) -> dict[str, Any]:
    image = prepare(photograph[None])
    black = prepare(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))[0]
    with torch.no_grad():
        target = int(model(image).argmax(1))
    subject = Subject(image, target, ForwardScore(model, target), black, seed=0)
    layer = default_layer(model, image)[1]
    if options.resizes:
        chosen = [cam for cam in AIMED_AT if cam in cams(name)]
        found = _explained(chosen, model, layer, subject)
        cells = {cam: explanation.cells[0] for cam, explanation in found.items()}
        maps, ties, spent = resize_maps(cells, image, subject.score)
    else:
        maps, ties, spent = _grad_cam_maps(model, layer, subject, options.budget)
    return {
        "target": target,
        "evaluations": spent,
        "metrics": _judge(model, target, image, black, maps, ties),
    }


def _grad_cam_maps(model: nn.Module, layer: nn.Module, subject: Subject, budget: bool) -> Maps:
    """Return the maps of Grad-CAM, and of what costs as much."""
    image, target = subject.inputs, subject.target
    grad_cam = LayerGradCam(model, layer)
    cells: Tensor = grad_cam.attribute(
        image, target=target, relu_attributions=True, upsampler=lambda coarse, **_: coarse
    ).detach()
    if budget:
        maps, ties, spent = budget_maps(cells, image, subject.score)
        # Captum's own pass serves the scores as well, at a hidden layer.
        maps["usu one pass"] = grad_cam.attribute(
            image, target=target, relu_attributions=True, upsampler="usu-fast"
        )[:, 0].detach()
        return maps, ties, spent
    maps, ties, spent = main_maps(cells, image, subject.score)
    for name, found in _explained(EQUAL_COST, model, layer, subject).items():
        maps[name], spent[name] = cast(Tensor, found.fine), found.evaluations
    return maps, ties, spent


def _explained(
    names: Sequence[str], model: nn.Module, layer: nn.Module, subject: Subject
) -> dict[str, Explanation]:
    methods = build_methods(names, Setting(model, layer, IMAGENET, EVALUATIONS, 64))
    return {name: explain(name, method, subject) for name, method in methods.items()}


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
    found = {name: torch.zeros(len(stacked), device=image.device) for name in METRICS}
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
        name: {metric: short(float(found[metric][i])) for metric in METRICS}
        for i, name in enumerate(maps)
    }


if __name__ == "__main__":
    main()
