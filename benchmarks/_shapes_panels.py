"""Pictures in rows and columns, small enough for a repository."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from torch import Tensor

_TOP: Final = 97  # percentile shown brightest: a few pixels at a border would hide the others
_HEAT: Final = "inferno"


@dataclass(frozen=True)
class Panel:
    """One picture: a photograph (H, W, 3), a grey one, or a map with the truth's outline.

    Attributes:
        pixels: What is shown, (H, W) or (H, W, 3).
        kind: ``"picture"``, from 0 to 1, or ``"map"``, from 0 to its 97th percentile.
        outline: The truth (H, W), drawn as a line.
        note: A line below.
    """

    pixels: Any
    kind: str = "map"
    outline: Any = None
    note: str = ""


def as_array(tensor: Tensor) -> Any:
    """Return the last two dimensions of a tensor as an array."""
    return tensor.detach().reshape(tensor.shape[-2:]).numpy()


def draw_panels(
    rows: Sequence[Sequence[Panel]],
    columns: Sequence[str],
    path: Path,
    *,
    labels: Sequence[str] = (),
    width: float = 1.25,
    colours: int = 256,
) -> None:
    """Draw rows of panels under column titles, with a label left of each row.

    Args:
        rows: Panels, as many in each row as there are columns.
        columns: Titles.
        path: The PNG to write.
        labels: One per row, or none.
        width: Of a panel, in inches.
        colours: Of the palette: fewer make a smaller file.
    """
    noted = any(panel.note for row in rows for panel in row)
    height = (width + 0.04) * len(rows) + (0.45 if noted else 0.3)
    figure, axes = plt.subplots(
        len(rows),
        len(columns),
        figsize=(width * len(columns) + 0.25, height),
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    for place, row in enumerate(rows):
        for axis, panel in zip(axes[place], row, strict=True):
            _show(axis, panel)
        if labels:
            axes[place][0].set_ylabel(labels[place], fontsize=8)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(colours, kmeans=1, dither=Image.Dither.NONE).save(
            path, optimize=True
        )


def _show(axis: Any, panel: Panel) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)
    if panel.note:
        axis.set_xlabel(panel.note, fontsize=7, labelpad=2)
    shape = panel.pixels.shape[:2] if panel.outline is None else panel.outline.shape
    extent = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)
    if panel.kind == "picture":
        axis.imshow(panel.pixels, cmap="gray", vmin=0, vmax=1, extent=extent)
    else:
        top = max(float(np.percentile(panel.pixels, _TOP)), 1e-12)
        axis.imshow(
            panel.pixels, cmap=_HEAT, vmin=0, vmax=top, extent=extent, interpolation="nearest"
        )
    if panel.outline is not None:
        axis.contour(panel.outline.astype(float), [0.5], colors="#40e0d0", linewidths=0.7)
