"""Means over photographs, and paired tests of each map against others."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks._common import table
from benchmarks._statistics import paired

METRICS = ("deletion", "insertion", "correlation", "infidelity")
HIGHER_IS_BETTER = {
    "deletion": False,
    "insertion": True,
    "gap": True,  # insertion minus deletion
    "correlation": True,
    "infidelity": False,
}


def summarise(records: list[dict[str, Any]], model: str, peers: Sequence[str]) -> dict[str, Any]:
    """Average over images, and compare each map with the peers by paired tests."""
    chosen = [record for record in records if record["model"] == model]
    names = list(chosen[0]["metrics"])
    result: dict[str, Any] = {"images": len(chosen), "maps": {}}
    values = {
        name: {
            **{m: np.array([r["metrics"][name][m] for r in chosen]) for m in METRICS},
            "gap": np.array(
                [r["metrics"][name]["insertion"] - r["metrics"][name]["deletion"] for r in chosen]
            ),
        }
        for name in names
    }
    for name in names:
        spent = [r["evaluations"].get(name, 0) for r in chosen]
        row: dict[str, Any] = {"evaluations": float(np.mean(spent))}
        row |= {metric: float(v.mean()) for metric, v in values[name].items()}
        for peer in (peer for peer in peers if peer in names and peer != name):
            row[f"against {peer}"] = {
                metric: paired(v - values[peer][metric], HIGHER_IS_BETTER[metric])
                for metric, v in values[name].items()
            }
        result["maps"][name] = row
    return result


def print_summary(model: str, summary: dict[str, Any], peers: Sequence[str]) -> None:
    """Print every metric, a table for each peer."""
    header = ("map", "evaluations", *HIGHER_IS_BETTER)
    for peer in peers:
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
        if rows:
            print(f"\n{model}, {summary['images']} images; in brackets gain and p against {peer}")
            print(table(header, rows))
