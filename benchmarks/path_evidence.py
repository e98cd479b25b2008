"""Turn the committed results of the path methods into the Markdown tables of the documents.

Run as ``python -m benchmarks.path_evidence``.
"""

import json
from typing import Any

from benchmarks import _samp_paper as paper
from benchmarks._common import RESULTS, markdown

CURVES = ("deletion", "insertion", "other deletion", "other insertion")


def main() -> None:
    """Print the tables of the results that are there."""
    print(_diffid(_read("path_diffid.json")))
    print(_completeness(_read("path_completeness.json")))
    samp = _read("samp_tables.json")["summary"]
    for part in samp.values():
        for title, names in paper.TABLES.items():
            print(f"\n**{part['set']}, {part['model']}: {title}**\n")
            print(_samp(part["maps"], names))
    print(_speed(_read("path_speed.json")))


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return content


def _diffid(result: dict[str, Any]) -> str:
    """DiffID on every model; bold is better than IG, italic worse."""
    summary = {name: part for name, part in result["summary"].items() if part["images"]}
    header = ["DiffID ↑ (label's probability ↑)"]
    header += [f"{name}, {part['images']}" for name, part in summary.items()]
    header += ["paper: ResNet-18, VGG-16, Inception"]
    methods = next(iter(summary.values()))["methods"]
    rows = []
    for method in methods:
        cells = []
        for part in summary.values():
            row = part["methods"][method]
            soft = _marked(row, "pixel_retention", "against IG")
            cells.append(f"{_marked(row, 'diffid', 'against IG')} ({soft})")
        known = result["paper"].get(method)
        rows.append([method, *cells, "" if known is None else ", ".join(f"{v:.3f}" for v in known)])
    return markdown(header, rows)


def _marked(row: dict[str, Any], measure: str, peer: str) -> str:
    value, against = f"{row[measure]:.3f}", row.get(peer)
    if against is None or against[measure]["p"] >= 0.05:
        return value
    return f"**{value}**" if against[measure]["gain"] > 0 else f"_{value}_"


def _completeness(result: dict[str, Any]) -> str:
    summary = result["summary"]
    header = ["mean (worst) gap, % of the change"]
    header += [f"{name}, {part['images']}" for name, part in summary.items()]
    methods = [name for name in next(iter(summary.values())) if name != "images"]
    return "\n" + markdown(
        header,
        [
            [m, *(f"{p[m]['mean']:.2f} ({p[m]['worst']:.2f})" for p in summary.values())]
            for m in methods
        ],
    )


def _samp(maps: dict[str, Any], names: tuple[str, ...]) -> str:
    """One of SAMP's tables: ours, the printed form, and the paper's figures."""
    rows = []
    for name in (n + suffix for n in names for suffix in ("", " (printed)")):
        row = maps.get(name)
        if row is None:
            continue
        known, complete = row.get("paper"), row.get("completeness")
        rows.append(
            [
                name,
                f"{row['deletion']['mean']:.3f} / {row['insertion']['mean']:.3f}",
                "" if known is None else f"{known['deletion']:.3f} / {known['insertion']:.3f}",
                f"{row['other deletion']['mean']:.3f} / {row['other insertion']['mean']:.3f}",
                "" if complete is None else f"{complete['ratio']:.2f}",
                " ".join(f"{v:.2f}" for v in row.get("sensitivity", ())),
                str(row["images"]),
            ]
        )
    header = ["deletion ↓ / insertion ↑", "SAMP's references", "paper", "other references"]
    return markdown([*header, "mass / change", "sensitivity-N", "images"], rows)


def _speed(result: dict[str, Any]) -> str:
    rows = [
        [row["subject"], row["peer"], row["model"], f"{row['ratio']:.2f}"]
        for row in result["comparisons"]
    ]
    return "\n" + markdown(["ours", "peer", "model", "time, ours / peer"], rows)


if __name__ == "__main__":
    main()
