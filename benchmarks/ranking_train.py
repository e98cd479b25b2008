"""Does a small trained explainer beat what one pass, or many, of other methods give?

    python -m benchmarks.ranking_train cifar10
    python -m benchmarks.ranking_train mnist

Trains the small network on one thread, then explains images that neither training nor the choice
of settings has seen, for the classifier's top-1 class. Judged by deletion and insertion with 21
percentiles, softmax probability, and black, mean and blurred references, per reference and
averaged.

- CIFAR-10, ResNet-56: trained on 9900 training images; 100 more of them are the tuning split.
  Reported: test images.
- MNIST, five layers: 600 of the 1000 stored test images to train on, 100 to tune on. Reported:
  from the other 300. (The classifier was trained on neither.)

Settings were chosen on the tuning split, which also chooses the best weights. Training resumes
where it was stopped; so does the evaluation, batch by batch.
"""

import argparse
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import InputXGradient, IntegratedGradients
from pytorch_grad_cam import LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from benchmarks._common import (
    RESULTS,
    append_journal,
    data_folder,
    data_module,
    environment,
    read_journal,
    table,
    write_json,
)
from benchmarks._controls import rise
from benchmarks._statistics import signed_rank
from usu_captum import IMAGENET, ForwardScore, ImageSpace, LayerGradCam
from usu_captum.ranking import (
    ArrayImages,
    NetworkConfig,
    PartOfImages,
    RankingExplainer,
    RankingNetwork,
    RankingObjective,
    RankTransport,
    TrainingConfig,
    build_network,
    reference_images,
    train_explainer,
)
from usu_core import metrics

REFERENCES = ("black", "mean", "blur")
STEPS = 20
REFINEMENTS = (3, 5)
RISE_MASKS = 500
PASSES = {
    "ranking": "one forward",
    "Grad-CAM bilinear": "one",
    "LayerCAM": "one",
    "input x gradient": "one",
}
"""Methods of a single pass of the classifier, forward or forward and backward."""


@dataclass(frozen=True)
class Subject:
    """A classifier, its images, and the settings its explainer is trained with."""

    model: nn.Module
    space: ImageSpace
    layer: str
    training: PartOfImages
    tuning: PartOfImages
    reported: PartOfImages
    config: TrainingConfig
    refinement_grids: tuple[int, ...]


