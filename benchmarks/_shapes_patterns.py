"""The paper's periodic patterns with known truth: zigzag, sine, spiral, waves and moiré.

The paper names the five and shows small pictures of them; the formulas and sizes are ours.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from usu_cli._shapes import SIZE, Shapes

Array = npt.NDArray[np.float64]

PATTERNS: Final = ("zigzag", "sine", "spiral", "waves", "moire")
STROKE: Final = 0.45  # cosine of the phase above which a pixel is part of the pattern


def draw_patterns(labels: npt.ArrayLike, rng: np.random.Generator, *, size: int = SIZE) -> Shapes:
    """Draw one picture per label (an index into ``PATTERNS``).

    Bright strokes that cover the picture; period, phase, rotation, grey levels and noise are random
    and drawn alike for every class.
    """
    kinds = np.asarray(labels, dtype=np.int64)
    axis = (np.arange(size) + 0.5) / size - 0.5
    images = np.empty((len(kinds), 1, size, size), np.float32)
    masks = np.empty((len(kinds), size, size), np.bool_)
    for index, kind in enumerate(kinds):
        angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(0.16, 0.28)
        shift = rng.uniform(0, 1)
        across = np.cos(angle) * axis + np.sin(angle) * axis[:, None]
        along = np.cos(angle) * axis[:, None] - np.sin(angle) * axis
        height = _FIELDS[PATTERNS[kind]](along, across, period, shift)
        background = rng.uniform(0.05, 0.4)
        contrast = rng.uniform(0.3, 0.6)
        # A stroke's border rises at about 2 pi / period per picture side: soft over one pixel.
        cover = np.clip(0.5 + (height - STROKE) * size * period / (2 * np.pi), 0.0, 1.0)
        grain = rng.uniform(0.005, 0.03) * rng.standard_normal((size, size))
        images[index, 0] = np.clip(background + contrast * cover + grain, 0.0, 1.0)
        masks[index] = height > STROKE
    return Shapes(images, masks, kinds)


def pattern_labels(count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return ``count`` shuffled labels with equally many of each pattern, up to one."""
    labels: npt.NDArray[np.int64] = rng.permutation(np.arange(count) % len(PATTERNS))
    return labels


def _zigzag(along: Array, across: Array, period: float, shift: float) -> Array:
    teeth = np.abs(2 * ((across / (1.5 * period)) % 1.0) - 1.0)
    return _wave((along + 0.5 * period * teeth) / period + shift)


def _sine(along: Array, across: Array, period: float, shift: float) -> Array:
    bend = 0.3 * period * np.sin(2 * np.pi * across / (1.5 * period))
    return _wave((along + bend) / period + shift)


def _spiral(along: Array, across: Array, period: float, shift: float) -> Array:
    turn = np.arctan2(along, across) / (2 * np.pi)
    return _wave(np.hypot(along, across) / period - turn + shift)


def _waves(along: Array, across: Array, period: float, shift: float) -> Array:
    return _wave(np.hypot(along, across) / period + shift)


def _moire(along: Array, across: Array, period: float, shift: float) -> Array:
    # Two gratings at a slight angle; their strokes meet and part.
    tilted = np.cos(0.5) * along + np.sin(0.5) * across
    return np.minimum(1.0, 0.75 * (_wave(along / period + shift) + _wave(tilted / period)))


def _wave(turns: Array) -> Array:
    wave: Array = np.cos(2 * np.pi * turns)
    return wave


_FIELDS: Final[dict[str, Callable[[Array, Array, float, float], Array]]] = {
    "zigzag": _zigzag,
    "sine": _sine,
    "spiral": _spiral,
    "waves": _waves,
    "moire": _moire,
}
