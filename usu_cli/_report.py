"""Write what a command found: PNG files, one self-contained HTML page, a JSON manifest."""

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usu_cli._errors import UsageError, one_line
from usu_cli._pictures import Panel, panel_png, png

PAGE = "report.html"
MANIFEST = "manifest.json"


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


def check_apart(out: Path, data: Path) -> None:
    """Raise a UsageError if pictures would be written among the images that are read."""
    if out.resolve() == data.resolve():
        raise UsageError(
            f"--out {str(out)!r} is the folder of images, and pictures are written there; "
            "give another --out"
        )


def prepare_folder(out: Path) -> Path:
    """Create ``out`` and check that files can be written there, before any work is done.

    Raises:
        UsageError: if not.
    """
    probe = out / f".usu-probe-{os.getpid()}"  # several processes may prepare one folder
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write to --out {str(out)!r}: {one_line(error)}") from error
    return out


def write_report(report: Report, manifest: Mapping[str, Any], out: Path) -> list[Path]:
    """Write the pictures, the page and the manifest into ``out`` and return their paths.

    Args:
        report: What people read.
        manifest: What programs read: strict JSON, here completed with the names of the files.
        out: An existing folder.
    """
    pictures = []
    for sheet in report.sheets:
        pictures.append(out / f"{sheet.stem}.png")
        pictures[-1].write_bytes(panel_png(f"{sheet.title} — {sheet.note}", sheet.panels))
    page = out / PAGE
    html = template("report.html.j2").render(report=report, title=report.title, facts=report.facts)
    page.write_text(html, encoding="utf-8")
    record = {**manifest, "files": {"page": PAGE, "pictures": [p.name for p in pictures]}}
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    (out / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return [*pictures, page, out / MANIFEST]


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
