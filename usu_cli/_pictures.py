"""Draw attribution maps: colours, overlays, outlines, and the side-by-side panel.

Colours come from perceptually uniform maps, so that equal steps in value look like equal steps:
``inferno`` for attribution, ``viridis`` for scores. Every attribution map of a panel uses the same
colours; each is scaled to its own 99.5th percentile, because a redistributed map is far more
concentrated than an interpolated one of the same mass. A map that stays far above zero, as one of
probabilities may, is scaled from its lowest value: there would be nothing to see otherwise.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from textwrap import fill

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Values = npt.NDArray[np.floating]

COLOURS = (
    "Each map is scaled to its own 99.5th percentile, in the colours below; where it is low, the "
    "image shows in grey."
)
COARSE_COLOURS = "The coarse grid has no image below it, and is black there."
SCORE_COLOURS = "Scores of segments have colours of their own, from violet for 0 to yellow for 1."

_FAR = 0.5  # lowest value, relative to the top, from which on a map is far above zero
_OUTLINE = np.array([64, 224, 255], dtype=np.uint8)


@dataclass(frozen=True)
class Panel:
    """One captioned picture, (H, W, 3) in RGB."""

    title: str
    caption: str
    picture: Picture


def heat(values: Values, size: tuple[int, int]) -> Picture:
    """Paint non-negative values, repeated to ``size`` where they are a coarse grid."""
    return _paint("inferno", _repeated(_scaled(values), size))


def scores(values: Values) -> Picture:
    """Paint values in [0, 1]."""
    return _paint("viridis", values)


def overlay(values: Values, background: Picture) -> Picture:
    """Lay a map over the greyed image: the higher the value, the less of the image remains."""
    strength = _scaled(values)
    colours = _paint("inferno", strength).astype(np.float64)
    # Squeezed towards white at half strength: dark image areas must not pass for low attribution.
    grey = (background @ np.array([0.299, 0.587, 0.114]))[..., None] * 0.75 + 40.0
    opacity = 0.9 * strength[..., None] ** 0.5
    blended: Picture = np.rint((1 - opacity) * grey + opacity * colours).astype(np.uint8)
    return blended


def map_panel(title: str, caption: str, values: Values, background: Picture) -> Panel:
    """Lay a map over the greyed image; the caption also says what would mislead otherwise."""
    low, top = _range(values)
    remark = "no positive values" if not top else "drawn from its lowest value" if low else ""
    return Panel(title, ", ".join(filter(None, (caption, remark))), overlay(values, background))


def outlined(picture: Picture, mask: npt.NDArray[np.bool_]) -> Picture:
    """Draw the outline of ``mask``, just outside it."""
    padded = np.pad(mask, 2)
    grown = np.zeros_like(mask)
    height, width = mask.shape
    for down in range(-1, 2):
        for right in range(-1, 2):
            grown |= padded[2 + down : 2 + down + height, 2 + right : 2 + right + width]
    drawn: Picture = np.where((grown & ~mask)[..., None], _OUTLINE, picture)
    return drawn


def panel_png(title: str, panels: Sequence[Panel]) -> bytes:
    """Return all panels side by side, as a PNG: up to five in a row, more in rows of up to six."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = 1 if len(panels) <= 5 else max(2, -(-len(panels) // 6))
    columns = -(-len(panels) // rows)
    names = [p.title if len(p.title) <= 26 else p.title.replace(", ", ",\n") for p in panels]
    captions = [fill(panel.caption, 36) for panel in panels]
    lines = max(name.count("\n") for name in names) + max(c.count("\n") for c in captions)
    height = (3.05 + 0.16 * lines) * rows + 0.45
    figure = Figure(figsize=(2.6 * columns, height), dpi=110, layout="constrained")
    figure.suptitle(_plain(fill(title, 26 * columns)), fontsize=12)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=(), yticks=(), frame_on=False)
    for axes, panel, name, caption in zip(grid.flat, panels, names, captions, strict=False):
        axes.imshow(panel.picture, interpolation="nearest")
        axes.set_title(_plain(name), fontsize=10, fontweight="bold")
        axes.set_xlabel(_plain(caption), fontsize=8, color="#444444")
    buffer = io.BytesIO()
    # Names in scripts that the font lacks are boxes here, and right on the page.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def png(picture: Picture) -> bytes:
    """Return one picture as a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _scaled(values: Values) -> Values:
    """Map the positive part to [0, 1], the top 0.5 % of pixels at 1."""
    low, top = _range(values)
    scaled: Values = np.clip((values.astype(np.float64) - low) / ((top - low) or 1.0), 0.0, 1.0)
    return scaled


def _range(values: Values) -> tuple[float, float]:
    """Return what is drawn as nothing, and as the most."""
    positive = np.clip(values.astype(np.float64), 0.0, None)
    low, top = float(positive.min()), float(np.quantile(positive, 0.995) or positive.max())
    return (low if _FAR * top < low < top else 0.0), top


def _repeated(grid: Values, size: tuple[int, int]) -> Values:
    (height, width), (h, w) = size, grid.shape
    fine: Values = grid[np.arange(height) * h // height][:, np.arange(width) * w // width]
    return fine


def _paint(name: str, values: Values) -> Picture:
    picture: Picture = _palette(name)[np.rint(values * 255).astype(np.intp)]
    return picture


@cache
def _palette(name: str) -> Picture:
    from matplotlib import colormaps

    colours: Picture = np.rint(colormaps[name](range(256))[:, :3] * 255).astype(np.uint8)
    return colours


def _plain(text: str) -> str:
    """Keep matplotlib from reading dollar signs in file and class names as mathematics."""
    return text.replace("$", r"\$")
