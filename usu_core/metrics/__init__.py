"""Metrics of attribution maps: per example, batched, on the device of the map."""

from usu_core.metrics._boxes import (
    box_correlation,
    box_effects,
    box_sums,
    random_boxes,
    scale_optimised_infidelity,
)
from usu_core.metrics._complexity import complexity, sparseness
from usu_core.metrics._correlation import spearman
from usu_core.metrics._curves import Curve, deletion, insertion
from usu_core.metrics._diffid import DiffID, diffid
from usu_core.metrics._flipping import irof, pixel_flipping
from usu_core.metrics._infidelity import quantus_infidelity
from usu_core.metrics._localisation import (
    concentration,
    matched_area_iou,
    pointing_game,
    threshold_iou,
)
from usu_core.metrics._monotonicity import monotonicity, monotonicity_correlation
from usu_core.metrics._protocols import AHA, RISE, SAMP, CurveProtocol
from usu_core.metrics._references import REFERENCES, Blur, reference_images
from usu_core.metrics._road import noisy_linear_imputation, road
from usu_core.metrics._robustness import max_sensitivity
from usu_core.metrics._sanity import Randomisation, model_randomisation
from usu_core.metrics._subsets import mu_fidelity, sensitivity_n

__all__ = [
    "AHA",
    "REFERENCES",
    "RISE",
    "SAMP",
    "Blur",
    "Curve",
    "CurveProtocol",
    "DiffID",
    "Randomisation",
    "box_correlation",
    "box_effects",
    "box_sums",
    "complexity",
    "concentration",
    "deletion",
    "diffid",
    "insertion",
    "irof",
    "matched_area_iou",
    "max_sensitivity",
    "model_randomisation",
    "monotonicity",
    "monotonicity_correlation",
    "mu_fidelity",
    "noisy_linear_imputation",
    "pixel_flipping",
    "pointing_game",
    "quantus_infidelity",
    "random_boxes",
    "reference_images",
    "road",
    "scale_optimised_infidelity",
    "sensitivity_n",
    "sparseness",
    "spearman",
    "threshold_iou",
]
