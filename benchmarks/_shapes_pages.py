"""The Markdown tables of ``docs/shapes.md``, and the figures printed in the paper."""

from typing import Any, Final

GRID: Final = "7"  # of the paper's Figure 9; its Tables 1 and 5 name none

# Table 5 of arXiv:2603.16067: IoU, concentration, pointing game.
PAPER: Final[dict[str, dict[str, tuple[float, float, float]]]] = {
    "rrr-mlp": {
        "nearest": (0.77, 0.52, 0.76),
        "bilinear": (0.81, 0.56, 0.80),
        "bicubic": (0.84, 0.55, 0.79),
        "usu, coarse first, 0.1": (0.88, 0.79, 1.00),
        "iwmr, coarse first, 0.1": (0.91, 0.84, 1.00),
        "oracle-usu": (0.97, 0.90, 1.00),
        "oracle-iwmr": (1.00, 0.95, 1.00),
    },
    "rrr-cnn": {
        "nearest": (0.75, 0.50, 0.74),
        "bilinear": (0.79, 0.54, 0.78),
        "bicubic": (0.82, 0.52, 0.76),
        "usu, coarse first, 0.1": (0.86, 0.76, 1.00),
        "iwmr, coarse first, 0.1": (0.89, 0.81, 1.00),
        "oracle-usu": (0.96, 0.88, 1.00),
        "oracle-iwmr": (1.00, 0.93, 1.00),
    },
}
_COLUMNS: Final = ("best_iou", "matched_iou", "half_iou", "concentration", "pointing", "near")
_AGAINST: Final = ("best_iou", "concentration", "pointing")


def markdown(result: dict[str, Any]) -> str:
    """Return every table, each under its heading."""
    parts = ["### Networks", _networks(result)]
    for name, network in result["networks"].items():
        if name in PAPER:
            parts += [f"### {name}, beside the paper", _beside(name, network)]
    for name, network in result["networks"].items():
        for source in network["maps"]:
            parts += [f"### {name}, {source}, grid {GRID}", _full(network["maps"][source][GRID])]
    for measured in _AGAINST:
        parts += [f"### {measured} at every grid", _grids(result, measured)]
    return "\n\n".join(parts)


def _networks(result: dict[str, Any]) -> str:
    lines = [
        "| network | penalty | accuracy | squared gradient outside | pixels outside | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, network in (result["networks"] | result["drawn"]).items():
        training = network["training"]
        test = training["test"]
        lines.append(
            f"| {name} | {training['penalty']:g} | {test['accuracy']:.3f} | "
            f"{test['background_gradient_share']:.0%} | "
            f"{test['background_share_of_pixels']:.0%} | {training['seconds']:.0f} |"
        )
    return "\n".join(lines)


def _beside(name: str, network: dict[str, Any]) -> str:
    """The paper's IoU, concentration and pointing, each followed by ours at every grid."""
    maps = network["maps"]["gradient"]
    titles = [f"{title} | {' | '.join(maps)}" for title in ("IoU", "concentration", "pointing")]
    lines = [f"| map | {' | '.join(titles)} |", "|---" * (4 + 3 * len(maps)) + "|"]
    for row, printed in PAPER[name].items():
        cells = []
        for value, measured in zip(printed, _AGAINST, strict=True):
            cells += [f"{value:.2f}", *(_marked(found[row], measured) for found in maps.values())]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _full(maps: dict[str, Any]) -> str:
    lines = [
        "| map | best-cut IoU | same-area IoU | IoU at half | concentration | pointing | 15 px |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, found in maps.items():
        cells = " | ".join(_marked(found, measured) for measured in _COLUMNS)
        lines.append(f"| {row} | {cells} |")
    return "\n".join(lines)


def _grids(result: dict[str, Any], measured: str) -> str:
    """One measure of the gradient maps: rows are maps, columns networks, cells the grids."""
    networks = result["networks"]
    lines = [
        "| map | " + " | ".join(networks) + " |",
        "|---|" + "---|" * len(networks),
    ]
    first = next(iter(networks.values()))["maps"]["gradient"]
    for row in first[GRID]:
        cells = [
            " / ".join(_marked(network["maps"]["gradient"][side][row], measured) for side in first)
            for network in networks.values()
        ]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _marked(row: dict[str, Any], measured: str) -> str:
    """A mean, bold where better than bilinear and italic where worse, at p < 0.05."""
    text = f"{row[measured]['mean']:.2f}"
    against = row[measured].get("against bilinear")
    if against is None or against["p"] >= 0.05:
        return text
    return f"**{text}**" if against["gain"] > 0 else f"_{text}_"
