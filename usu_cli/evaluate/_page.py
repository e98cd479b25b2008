"""Write a summary: tables, pictures and one self-contained page."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usu_cli._about import facts
from usu_cli._folder import PAGE
from usu_cli._report import Table, template
from usu_cli._table import counted
from usu_cli.evaluate import _plots, _tables
from usu_cli.evaluate._measures import MEASURES
from usu_cli.evaluate._summary import Summary

FILES = (
    "summary.md", "summary.csv", "summary.tex", PAGE, "curves.png", "scatter.png",
    *(f"ranks-{metric}.png" for metric in MEASURES),
)  # fmt: skip
"""All that :func:`write_summary` may write."""


@dataclass(frozen=True)
class Part:
    """A section of the page: a table, a picture (PNG), or both."""

    title: str
    note: str
    table: Table | None = None
    picture: bytes | None = None

    @property
    def source(self) -> str:
        """The picture as the source of an ``img`` element."""
        return "data:image/png;base64," + base64.b64encode(self.picture or b"").decode("ascii")


def write_summary(
    summary: Summary, settings: Mapping[str, Any], against: Sequence[str], out: Path
) -> list[Path]:
    """Write ``summary.md``, ``.csv``, ``.tex``, the pictures and the page into ``out``.

    Args:
        summary: What was found.
        settings: What it depends on, to be shown.
        against: The peers; values are marked, and images drawn, against the first.
        out: An existing folder.

    Returns:
        The files, the page last.
    """
    peer = against[0] if against else None
    pictures = {"curves": _plots.curves(summary)}
    pictures |= {f"ranks-{metric}": _plots.ranks(summary, metric) for metric in summary.metrics}
    pictures["scatter"] = None if peer is None else _plots.scatter(summary, peer)
    files = {
        "summary.md": _tables.markdown(summary, peer).encode(),
        "summary.csv": _tables.csv_text(summary).encode(),
        "summary.tex": _tables.latex(summary, peer).encode(),
        **{f"{name}.png": content for name, content in pictures.items() if content},
        PAGE: _page(summary, settings, peer, pictures).encode(),
    }
    for name in FILES:
        (out / name).unlink(missing_ok=True)  # what an earlier run drew need not be drawn again
    for name, content in files.items():
        (out / name).write_bytes(content)
    return [out / name for name in files]


def _page(
    summary: Summary,
    settings: Mapping[str, Any],
    peer: str | None,
    pictures: Mapping[str, bytes | None],
) -> str:
    parts = [
        Part(
            "Means",
            f"{counted(summary.images, 'image')}. {_marks(peer)}",
            Table(*_tables.means(summary, peer), _tables.EVALUATIONS),
        ),
        Part("Curves", "Means over images and references.", picture=pictures["curves"]),
        Part("Image by image", f"Each point is an image; {peer} across.",
             picture=pictures["scatter"]),
    ]  # fmt: skip
    for metric in summary.metrics:
        chosen = [c for c in summary.comparisons if c.metric == metric]
        parts.append(
            Part(
                metric.capitalize(),
                f"{MEASURES[metric].about.capitalize()}.",
                Table(*_tables.comparisons(chosen)) if chosen else None,
                pictures[f"ranks-{metric}"],
            )
        )
    made = facts(settings)
    if settings.get("target") is None:
        made["Target"] = "each image's first class, or the list's"
    if summary.errors:
        made["Values that could not be measured"] = str(len(summary.errors))
    html: str = template("evaluate.html.j2").render(
        title=f"Attribution maps of {settings['model']}, compared",
        parts=[part for part in parts if part.table or part.picture],
        facts=made,
    )
    return html


def _marks(peer: str | None) -> str:
    # Markdown's quotes would be seen on a page.
    return "" if peer is None else _tables.note(peer).replace("`", "")
