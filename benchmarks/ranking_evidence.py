"""Turn the committed results of the ranking explainer into the Markdown tables of its page.

Run as ``python -m benchmarks.ranking_evidence``. Networks that read features and those that read
gradients were judged on the same images: bold is better, italic worse than the single pass of the
latter at p < 0.05 (Wilcoxon), where the mean and most images agree.
"""

import json
from typing import Any

import numpy as np

from benchmarks._common import RESULTS, emphasised, markdown
from benchmarks._ranking_maps import PASSES
from benchmarks._ranking_subjects import NAMES
from benchmarks._statistics import paired
from benchmarks.ranking_heldout import HIGHER

OWN = "ranking, gradients"
CURVES = {"deletion": False, "insertion": True}
OVERLAPS = {"pointing game": True, "IoU": True}
KINDS = {
    "train": CURVES,
    "passes": CURVES,
    "refined": CURVES,
    "heldout": HIGHER,
    "localisation": OVERLAPS,
    "specks": CURVES,
}
ARROWS = {False: "↓", True: "↑"}
Records = dict[int | str, dict[str, dict[str, float]]]


def main() -> None:
    """Print the tables of the results that are there."""
    for name in NAMES:
        for kind, measures in KINDS.items():
            records = _merged(f"ranking_{kind}_{name}")
            if records:
                print(f"\n**{kind}, {name}: {len(records)} images**\n")
                print(_measured(records, measures, passes=kind == "train"))
        sanity = _sanity(name)
        if sanity:
            print(f"\n**sanity, {name}**\n\n{sanity}")


def _read(stem: str) -> dict[str, Any] | None:
    path = RESULTS / f"{stem}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _cases(stem: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the results of both networks that are there, and what their maps are called."""
    found = [("ranking", _read(stem)), (OWN, _read(f"{stem}_gradients"))]
    return [(name, result) for name, result in found if result is not None]


def _merged(stem: str) -> Records:
    """Return all maps of the images that every network was judged on."""
    rows: Records = {}
    cases = _cases(stem)
    for own, result in cases:
        for record in result["records"]:
            maps = {k.replace("ranking", own, 1): v for k, v in record["metrics"].items()}
            rows[record["image"]] = {**maps, **rows.get(record["image"], {})}
    width = max((len(maps) for maps in rows.values()), default=0)
    return {image: maps for image, maps in rows.items() if len(maps) == width}


def _measured(records: Records, measures: dict[str, bool], *, passes: bool) -> str:
    names = sorted(next(iter(records.values())), key=lambda name: not name.startswith("ranking"))
    values = {
        name: {key: np.array([maps[name][key] for maps in records.values()]) for key in measures}
        for name in names
    }
    own = values[OWN if OWN in values else "ranking"]
    rows = []
    for name, row in values.items():
        cells = [_marked(row[key], own[key], higher) for key, higher in measures.items()]
        kind = "one" if name == OWN else PASSES.get(name, "many")
        rows.append([name, *([kind] if passes else []), *cells])
    header = ["map", *(["passes"] if passes else [])]
    return markdown([*header, *(f"{key} {ARROWS[up]}" for key, up in measures.items())], rows)


def _marked(values: np.ndarray, own: np.ndarray, higher: bool) -> str:
    found = paired(values - own, higher)
    sure = found["p"] < 0.05 and (found["gain"] > 0) == (found["wins"] > 0.5)
    return emphasised(float(values.mean()), found["gain"] if sure else None)


def _sanity(name: str) -> str:
    rows: dict[str, list[str]] = {}
    layers: list[str] = []
    for own, result in _cases(f"ranking_heldout_{name}"):
        for method, found in result["sanity"].items():
            layers = list(found)
            cells = [f"{found[layer]:.2f}" for layer in layers]
            rows.setdefault(method.replace("ranking", own, 1), cells)
    if not rows:
        return ""
    ordered = sorted(rows, key=lambda method: not method.startswith("ranking"))
    header = [name, *(f"`{layer}`" for layer in layers)]
    return markdown(header, [[method, *rows[method]] for method in ordered])


if __name__ == "__main__":
    main()
