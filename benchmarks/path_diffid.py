"""Path methods by DiffID, as the papers of Spectral IG and MA-GIG measure them.

    python -m benchmarks.path_diffid --models resnet18 --images 40

The class explained is the photograph's label, the objective its softmax probability and the
baseline black, as in the papers; every method takes as many steps, and IG Captum's rule. DiffID
ranks channel elements and asks for accuracy; two variants beside it ask whether the order of
methods hangs on that: whole pixels and the label's probability, and deletion and insertion with
references that no method was built on. The completeness gap is that of each method's default form,
in per cent of the change; IG's is that of Captum's rule.
"""

import argparse
import csv
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
    append_journal,
    data_folder,
    environment,
    image_files,
    load_image,
    load_model,
    read_journal,
    table,
    write_json,
)
from benchmarks._patch_pca import PatchPCA, fit_patch_pca
from benchmarks._path_methods import with_gap
from benchmarks._statistics import paired
from usu_captum import ForwardScore, ImageSpace
from usu_captum.paths import (
    SAMP,
    BlurIG,
    GuidedIG,
    IntegratedGradients,
    ManifoldGuidedIG,
    SAMPPlusPlus,
    SpectralIG,
)
from usu_core import metrics

PAPER = {  # DiffID, ImageNet: ResNet-18, VGG-16, Inception v1 (poster of Spectral IG)
    "gradient x input": (0.104, 0.188, 0.138),
    "IG": (0.159, 0.240, 0.192),
    "Blur IG": (0.312, 0.326, 0.347),
    "Guided IG": (0.251, 0.281, 0.303),
    "SAMP": (0.288, 0.281, 0.309),
    "Spectral IG": (0.342, 0.374, 0.378),
}
MEASURES = {
    "diffid": True,
    "diffid_insertion": True,
    "diffid_deletion": False,
    "pixel_retention": True,
    "deletion": False,
    "insertion": True,
}
PEERS = ("IG", "Blur IG")
COMPONENTS, PCA_IMAGES = 16, 100
Attribute = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


