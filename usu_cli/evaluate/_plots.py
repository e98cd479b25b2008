"""Summaries as pictures: curves, ranks, and image against image."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from usu_cli.evaluate._maps import AS_IS
from usu_cli.evaluate._measures import MEASURES
from usu_cli.evaluate._statistics import Array
from usu_cli.evaluate._summary import MapName, Summary

_CURVES = ("deletion", "insertion")
_LEAST_RANKED = 3  # maps and images below which ranks say nothing


def curves(summary: Summary) -> bytes | None:
    """Draw the mean deletion and insertion curves, a row per coarse method; a PNG.

    Fine maps are drawn dashed in every row. ``None`` if there are no curves.
    """
    chosen = [metric for metric in _CURVES if metric in summary.metrics]
    if not chosen:
        return None
    fine = [name for name in summary.maps if name[1] == AS_IS]
    methods = list(dict.fromkeys(n[0] for n in summary.maps if n[1] != AS_IS)) or [""]
    figure = Figure(
        figsize=(4.4 * len(chosen) + 1.8, 2.9 * len(methods) + 0.3), dpi=110, layout="constrained"
    )
    grid = figure.subplots(len(methods), len(chosen), squeeze=False)
    colours = _colours(summary)
    for row, method in zip(grid, methods, strict=True):
        for axes, metric in zip(row, chosen, strict=True):
            for name in [n for n in summary.maps if n[0] == method] + fine:
                curve = summary.curves.get((metric, name))
                if curve is not None:
                    axes.plot(
                        np.linspace(0, 1, len(curve)), curve, color=colours[_entry(name)],
                        linestyle="--" if name in fine else "-", linewidth=1.4, label=_entry(name),
                    )  # fmt: skip
            axes.set(title=f"{method} {metric}".strip(), xlim=(0, 1), ylim=(0, None))
            axes.set_xlabel("share of pixels " + ("replaced" if metric == "deletion" else "shown"))
            axes.set_ylabel("probability")
        row[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return _png(figure)


def ranks(summary: Summary, metric: str) -> bytes | None:
    """Draw a critical-difference diagram of one metric; a PNG.

    Each image ranks the upsamplers, by their mean over methods, and the methods that need none.
    A bar joins those that Nemenyi's test does not tell apart at 0.05. ``None`` for fewer than
    three entries or images, or a metric without a better end.
    """
    import pandas as pd
    import scikit_posthocs

    better = MEASURES[metric].higher_is_better
    table = _by_image(summary, metric)
    if better is None or table is None:
        return None
    entries, values = table
    frame = pd.DataFrame(values if better else -values, columns=entries)
    rank = frame.rank(axis=1, ascending=False).mean()
    if not float(np.ptp(rank)):
        return None  # all alike on every image
    figure = Figure(figsize=(8, 1.4 + 0.25 * len(entries)), dpi=110, layout="constrained")
    axes = figure.subplots()
    scikit_posthocs.critical_difference_diagram(
        rank, scikit_posthocs.posthoc_nemenyi_friedman(frame), ax=axes,
        label_fmt_left="{label} ({rank:.2f})  ", label_fmt_right="  ({rank:.2f}) {label}",
        color_palette={name: c for name, c in _colours(summary).items() if name in rank},
    )  # fmt: skip
    axes.set_title(f"{metric}: mean rank over {len(values)} images, best first", fontsize=10)
    return _png(figure)


def scatter(summary: Summary, peer: str) -> bytes | None:
    """Draw every image's value with a peer against that with another upsampler; a PNG.

    A panel per metric that judges maps by the model or an object, all methods together. ``None``
    without comparisons to ``peer``.
    """
    chosen = [
        metric
        for metric in summary.metrics
        if MEASURES[metric].run is not None
        and any(c.metric == metric and peer in c.peer for c in summary.comparisons)
    ]
    if not chosen:
        return None
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(3.6 * columns + 1.6, 3.4 * rows), dpi=110, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    colours = _colours(summary)
    for axes in grid.flat[len(chosen) :]:
        axes.axis("off")
    for axes, metric in zip(grid.flat, chosen, strict=False):
        _scatter(axes, summary, metric, peer, colours)
    handles, names = [], []
    for axes in grid.flat:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            if name not in names:
                handles.append(handle)
                names.append(name)
    figure.legend(handles, names, loc="outside right upper", fontsize=8, frameon=False)
    return _png(figure)


def _scatter(axes: Any, summary: Summary, metric: str, peer: str, colours: dict[str, str]) -> None:
    points: dict[str, list[tuple[float, float]]] = {}
    for c in summary.comparisons:
        if c.metric == metric and peer in c.peer:
            theirs = summary.values[metric, c.peer]
            ours = summary.values[metric, c.subject]
            shared = ours.keys() & theirs.keys()
            points.setdefault(_entry(c.subject), []).extend((theirs[i], ours[i]) for i in shared)
    for name, pairs in points.items():
        x, y = np.array(pairs).T
        axes.scatter(x, y, s=9, alpha=0.6, linewidths=0, color=colours[name], label=name)
    low, high = axes.get_xlim()
    axes.axline((low, low), (high, high), color="#999999", linewidth=0.8, zorder=0)
    better = "above" if MEASURES[metric].higher_is_better else "below"
    axes.set(title=f"{metric} (better {better})", xlabel=peer, ylabel="other")


def _by_image(summary: Summary, metric: str) -> tuple[list[str], Array] | None:
    """Return entries and their values (images, entries), on images that all entries have."""
    columns: dict[str, list[dict[str, float]]] = {}
    for name in summary.maps:
        values = summary.values.get((metric, name))
        if values:
            columns.setdefault(_entry(name), []).append(dict(values))
    images: Sequence[str] = sorted(
        set.intersection(*(set(v) for several in columns.values() for v in several))
        if columns
        else ()
    )
    if len(columns) < _LEAST_RANKED or len(images) < _LEAST_RANKED:
        return None
    rows = [
        [float(np.mean([v[image] for v in several])) for several in columns.values()]
        for image in images
    ]
    return list(columns), np.array(rows)


def _entry(name: MapName) -> str:
    """What stands for a map in a legend: its upsampler, or its method if it needs none."""
    return name[0] if name[1] == AS_IS else name[1]


def _colours(summary: Summary) -> dict[str, str]:
    """Return a colour for each entry, the same in all pictures, and no two alike."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    entries = dict.fromkeys(_entry(name) for name in summary.maps)
    count = len(entries)
    if count <= 20:
        colours = colormaps["tab20" if count > 10 else "tab10"](range(count))
    else:
        colours = colormaps["turbo"](np.linspace(0, 1, count))
    return {entry: to_hex(colour) for entry, colour in zip(entries, colours, strict=True)}


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
