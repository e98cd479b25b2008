"""Write what a command found: PNG files, one self-contained HTML page, a JSON manifest."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usu_captum.ranking._checkpoint import write_text
from usu_cli._folder import MANIFEST, PAGE, earlier_report
from usu_cli._pictures import Panel, panel_png, png


@dataclass(frozen=True)
class Table:
    """Formatted figures: first column the names."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Sheet:
    """Everything about one image; ``stem`` names its PNG file."""

    stem: str
    title: str
    note: str
    panels: Sequence[Panel]
    table: Table


@dataclass(frozen=True)
class Report:
    """A whole report, ready to be written."""

    title: str
    lead: Sequence[str]
    facts: Mapping[str, str]
    sheets: Sequence[Sheet]
    summary: Table | None = None


def sheet_stem(number: int, path: Path) -> str:
    """Return a name for the picture of an image: its place in the report, and its own name."""
    return f"{number:02d}_{re.sub(r'[^A-Za-z0-9-]+', '_', path.stem)[:60]}"


def write_report(report: Report, manifest: Mapping[str, Any], out: Path) -> list[Path]:
    """Write the pictures, the page and the manifest into ``out`` and return their paths.

    Files of an earlier report of the same command are replaced, or removed.

    Args:
        report: What people read.
        manifest: What programs read: strict JSON, here completed with the names of the files.
        out: An existing folder; see :func:`usu_cli._folder.prepare_report`.
    """
    names = [f"{sheet.stem}.png" for sheet in report.sheets]
    for name in set(earlier_report(out, manifest["command"])).difference((*names, MANIFEST)):
        (out / name).unlink(missing_ok=True)
    record = {**manifest, "files": {"page": PAGE, "pictures": names}}
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    # First, so that what a run was stopped at is known for its own by the next.
    write_text(out / MANIFEST, text + "\n")
    for name, sheet in zip(names, report.sheets, strict=True):
        (out / name).write_bytes(panel_png(f"{sheet.title} — {sheet.note}", sheet.panels))
    html = template("report.html.j2").render(report=report, title=report.title, facts=report.facts)
    (out / PAGE).write_text(html, encoding="utf-8")
    return [out / name for name in (*names, PAGE, MANIFEST)]


def template(name: str) -> Any:
    """Return a page template of this package; whatever is filled in is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("usu_cli", "_assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    return environment.get_template(name)


def _data_uri(panel: Panel) -> str:
    return "data:image/png;base64," + base64.b64encode(png(panel.picture)).decode("ascii")
