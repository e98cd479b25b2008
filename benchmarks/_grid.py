"""Run ``usu evaluate`` on the data folder's models, and write all of it as one result."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._common import (
    data_folder,
    environment,
    image_files,
    load_model,
    markdown,
    short,
    write_json,
)
from usu_cli._models import Classifier
from usu_cli._preprocessing import Preprocessing
from usu_cli.evaluate import Item, Plan, Summary, evaluate, read_records, summarise
from usu_cli.evaluate._statistics import Paired
from usu_cli.evaluate._summary import Comparison, MapName
from usu_cli.evaluate._tables import means, note
from usu_core import resolve

LAYERS = {
    "mobilenet_v2": "features.18",
    "resnet18": "layer4.1",
    "resnet50": "layer4.2",
    "deit_tiny": "blocks.11.norm1",
}
OPERATORS = (
    "bilinear", "nearest", "bicubic", "bilinear-conserving", "usu", "iwmr", "iwmr-mass",
    "tilted", "score-map",
)  # fmt: skip
CAMS = (
    "GradCAM", "LayerCAM", "GradCAMPlusPlus", "FullGrad", "FinerCAM", "LayerIntegratedGradients",
)  # fmt: skip
SAME_BEFORE_AN_AVERAGE = ("HiResCAM", "XGradCAM", "ShapleyCAM")
_HALF = (0.5, 0.5, 0.5)
_FIELDS = tuple(field.name for field in dataclasses.fields(Paired))


def cams(model: str) -> tuple[str, ...]:
    """Return the layer attributions that differ on a model.

    The CNNs end in a global average, before which ``SAME_BEFORE_AN_AVERAGE`` are Grad-CAM.
    """
    return CAMS + (SAME_BEFORE_AN_AVERAGE if model == "deit_tiny" else ())


def classifier(name: str) -> Classifier:
    """Return a model of the data folder as the command line would."""
    model, _ = load_model(name)
    look = Preprocessing(mean=_HALF, std=_HALF) if name == "mobilenet_v2" else Preprocessing()
    return Classifier(name, model, look, 1000, None)


def photographs(count: int) -> list[Item]:
    """Return so many held-out photographs."""
    return [Item(file.name, file) for file in image_files("held-out", count)]


def plan(name: str, methods: Sequence[str], metrics: Sequence[str]) -> Plan:
    """Return what to measure of one model; judged in half precision, for all maps alike."""
    return Plan(
        methods=tuple(methods),
        upsamplers={operator: resolve(operator) for operator in OPERATORS},
        metrics=tuple(metrics),
        layer=LAYERS[name],
        steps=8,
        precision="bf16",
    )


def run(name: str, items: Sequence[Item], chosen: Plan, folder: Path) -> None:
    """Measure what ``folder`` lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    evaluate(classifier(name), items, chosen, folder)


def publish(folders: Mapping[str, Path], against: Sequence[str], out: Path) -> dict[str, Summary]:
    """Sum up each model's records, print its means, and write the result.

    Args:
        folders: Where each model's records are.
        against: What maps are compared with; values are marked against the first.
        out: The result, for :func:`published` to read.

    Returns:
        What was found, by model.
    """
    models: dict[str, Any] = {}
    summaries: dict[str, Summary] = {}
    for name, folder in folders.items():
        records = read_records(folder)
        if not records:
            continue
        summaries[name] = summarise(records, against)
        models[name] = _content(summaries[name])
        print(f"\n### {name}, {summaries[name].images} images\n")
        print(markdown(*means(summaries[name], against[0])))
    print(f"\n{note(against[0])}")
    write_json(out, {"environment": environment(), "against": list(against), "models": models})
    return summaries


def published(path: Path) -> dict[str, Summary]:
    """Return what :func:`publish` wrote, by model, but for curves and errors."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {name: _summary(model) for name, model in content["models"].items()}


def _summary(model: Mapping[str, Any]) -> Summary:
    metrics = tuple(model["values"])
    maps = tuple(_name(text) for text in model["evaluations"])
    return Summary(
        images=len(model["images"]),
        metrics=metrics,
        maps=maps,
        values={
            (metric, _name(text)): {
                image: value
                for image, value in zip(model["images"], row, strict=True)
                if value is not None
            }
            for metric, maps in model["values"].items()
            for text, row in maps.items()
        },
        curves={},
        evaluations={_name(text): value for text, value in model["evaluations"].items()},
        comparisons=tuple(
            Comparison(
                metrics[metric],
                maps[subject],
                maps[peer],
                Paired(**dict(zip(_FIELDS, row, strict=False))),
                *row[len(_FIELDS) :],
            )
            for metric, subject, peer, *row in model["comparisons"]["rows"]
        ),
        errors=(),
    )


def _content(summary: Summary) -> dict[str, Any]:
    images = sorted({image for by_image in summary.values.values() for image in by_image})
    values: dict[str, dict[str, list[float | None]]] = {}
    for (metric, name), by_image in summary.values.items():
        row = [short(by_image[image]) if image in by_image else None for image in images]
        values.setdefault(metric, {})[_text(name)] = row
    metrics, maps = list(values), list(summary.evaluations)
    return {
        "images": images,
        "evaluations": {_text(name): spent for name, spent in summary.evaluations.items()},
        "errors": [f"{r.image}, {r.method}, {r.metric}: {r.error}" for r in summary.errors],
        "comparisons": {
            "columns": ["metric", "map", "peer", *_FIELDS, "holm", "bonferroni"],
            "rows": [  # the first three are places among "values" and "evaluations"
                [
                    metrics.index(c.metric),
                    maps.index(c.subject),
                    maps.index(c.peer),
                    *(short(value, 5) for value in dataclasses.astuple(c.result)),
                    short(c.holm, 5),
                    short(c.bonferroni, 5),
                ]
                for c in summary.comparisons
            ],
        },
        "values": values,  # of each metric and map, by image
    }


def _text(name: MapName) -> str:
    return " | ".join(name)


def _name(text: str) -> MapName:
    method, upsampler = text.split(" | ")
    return method, upsampler


def data(*parts: str) -> Path:
    """Return a path in the data folder."""
    return data_folder().joinpath(*parts)
