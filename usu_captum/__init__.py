"""Captum's attributions with an ``upsampler=`` argument.

Every class is a subclass of Captum's own of the same name. Without an upsampler the result is
Captum's, bit for bit; with one it has the size of the input.
"""

from usu_captum._guided import GuidedGradCam
from usu_captum._image_space import BASELINES, IMAGENET, ImageSpace, named_baseline
from usu_captum._input_perturbations import (
    FeatureAblation,
    FeaturePermutation,
    KernelShap,
    Lime,
    Occlusion,
    ShapleyValues,
    ShapleyValueSampling,
)
from usu_captum._interpolate import interpolate
from usu_captum._layer_grad_cam import LayerGradCam
from usu_captum._layer_gradients import (
    InternalInfluence,
    LayerActivation,
    LayerConductance,
    LayerGradientXActivation,
    LayerIntegratedGradients,
)
from usu_captum._layer_perturbations import LayerFeatureAblation, LayerFeaturePermutation
from usu_captum._layer_references import (
    LayerDeepLift,
    LayerDeepLiftShap,
    LayerGradientShap,
    LayerLRP,
)
from usu_captum._layers import default_layer
from usu_captum._layout import token_grid
from usu_captum._methods import METHODS
from usu_captum._patching import patch, patched, unpatch
from usu_captum._score import ForwardScore
from usu_captum._upsampled import Upsampled
from usu_core._tokens import TokenGrid

__all__ = [
    "BASELINES",
    "IMAGENET",
    "METHODS",
    "FeatureAblation",
    "FeaturePermutation",
    "ForwardScore",
    "GuidedGradCam",
    "ImageSpace",
    "InternalInfluence",
    "KernelShap",
    "LayerActivation",
    "LayerConductance",
    "LayerDeepLift",
    "LayerDeepLiftShap",
    "LayerFeatureAblation",
    "LayerFeaturePermutation",
    "LayerGradCam",
    "LayerGradientShap",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "LayerLRP",
    "Lime",
    "Occlusion",
    "ShapleyValueSampling",
    "ShapleyValues",
    "TokenGrid",
    "Upsampled",
    "default_layer",
    "interpolate",
    "named_baseline",
    "patch",
    "patched",
    "token_grid",
    "unpatch",
]