def main() -> None:
    """Train, evaluate, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("cifar10", "mnist"))
    parser.add_argument("--images", type=int, default=120, help="reported images")
    parser.add_argument("--work", type=Path, default=Path("usu-ranking-train"), help="checkpoints")
    parser.add_argument("--out", type=Path, help="by default in benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = _cifar10() if options.name == "cifar10" else _mnist()
    folder = options.work / options.name
    network, seconds = _trained(subject, folder)
    result = _evaluate(subject, network, options.images, folder / "evaluation.jsonl")
    _print(result["summary"])
    out = options.out or RESULTS / f"ranking_train_{options.name}.json"
    write_json(
        out,
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
            "training_seconds": seconds,
            **result,
        },
    )


def _cifar10() -> Subject:
    files = data_folder() / "cifar10"
    model = folded(data_module().cifar("resnet56")[0])
    every = _images(files / "train-10000-jpeg.npz", (3, 32, 32), IMAGENET)
    test = _images(files / "test-1000-jpeg.npz", (3, 32, 32), IMAGENET)
    return Subject(
        model.to(memory_format=torch.channels_last),
        IMAGENET,
        "layer3",
        PartOfImages(every, range(9900)),
        PartOfImages(every, range(9900, 10000)),
        PartOfImages(test, np.random.default_rng(0).permutation(1000).tolist()),
        _training(
            steps=1100,
            batch_size=24,
            percentiles=8,
            learning_rate=4e-3,
            evaluate_every=250,
            regularisation=0.01,
            grids=(16, 32, 32),
        ),
        (32, 16, 32),
    )


def folded(model: nn.Module) -> nn.Module:
    """Return a CIFAR ResNet with its normalisations folded into the convolutions.

    The same function to rounding, in three quarters of the time.
    """
    for module in list(model.modules()):
        for number in "12":
            norm = getattr(module, f"bn{number}", None)
            if norm is not None:
                conv = fuse_conv_bn_eval(getattr(module, f"conv{number}"), norm)
                setattr(module, f"conv{number}", conv)
                setattr(module, f"bn{number}", nn.Identity())
    return model


def _mnist() -> Subject:
    model, _ = data_module().mnist()
    space = ImageSpace((0.1307,), (0.3081,))
    every = _images(data_folder() / "mnist" / "test-1000.npz", (1, 28, 28), space)
    order = np.random.default_rng(0).permutation(1000).tolist()
    return Subject(
        model.to(memory_format=torch.channels_last),
        space,
        "3",
        PartOfImages(every, order[:600]),
        PartOfImages(every, order[600:700]),
        PartOfImages(every, order[700:]),
        _training(
            steps=800,
            batch_size=32,
            percentiles=8,
            learning_rate=4e-3,
            evaluate_every=100,
            regularisation=0.02,
            grids=(),
        ),
        (28, 14, 28),
    )


def _training(
    *,
    steps: int,
    batch_size: int,
    percentiles: int,
    learning_rate: float,
    evaluate_every: int,
    regularisation: float,
    grids: tuple[int, ...],
) -> TrainingConfig:
    """Return the settings chosen on the tuning splits."""
    return TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        grids=grids,
        learning_rate=learning_rate,
        rivals=0.1,  # on images this easy a rival has no probability to lose
        precision="bf16",
        evaluate_every=evaluate_every,
        checkpoint_every=25,
        # Images this small have no pixels to spare for smooth masks, and lone pixels count.
        objective=RankingObjective(
            RankTransport(regularisation=regularisation, normalise="range"),
            n_percentiles=percentiles,
            peak_penalty=0.0,
            smoothing=0.0,
            chunk_size=256,
        ),
    )


def _images(path: Path, shape: tuple[int, int, int], space: ImageSpace) -> ArrayImages:
    with np.load(path) as arrays:
        return ArrayImages(arrays["images"], arrays["labels"], shape, space)


def _trained(subject: Subject, folder: Path) -> tuple[RankingNetwork, float | None]:
    """Return the network and the processor time of its training, over all sittings.

    The time is not known where a sitting was killed.
    """
    torch.manual_seed(0)
    shape = tuple(subject.reported[0].image.shape)
    network = build_network(NetworkConfig(10, shape), subject.model)  # type: ignore[arg-type]
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


def _evaluate(
    subject: Subject, network: RankingNetwork, images: int, journal: Path
) -> dict[str, Any]:
    """Explain and judge reported images one by one; those in the journal are not repeated."""
    # Judgements of another network do not count.
    weights = torch.cat([p.detach().flatten() for p in network.parameters() if p.requires_grad])
    key = f"{float(weights.double().sum()):.12g}"
    records = [record for record in read_journal(journal) if record["network"] == key]
    done = {record["image"] for record in records}
    for index in tqdm(range(min(images, len(subject.reported))), desc="judging", unit="image"):
        if index not in done:
            image = subject.reported[index].image[None]
            record = {"network": key, "image": index, **_judge_image(subject, network, image)}
            append_journal(journal, record)
            records.append(record)
    chosen = sorted((r for r in records if r["image"] < images), key=lambda r: r["image"])
    return {"summary": _summarise(chosen), "records": chosen}


def _judge_image(subject: Subject, network: RankingNetwork, image: Tensor) -> dict[str, Any]:
    model = subject.model
    with torch.no_grad():
        target = int(model(image).argmax(1))
    maps = _maps(subject, network, image, target)
    stacked = torch.cat([values.detach().view(1, *image.shape[2:]) for values in maps.values()])

    def forward(images: Tensor) -> Tensor:
        logits: Tensor = model(images.contiguous(memory_format=torch.channels_last))
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
    return {"target": target, "metrics": found}


def _maps(
    subject: Subject, network: RankingNetwork, image: Tensor, target: int
) -> dict[str, Tensor]:
    model = subject.model
    layer = model.get_submodule(subject.layer)
    explainer = RankingExplainer(model, network, space=subject.space)
    maps = {"ranking": explainer.attribute(image, target)}
    for steps in REFINEMENTS:
        maps[f"ranking T={steps}"] = explainer.attribute(
            image,
            target,
            refinement_steps=steps,
            references=REFERENCES,
            grids=subject.refinement_grids,
            objective=dataclasses.replace(subject.config.objective, n_percentiles=10),
            learning_rate=0.2,
        )
    grad_cam = LayerGradCam(model, layer)
    options = {"target": target, "relu_attributions": True}
    size = image.shape[2:]
    coarse = grad_cam.attribute(image, **options).detach()
    maps["Grad-CAM bilinear"] = F.interpolate(coarse, size, mode="bilinear")
    with LayerCAM(model=model, target_layers=[layer]) as layer_cam:
        found = layer_cam(input_tensor=image, targets=[ClassifierOutputTarget(target)])
    maps["LayerCAM"] = torch.from_numpy(found)
    inputs = image.clone().requires_grad_()
    maps["input x gradient"] = InputXGradient(model).attribute(inputs, target=target).sum(1)
    maps["Grad-CAM usu"] = grad_cam.attribute(image, upsampler="usu", **options)
    maps["IG"] = IntegratedGradients(model).attribute(image, target=target, n_steps=50).sum(1)
    fill = subject.space.mean_colour(image)
    maps["RISE"] = rise(ForwardScore(model, target), image, RISE_MASKS, fill=fill)
    return maps


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