def main() -> None:
    """Measure, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", choices=("tuning", "held-out"), default="held-out")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS[:3]))
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS / "path_diffid.json")
    options = parser.parse_args()
    journal = options.out.with_suffix(".jsonl")
    for name in options.models:
        _measure(name, options, journal)
    records = [r for r in read_journal(journal) if r["model"] in options.models]
    summary = {name: _summarise([r for r in records if r["model"] == name]) for name in MODELS[:3]}
    for name, part in summary.items():
        print(f"\n{name}, {part['images']} images; p against IG\n{_table(part['methods'])}")
    write_json(
        options.out,
        {
            "environment": environment(),
            "split": options.split,
            "steps": options.steps,
            "paper": PAPER,
            "summary": summary,
            "images": records,
        },
    )


def _methods(
    model: nn.Module, space: ImageSpace, coder: PatchPCA, steps: int
) -> dict[str, Attribute]:
    """Return every method, as a function of an image and its label."""
    common: dict[str, Any] = {"objective": "probability", "space": space}

    def gradient_x_input(image: Tensor, label: Tensor) -> tuple[Tensor, None]:
        leaf = image.clone().requires_grad_()
        model(leaf).softmax(1)[0, int(label)].backward(inputs=[leaf])
        grad = torch.zeros_like(image) if leaf.grad is None else leaf.grad
        return grad * (image - space.black(image)), None

    def noise(image: Tensor, label: Tensor) -> tuple[Tensor, None]:
        generator = torch.Generator().manual_seed(int(label))
        return torch.rand(image.shape, generator=generator), None

    black = {"baselines": "black", "n_steps": steps}
    return {
        "random": noise,
        "gradient x input": gradient_x_input,
        "IG": with_gap(IntegratedGradients(model, **common), method="gausslegendre", **black),
        "Blur IG": with_gap(BlurIG(model, objective="probability"), n_steps=steps),
        "Guided IG": with_gap(GuidedIG(model, **common), **black),
        "Spectral IG": with_gap(SpectralIG(model, **common), **black),
        "Spectral IG, printed": with_gap(SpectralIG(model, timing="printed", **common), **black),
        "MA-GIG, patch PCA": with_gap(ManifoldGuidedIG(model, coder, **common), **black),
        "SAMP": with_gap(SAMP(model, **common)),
        "SAMP++": with_gap(SAMPPlusPlus(model, **common)),
    }


def _measure(name: str, options: argparse.Namespace, journal: Path) -> None:
    """Add one line per image to the journal, but for those it has."""
    done = {(record["model"], record["image"]) for record in read_journal(journal)}
    files = [f for f in image_files(options.split, options.images) if (name, f.stem) not in done]
    if not files:
        return
    model, prepare = load_model(name)
    methods = _methods(model, _space(prepare), _coder(prepare), options.steps)
    labels = _labels()
    for file in tqdm(files, desc=name, unit="image"):
        image, label = prepare(load_image(file)[None]), torch.tensor([labels[file.name]])
        record = {"model": name, "image": file.stem, "label": int(label)}
        append_journal(journal, record | {"methods": _judge(model, methods, image, label)})


def _judge(
    model: nn.Module, methods: dict[str, Attribute], image: Tensor, label: Tensor
) -> dict[str, dict[str, float | None]]:
    """Return every measure of every method; all maps are judged in one batch."""
    found: dict[str, dict[str, float | None]] = {}
    maps = []
    for name, attribute in methods.items():
        attribution, gap = attribute(image, label)
        maps.append(attribution)
        total = None if gap is None else float(attribution.sum() - gap)
        share = None if gap is None or not total else abs(float(gap)) / abs(total)
        found[name] = {"completeness_gap": share}
    stacked = torch.cat(maps)
    images, labels = image.expand_as(stacked), label.expand(len(stacked))

    def half(batch: Tensor) -> Tensor:
        # Judging treats all maps alike; explanations are made in full precision.
        with torch.no_grad(), torch.autocast(batch.device.type, torch.bfloat16):
            result: Tensor = model(batch.contiguous(memory_format=torch.channels_last))
        return result.float()

    hard = metrics.diffid(half, images, stacked, labels)
    soft = metrics.diffid(half, images, stacked, labels, unit="pixel", measure="retention")
    score = ForwardScore(half, int(label))
    size = stacked.abs().sum(1)
    curves = [
        measure(score, images, size, reference="blur", steps=10)
        for measure in (metrics.deletion, metrics.insertion)
    ]
    values = {
        "diffid": hard.difference,
        "diffid_insertion": hard.insertion.mean(1),
        "diffid_deletion": hard.deletion.mean(1),
        "pixel_retention": soft.difference,
        "deletion": curves[0].auc,
        "insertion": curves[1].auc,
    }
    for i, name in enumerate(methods):
        found[name] |= {measure: float(v[i]) for measure, v in values.items()}
    return found


def _space(prepare: Callable[[Tensor], Tensor]) -> ImageSpace:
    """Read a model's normalisation off its preprocessing."""
    black, white = (prepare(torch.full((1, 3, 1, 1), v, dtype=torch.uint8)) for v in (0, 255))
    std = 1 / (white - black)
    return ImageSpace(tuple((-black * std).flatten().tolist()), tuple(std.flatten().tolist()))


def _coder(prepare: Callable[[Tensor], Tensor]) -> PatchPCA:
    """Fit the autoencoder to photographs of the half that is not measured."""
    files = image_files("tuning", PCA_IMAGES)
    return fit_patch_pca(prepare(torch.stack([load_image(f) for f in files])), COMPONENTS)


def _labels() -> dict[str, int]:
    with (data_folder() / "imagenet" / "labels.csv").open(encoding="utf-8") as file:
        return {row["file"]: int(row["class_index"]) for row in csv.DictReader(file)}


def _summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Average over images; compare with the peers by paired tests."""
    result: dict[str, Any] = {"images": len(records), "methods": {}}
    for name in records[0]["methods"] if records else ():
        values = {m: _column(records, name, m) for m in MEASURES}
        row: dict[str, Any] = {m: float(v.mean()) for m, v in values.items()}
        gaps = [r["methods"][name]["completeness_gap"] for r in records]
        known = [gap for gap in gaps if gap is not None]
        row["median_completeness_gap"] = float(np.median(known)) if known else None
        for peer in (p for p in PEERS if p != name):
            row[f"against {peer}"] = {
                m: paired(values[m] - _column(records, peer, m), MEASURES[m]) for m in MEASURES
            }
        result["methods"][name] = row
    return result


def _column(records: list[dict[str, Any]], method: str, measure: str) -> np.ndarray[Any, Any]:
    return np.array([record["methods"][method][measure] for record in records])


def _table(methods: dict[str, Any]) -> str:
    header = ("method", *MEASURES, "gap", "p")
    rows = []
    for name, row in methods.items():
        gap = row["median_completeness_gap"]
        against = row.get("against IG")
        rows.append(
            [
                name,
                *(f"{row[measure]:.3f}" for measure in MEASURES),
                "" if gap is None else f"{100 * gap:.1f} %",
                "" if against is None else f"{against['diffid']['p']:.3f}",
            ]
        )
    return table(header, rows)


if __name__ == "__main__":
    main()
