"""Training curves: rows in a CSV file, and a picture of them."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from usu_captum.ranking._checkpoint import write_text

COLUMNS = (
    "step", "loss", "deletion", "insertion", "peak", "gradient", "rate", "temperature", "grid",
    "reference", "held_out_deletion", "held_out_insertion",
)  # fmt: skip


class Curves:
    """The rows of a run, kept in a file that a resumed run continues.

    Args:
        path: The CSV file.
        after: Rows of later steps, written by a run that was killed, are dropped.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "curves.csv"
        ...     Curves(path, after=0).add(step=1, loss=0.5)
        ...     Curves(path, after=1).add(step=2, loss=0.4)
        ...     [row["loss"] for row in Curves(path, after=1).rows]
        ['0.5']
    """

    def __init__(self, path: Path, *, after: int) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        if path.is_file() and after > 0:
            with path.open(encoding="utf-8", newline="") as file:
                rows = csv.DictReader(file)
                # A kill can leave half a line.
                whole = [row for row in rows if None not in row.values() and row["step"].isdigit()]
            self.rows = [row for row in whole if int(row["step"]) <= after]
        write_text(path, self._text(self.rows, header=True))

    def add(self, held_out: Mapping[str, float] | None = None, **values: Any) -> None:
        """Append a row, with figures of held-out images or without; other columns stay empty."""
        values |= {f"held_out_{name}": value for name, value in (held_out or {}).items()}
        row = {name: _cell(values.get(name)) for name in COLUMNS}
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(self._text([row], header=False))

    def draw(self, path: Path) -> None:
        """Draw the loss and the held-out deletion and insertion over the steps, as a PNG."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
        loss, held_out = figure.subplots(1, 2)
        loss.plot(*self._column("loss"), color="#3b6ea5", linewidth=1)
        loss.set_title("training objective", fontsize=10)
        for name, colour in (("deletion", "#b5452c"), ("insertion", "#2c8a57")):
            held_out.plot(*self._column(f"held_out_{name}"), color=colour, marker=".", label=name)
        held_out.set_title("held-out images", fontsize=10)
        if held_out.lines[0].get_xdata().size:
            held_out.legend(fontsize=8)
        for axes in (loss, held_out):
            axes.set_xlabel("step", fontsize=9)
            axes.grid(alpha=0.3)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer)
        path.write_bytes(buffer.getvalue())

    def _column(self, name: str) -> tuple[list[int], list[float]]:
        rows = [row for row in self.rows if row[name]]
        return [int(row["step"]) for row in rows], [float(row[name]) for row in rows]

    @staticmethod
    def _text(rows: list[dict[str, str]], *, header: bool) -> str:
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, COLUMNS)
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
