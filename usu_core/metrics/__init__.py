"""Metrics of attribution maps: per example, batched, on the device of the map."""

from usu_core.metrics._boxes import (
    box_correlation,
    box_effects,
    box_sums,
    random_boxes,
    scale_optimised_infidelity,
)
from usu_core.metrics._curves import Curve, deletion, insertion
from usu_core.metrics._localisation import concentration, matched_area_iou, pointing_game
from usu_core.metrics._references import REFERENCES, reference_images

__all__ = [
    "REFERENCES",
    "Curve",
    "box_correlation",
    "box_effects",
    "box_sums",
    "concentration",
    "deletion",
    "insertion",
    "matched_area_iou",
    "pointing_game",
    "random_boxes",
    "reference_images",
    "scale_optimised_infidelity",
]
