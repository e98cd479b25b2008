"""Rank pixels by what a classifier needs: a network to train, or refinement alone.

Deletion and insertion ask for an order of pixels; these learn it, or descend it on one image.
"""

from usu_captum.ranking._arrays import ArrayImages, DatasetImages
from usu_captum.ranking._classifier_features import ClassifierEncoder
from usu_captum.ranking._conditioning import EmbeddingConditioning, HeadConditioning, head_rows
from usu_captum.ranking._data import PartOfImages, open_images, split_images
from usu_captum.ranking._explainer import RankingExplainer
from usu_captum.ranking._images import FolderImages, ImageSource, Sample, UnreadableImageError
from usu_captum.ranking._masks import masks_to_pixels, pool_to_grid
from usu_captum.ranking._network import RankingNetwork, build_network
from usu_captum.ranking._network_config import NetworkConfig
from usu_captum.ranking._network_files import load_network, save_network
from usu_captum.ranking._objective import ObjectiveValue, RankingObjective
from usu_captum.ranking._references import REFERENCES, reference_images
from usu_captum.ranking._refine import Refined, refine, refine_with
from usu_captum.ranking._sinkhorn import GumbelSinkhorn, gumbel_sinkhorn
from usu_captum.ranking._sorter import Sorter
from usu_captum.ranking._stages import default_stages
from usu_captum.ranking._timm_encoder import TimmEncoder
from usu_captum.ranking._training import TrainingResult, train_explainer
from usu_captum.ranking._training_config import TrainingConfig
from usu_captum.ranking._transport import RankTransport

__all__ = [
    "REFERENCES",
    "ArrayImages",
    "ClassifierEncoder",
    "DatasetImages",
    "EmbeddingConditioning",
    "FolderImages",
    "GumbelSinkhorn",
    "HeadConditioning",
    "ImageSource",
    "NetworkConfig",
    "ObjectiveValue",
    "PartOfImages",
    "RankTransport",
    "RankingExplainer",
    "RankingNetwork",
    "RankingObjective",
    "Refined",
    "Sample",
    "Sorter",
    "TimmEncoder",
    "TrainingConfig",
    "TrainingResult",
    "UnreadableImageError",
    "build_network",
    "default_stages",
    "gumbel_sinkhorn",
    "head_rows",
    "load_network",
    "masks_to_pixels",
    "open_images",
    "pool_to_grid",
    "reference_images",
    "refine",
    "refine_with",
    "save_network",
    "split_images",
    "train_explainer",
]
