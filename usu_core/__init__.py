"""Redistribute coarse attribution maps to pixels, keeping their mass.

Tensors in, tensors out: this package needs torch and numpy alone to be imported, and knows no
attribution library.
"""

from usu_core import metrics, scoring, segments
from usu_core._cells import CellGrid
from usu_core._config import from_dict, from_toml, to_dict, to_toml
from usu_core._desiderata import Desiderata, alpha_beta_errors, desiderata
from usu_core._guided import IWMR, USU, ScoreMapOnly, Tilted
from usu_core._interpolation import interpolate
from usu_core._potentials import (
    LogPotential,
    conditioning_strength,
    log_odds_potential,
    power_potential,
    tensor_potential,
)
from usu_core._redistribution import iwmr, usu
from usu_core._refinement import Refinement, ScoreMap, heterogeneity, score_levels
from usu_core._registry import AnyUpsampler, available, resolve
from usu_core._scaling import scale_to_unit
from usu_core._tilting import tilt
from usu_core._upsamplers import Interpolation, Upsampler, Upsampling
from usu_core._version import __version__
from usu_core.scoring import GradientScorer, MaskedPerturbation, ShapleyRegression
from usu_core.segments import GivenLabels, Quadtree, Slic

__all__ = [
    "IWMR",
    "USU",
    "AnyUpsampler",
    "CellGrid",
    "Desiderata",
    "GivenLabels",
    "GradientScorer",
    "Interpolation",
    "LogPotential",
    "MaskedPerturbation",
    "Quadtree",
    "Refinement",
    "ScoreMap",
    "ScoreMapOnly",
    "ShapleyRegression",
    "Slic",
    "Tilted",
    "Upsampler",
    "Upsampling",
    "__version__",
    "alpha_beta_errors",
    "available",
    "conditioning_strength",
    "desiderata",
    "from_dict",
    "from_toml",
    "heterogeneity",
    "interpolate",
    "iwmr",
    "log_odds_potential",
    "metrics",
    "power_potential",
    "resolve",
    "scale_to_unit",
    "score_levels",
    "scoring",
    "segments",
    "tensor_potential",
    "tilt",
    "to_dict",
    "to_toml",
    "usu",
]
