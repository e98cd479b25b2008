"""Means over photographs, and paired tests of each map against others."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks._common import short, table
from benchmarks._statistics import paired

METRICS = ("deletion", "insertion", "correlation", "infidelity")
HIGHER_IS_BETTER = {
    "deletion": False,
    "insertion": True,
    "gap": True,  # insertion minus deletion
    "correlation": True,
    "infidelity": False,
}


def summarise(
    records: list[dict[str, Any]], peers: Callable[[str], Sequence[str]]
) -> dict[str, Any]:
    """Average over images, and compare each map with its peers by paired tests.

    Args:
        records: An image each, with every metric of every map.
        peers: What a map of that name is compared with, if it is there.

    Returns:
        The number of images, and by map that all have its means and what :func:`paired` says of
        each peer.
    """
    names = [n for n in records[0]["metrics"] if all(n in r["metrics"] for r in records)]
    result: dict[str, Any] = {"images": len(records), "maps": {}}
    values = {
        name: {
            **{m: np.array([r["metrics"][name][m] for r in records]) for m in METRICS},
            "gap": np.array(
                [r["metrics"][name]["insertion"] - r["metrics"][name]["deletion"] for r in records]
            ),
        }
        for name in names
    }
    for name in names:
        spent = [r["evaluations"].get(name, 0) for r in records]
        row: dict[str, Any] = {"evaluations": float(np.mean(spent))}
        row |= {metric: short(v.mean()) for metric, v in values[name].items()}
        for peer in (peer for peer in peers(name) if peer in names and peer != name):
            row[f"against {peer}"] = {
                metric: _compared(v - values[peer][metric], metric)
                for metric, v in values[name].items()
            }
        result["maps"][name] = row
    return result


def columns(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the records of one model with every name once: a row of values for each map."""
    maps = list(records[0]["metrics"])
    values = {
        metric: {name: [short(r["metrics"][name][metric], 5) for r in records] for name in maps}
        for metric in METRICS
    }
    return {
        "images": [record["image"] for record in records],
        "targets": [record["target"] for record in records],
        "values": values,
    }


def _compared(gains: np.ndarray[Any, Any], metric: str) -> dict[str, float]:
    found = paired(gains, HIGHER_IS_BETTER[metric])
    return {key: short(value) for key, value in found.items()}


def print_summary(model: str, summary: dict[str, Any]) -> None:
    """Print every metric, a table for each peer."""
    header = ("map", "evaluations", *HIGHER_IS_BETTER)
    start = "against "
    found = dict.fromkeys(key for row in summary["maps"].values() for key in row)
    for peer in (key.removeprefix(start) for key in found if key.startswith(start)):
        rows = []
        for name, row in summary["maps"].items():
            against = row.get(f"against {peer}")
            if against is None:
                continue
            cells = [name, f"{row['evaluations']:.0f}"]
            for metric in HIGHER_IS_BETTER:
                sign = "+" if against[metric]["gain"] > 0 else "-"
                cells.append(f"{row[metric]:.3f} ({sign}{against[metric]['p']:.3f})")
            rows.append(cells)
        print(f"\n{model}, {summary['images']} images; in brackets gain and p against {peer}")
        print(table(header, rows))
