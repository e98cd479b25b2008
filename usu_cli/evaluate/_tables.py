"""Summaries as tables: text, Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Sequence

from usu_cli.evaluate._maps import AS_IS
from usu_cli.evaluate._measures import MEASURES
from usu_cli.evaluate._summary import Comparison, MapName, Summary, label

_ARROWS = {True: "↑", False: "↓", None: ""}
_LATEX_ARROWS = {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}
_SIGNIFICANT = 0.05

EVALUATIONS = (
    "Evaluations for scores: images that the model was run on for the scores of segments, or by a "
    "method that takes --evaluations; maps with the same scores share them. What methods cost "
    "besides, in gradients, along paths and within a CAM, is not counted."
)

Rows = list[list[str]]


def means(summary: Summary, peer: str | None = None) -> tuple[list[str], Rows]:
    """Return a table of means: a row per map, a column per metric.

    Args:
        summary: What to show.
        peer: Mark values that differ from this peer's at p < 0.05, corrected by Holm: ``+`` for
            better, ``-`` for worse.

    Returns:
        Header and rows.
    """
    header = ["method", "upsampler", "evaluations for scores"]
    header += [f"{metric} {_ARROWS[MEASURES[metric].higher_is_better]}".strip()
               for metric in summary.metrics]  # fmt: skip
    marks = {
        (c.metric, c.subject): "+" if c.result.gain > 0 else "-"
        for c in summary.comparisons
        if peer in c.peer and c.holm < _SIGNIFICANT
    }
    rows = []
    for name in summary.maps:
        row = [name[0], name[1], f"{summary.evaluations[name]:.0f}"]
        for metric in summary.metrics:
            mean = summary.mean(metric, name)
            mark = marks.get((metric, name), "")
            row.append("" if mean is None else f"{figure(mean)}{mark}")
        rows.append(row)
    return header, rows


def comparisons(chosen: Sequence[Comparison]) -> tuple[list[str], Rows]:
    """Return a table of comparisons, one per row, for people."""
    header = [
        "map", "against", "images", "gain", "95 % interval", "p", "Holm", "Bonferroni",
        "Cohen's d", "rank-biserial", "wins",
    ]  # fmt: skip
    rows = [
        [
            label(c.subject),
            label(c.peer) if c.peer[1] == AS_IS else c.peer[1],
            str(c.result.images),
            signed(c.result.gain),
            # One image has no spread.
            f"{signed(c.result.low)} to {signed(c.result.high)}" if c.result.images > 1 else "",
            probability(c.result.p),
            probability(c.holm),
            probability(c.bonferroni),
            f"{c.result.cohens_d:+.2f}",
            f"{c.result.rank_biserial:+.2f}",
            f"{c.result.wins:.0%}",
        ]
        for c in chosen
    ]
    return header, rows


def markdown(summary: Summary, peer: str | None) -> str:
    """Return the whole summary as Markdown."""
    parts = [_table(means(summary, peer), "github")]
    parts.append(EVALUATIONS if peer is None else f"{note(peer)} {EVALUATIONS}")
    for metric in summary.metrics:
        chosen = [c for c in summary.comparisons if c.metric == metric]
        if chosen:
            parts.append(f"## {metric}\n\n{MEASURES[metric].about.capitalize()}.")
            parts.append(_table(comparisons(chosen), "github"))
    return "\n\n".join(parts) + "\n"


def latex(summary: Summary, peer: str | None) -> str:
    """Return the table of means in LaTeX with booktabs."""
    text = _table(means(summary, peer), "latex_booktabs")
    for arrow, command in _LATEX_ARROWS.items():
        text = text.replace(arrow, command)
    return text + "\n"


def csv_text(summary: Summary) -> str:
    """Return all means and comparisons as CSV, unrounded: a row per metric, map and peer."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["metric", "method", "upsampler", "images", "mean", "evaluations", "peer method",
         "peer upsampler", "pairs", "gain", "low", "high", "p", "holm", "bonferroni",
         "cohens_d", "rank_biserial", "wins"]
    )  # fmt: skip
    compared: dict[tuple[str, MapName], list[Comparison]] = {}
    for comparison in summary.comparisons:
        compared.setdefault((comparison.metric, comparison.subject), []).append(comparison)
    for (metric, name), values in summary.values.items():
        start = [metric, *name, len(values), summary.mean(metric, name), summary.evaluations[name]]
        rows = compared.get((metric, name))
        if not rows:
            writer.writerow(start + [""] * 12)
        for c in rows or ():
            r = c.result
            interval = (r.low, r.high) if r.images > 1 else ("", "")
            writer.writerow(
                [*start, *c.peer, r.images, r.gain, *interval, r.p, c.holm, c.bonferroni,
                 r.cohens_d, r.rank_biserial, r.wins]
            )  # fmt: skip
    return stream.getvalue()


def figure(value: float) -> str:
    """Round to three decimals, or to two digits where that would leave nothing to see."""
    return f"{value:.3f}" if value == 0 or 5e-4 <= abs(value) < 1e4 else f"{value:.1e}"


def signed(value: float) -> str:
    """As :func:`figure`, with the sign always."""
    return f"+{figure(value)}" if value >= 0 else figure(value)


def probability(p: float) -> str:
    """Return a p-value to three decimals."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def note(peer: str) -> str:
    """Say what the marks in :func:`means` mean."""
    return (
        f"`+` better and `-` worse than {peer} at p < {_SIGNIFICANT} (Wilcoxon signed-rank, "
        "corrected by Holm over all comparisons with it by the same metric)."
    )


def _table(content: tuple[list[str], Rows], form: str) -> str:
    from tabulate import tabulate

    header, rows = content
    align = ["left", "left", *["right"] * (len(header) - 2)]
    return tabulate(rows, headers=header, tablefmt=form, disable_numparse=True, colalign=align)
