"""Segments: nested partitions of the pixels, coarsest first.

A segmenter turns images into a hierarchy of label maps; scorers give each segment a score.
"""

from usu_core.segments._labels import GivenLabels, check_nested
from usu_core.segments._protocol import Segmenter, check_images
from usu_core.segments._quadtree import Quadtree
from usu_core.segments._reduce import (
    relabel,
    segment_counts,
    segment_expand,
    segment_max,
    segment_mean,
    segment_sum,
)
from usu_core.segments._slic import Slic

__all__ = [
    "GivenLabels",
    "Quadtree",
    "Segmenter",
    "Slic",
    "check_images",
    "check_nested",
    "relabel",
    "segment_counts",
    "segment_expand",
    "segment_max",
    "segment_mean",
    "segment_sum",
]
