"""Run ``usu evaluate`` on the data folder's models, and write all of it as one result."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks._common import (
    data_folder,
    environment,
    image_files,
    load_model,
    markdown,
    write_json,
)
from usu_cli._models import Classifier
from usu_cli._preprocessing import Preprocessing
from usu_cli.evaluate import Item, Plan, Summary, evaluate, read_records, summarise
from usu_cli.evaluate._summary import MapName
from usu_cli.evaluate._tables import comparisons, means, note
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
_HALF = (0.5, 0.5, 0.5)


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
    """Sum up each model's records, print Markdown tables, and write the result.

    Args:
        folders: Where each model's records are.
        against: What maps are compared with; values are marked against the first.
        out: The result.

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
        print(_markdown(name, summaries[name], against))
    print(compact(summaries, against[0]))
    write_json(out, {"environment": environment(), "against": list(against), "models": models})
    return summaries


def compact(summaries: Mapping[str, Summary], peer: str) -> str:
    """Return Markdown with a table per method: a row per map, the models side by side.

    Cells hold the metrics in the order of the summary, bold where better and italic where worse
    than ``peer`` at p < 0.05, corrected by Holm.
    """
    first = next(iter(summaries.values()))
    shown = [m for m in first.metrics if m not in ("mass-error", "sparseness")]
    maps = dict.fromkeys(name for summary in summaries.values() for name in summary.maps)
    lines = []
    for method in dict.fromkeys(name[0] for name in maps):
        header = [f"{model}, {summary.images}" for model, summary in summaries.items()]
        rows = []
        for name in (n for n in maps if n[0] == method):
            cells = [
                " / ".join(filter(None, (_marked(summary, m, name, peer) for m in shown)))
                for summary in summaries.values()
            ]
            rows.append([name[1], *cells])
        lines += [f"\n#### {method}: {' / '.join(shown)}\n", markdown([method, *header], rows)]
    return "\n".join(lines)


def _marked(summary: Summary, metric: str, name: MapName, peer: str) -> str:
    mean = summary.mean(metric, name)
    if mean is None:
        return ""
    compared = [
        c
        for c in summary.comparisons
        if (c.metric, c.subject) == (metric, name) and peer in c.peer and c.holm < 0.05
    ]
    mark = "" if not compared else "**" if compared[0].result.gain > 0 else "_"
    return f"{mark}{mean:.3f}{mark}"


def _content(summary: Summary) -> dict[str, Any]:
    values: dict[str, dict[str, dict[str, float]]] = {}
    for (metric, name), by_image in summary.values.items():
        values.setdefault(metric, {})[" | ".join(name)] = {
            image: round(value, 6) for image, value in by_image.items()
        }
    return {
        "images": summary.images,
        "evaluations": {" | ".join(n): v for n, v in summary.evaluations.items()},
        "errors": [f"{r.image}, {r.method}, {r.metric}: {r.error}" for r in summary.errors],
        "comparisons": [
            {
                "metric": c.metric,
                "map": " | ".join(c.subject),
                "peer": " | ".join(c.peer),
                **asdict(c.result),
                "holm": c.holm,
                "bonferroni": c.bonferroni,
            }
            for c in summary.comparisons
        ],
        "values": values,
    }


def _markdown(name: str, summary: Summary, against: Sequence[str]) -> str:
    lines = [f"\n### {name}, {summary.images} images\n", markdown(*means(summary, against[0]))]
    lines += ["", note(against[0]), "", f"#### {name}, compared\n"]
    return "\n".join([*lines, markdown(*comparisons(summary.comparisons))])


def data(*parts: str) -> Path:
    """Return a path in the data folder."""
    return data_folder().joinpath(*parts)
