"""Turn the committed results into what the documents show: ``python -m benchmarks.evidence``.

Prints the Markdown tables of the README and of ``docs/evidence.md``, and draws quality against
model evaluations.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from benchmarks._common import RESULTS, ROOT, chance, emphasised, markdown
from benchmarks._grid import published
from benchmarks._grid_tables import CONTROLS as GRID_CONTROLS
from benchmarks._grid_tables import (
    EQUAL_COST,
    SUBJECTS,
    Tests,
    corrected,
    differences,
    gains,
    maps_of,
    means,
    tested,
    verdicts,
)
from benchmarks._photograph_maps import AIMED_AT, BY_DROPS, BY_RANKS, GUIDED, RESIZES
from benchmarks._photograph_summary import HIGHER_IS_BETTER, METRICS
from usu_cli.evaluate import Summary
from usu_cli.evaluate._summary import label

PICTURE = ROOT / "docs" / "images" / "budget.png"
UPSAMPLERS = ("nearest", "bilinear", "usu", "usu-fast", "iwmr", "iwmr-mass", "tilted")
CONTROLS = ("usu, shuffled", "score-map", *EQUAL_COST, "random")
VARIANTS = (*(n + BY_RANKS for n in GUIDED[:3]), *(n + BY_DROPS for n in GUIDED))
COMPARED = (
    ("usu", "bilinear"),
    ("usu, ranks", "bilinear"),
    ("usu, shuffled", "nearest"),
    ("usu", "usu, shuffled"),
    *((name, peer) for name in GUIDED[1:3] for peer in ("bilinear", "score-map", *EQUAL_COST)),
    *((name + BY_RANKS, name) for name in GUIDED[:3]),
    *((name, name + BY_DROPS) for name in GUIDED),
)
PEERS = ("bilinear", "nearest", "score-map", *EQUAL_COST)


def main() -> None:
    """Print the tables and draw the picture."""
    held_out = _read("photographs.json")
    print(_compact(held_out["summary"], (*UPSAMPLERS, *CONTROLS, *VARIANTS)))
    print(f"\n{_differences(held_out['summary'], COMPARED)}")
    _over_resizes(_read("photographs_resizes.json")["summary"])
    _equal_cost(published(RESULTS / "faithfulness.json"))
    _on_the_object(published(RESULTS / "localisation.json"))
    for model, summary in held_out["summary"].items():
        print(f"\n### {model}, {summary['images']} images\n")
        print(_faithfulness(summary["maps"]))
    _draw(_read("photographs_budget.json"))


def _equal_cost(models: Mapping[str, Summary]) -> None:
    """Print how CAMs, upsamplers and controls compare by deletion, insertion and infidelity."""
    curves = ("deletion", "insertion")
    judged = (*curves, "infidelity")
    print("\n### Against explanations of equal cost\n")
    print(means(models, curves, maps_of(models, ("GradCAM", *GRID_CONTROLS)), "bilinear"))
    print(f"\n{differences(models, 'GradCAM', PEERS)}")
    print(f"\n{verdicts(models, judged)}")
    print("\n" + gains(models, judged, AIMED_AT, "usu", ("bilinear", "nearest", "bicubic")))
    shown = [name for name in maps_of(models) if name[1] in ("bilinear", *SUBJECTS)]
    print("\n" + means(models, curves, [n for n in shown if n[0] != "GradCAM"], "bilinear"))
    for way in ("bilinear", "usu"):
        errors = [s.mean("mass-error", n) for s in models.values() for n in s.maps if n[1] == way]
        known = [error for error in errors if error is not None]
        print(f"\nmass error of {way}, mean over images: {min(known):.2g} to {max(known):.2g}")


def _on_the_object(sets: Mapping[str, Summary]) -> None:
    """Print how much of the maps is on the object."""
    metrics = ("pointing-game", "concentration", "iou")
    for kind in ("coco", "voc"):
        start = f"{kind}, "
        models = {k.removeprefix(start): s for k, s in sets.items() if k.startswith(start)}
        print(f"\n### On the object, {kind}\n")
        print(means(models, metrics, maps_of(models, ("GradCAM", "random")), "bilinear"))
        print(f"\n{verdicts(models, metrics)}")
        print("\n" + tested(models, "concentration", AIMED_AT, "usu", RESIZES))


def _over_resizes(summary: dict[str, Any]) -> None:
    """Print how ``usu`` of each CAM compares with what it replaces, model by model."""
    models = {name: part for name, part in summary.items() if name != "all"}
    print("\n### Over nearest, bilinear and bicubic\n")
    names = [label(name) for name in itertools.product(AIMED_AT, (*RESIZES, "usu"))]
    print(_compact(models, names, ("deletion", "insertion", "infidelity")))
    for metrics in (("gap",), METRICS):
        tests = {
            f"{name}, {part['images']}": _resize_tests(part, metrics)
            for name, part in models.items()
        }
        print(f"\n{corrected(tests, 'usu')}")


def _resize_tests(part: dict[str, Any], metrics: Sequence[str]) -> Tests:
    named = {"gap": "insertion - deletion"}
    return {
        f"{cam}, {named.get(metric, metric)}, over {peer}": row[f"against {label((cam, peer))}"][
            metric
        ]
        for cam in AIMED_AT
        if (row := part["maps"].get(label((cam, "usu"))))
        for metric, peer in itertools.product(metrics, RESIZES)
    }


def _read(name: str) -> dict[str, Any]:
    path: Path = RESULTS / name
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _compact(
    summary: dict[str, Any],
    names: Sequence[str],
    metrics: Sequence[str] = ("deletion", "insertion"),
) -> str:
    """Metrics of maps, models side by side; a model may lack a map."""
    rows = []
    for name in names:
        found = [part["maps"].get(name, {}) for part in summary.values()]
        rows.append([name, *(" / ".join(_marked(m, n) for n in metrics if m) for m in found)])
    judged = " / ".join(f"{name} {'↑' if HIGHER_IS_BETTER[name] else '↓'}" for name in metrics)
    return markdown([judged, *(f"{m}, {part['images']}" for m, part in summary.items())], rows)


def _differences(summary: dict[str, Any], pairs: Sequence[tuple[str, str]]) -> str:
    """Gains in insertion minus deletion, and their p-values."""
    rows = []
    for name, peer in pairs:
        tests = [part["maps"][name][f"against {peer}"]["gap"] for part in summary.values()]
        cells = [f"{test['gain']:.3f}, {chance(test['p'])}" for test in tests]
        rows.append([f"`{name}` over `{peer}`", *cells])
    return markdown(["", *summary], rows)


def _faithfulness(maps: dict[str, Any]) -> str:
    """Values of every metric; significant differences from bilinear are marked."""
    header = ["map", "deletion ↓", "insertion ↑", "difference ↑", "correlation ↑", "infidelity ↓"]
    names = (*UPSAMPLERS, *CONTROLS, *VARIANTS)
    return markdown(header, [[n, *(_marked(maps[n], m) for m in _METRICS)] for n in names])


_METRICS = ("deletion", "insertion", "gap", "correlation", "infidelity")


def _marked(row: dict[str, Any], metric: str) -> str:
    """A value, bold where better than bilinear and italic where worse, at p < 0.05."""
    against = row.get("against bilinear", {}).get(metric)
    sure = against is not None and against["p"] < 0.05
    return emphasised(row[metric], against["gain"] if sure else None)


def _draw(result: dict[str, Any]) -> None:
    """Draw deletion and insertion against model evaluations."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    (summary,) = result["summary"].values()
    maps = summary["maps"]
    for axis, metric in zip(axes, ("deletion", "insertion"), strict=True):
        for name in ("usu", "iwmr-mass", "tilted"):
            rows = [row for key, row in maps.items() if key.startswith(f"{name} ")]
            rows = sorted((r["evaluations"], r[metric]) for r in rows if r["evaluations"])
            axis.plot(*zip(*rows, strict=True), marker="o", label=name)
        axis.axhline(maps["bilinear"][metric], color="grey", linestyle="--", label="bilinear")
        axis.set_xscale("log")
        axis.set_xlabel("model evaluations per image")
        axis.set_title(f"{metric}, {'lower' if metric == 'deletion' else 'higher'} is better")
    axes[0].legend()
    figure.savefig(PICTURE, dpi=110)
    print(f"\ndrawn: {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
