"""Scores: how much the model's output depends on each segment."""

from usu_core.scoring._fills import FILLS, fill_images, gaussian_blur
from usu_core.scoring._gradient import GradientScorer
from usu_core.scoring._model import OUTPUTS, ModelScore, ScoreFunction, class_scores, model_score
from usu_core.scoring._perturbation import MaskedPerturbation
from usu_core.scoring._protocol import LevelScorer, Scorer
from usu_core.scoring._shapley import ShapleyRegression

__all__ = [
    "FILLS",
    "OUTPUTS",
    "GradientScorer",
    "LevelScorer",
    "MaskedPerturbation",
    "ModelScore",
    "ScoreFunction",
    "Scorer",
    "ShapleyRegression",
    "class_scores",
    "fill_images",
    "gaussian_blur",
    "model_score",
]
