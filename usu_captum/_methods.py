"""All attribution classes of this package by name."""

from captum import attr as captum_attr
from captum.attr import Attribution

from usu_captum._guided import GuidedGradCam
from usu_captum._input_perturbations import (
    FeatureAblation,
    FeaturePermutation,
    KernelShap,
    Lime,
    Occlusion,
    ShapleyValues,
    ShapleyValueSampling,
)
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
from usu_captum.paths import (
    SAMP,
    BlurIG,
    GuidedIG,
    IntegratedGradients,
    ManifoldGuidedIG,
    SAMPPlusPlus,
    SpectralIG,
)
from usu_captum.ranking import RankingExplainer

WITH_UPSAMPLER: dict[str, type[Attribution]] = {
    cls.__name__: cls
    for cls in (
        LayerGradCam,
        LayerGradientXActivation,
        LayerActivation,
        LayerConductance,
        LayerIntegratedGradients,
        InternalInfluence,
        LayerDeepLift,
        LayerDeepLiftShap,
        LayerGradientShap,
        LayerLRP,
        LayerFeatureAblation,
        LayerFeaturePermutation,
        GuidedGradCam,
        FeatureAblation,
        FeaturePermutation,
        Occlusion,
        ShapleyValueSampling,
        ShapleyValues,
        Lime,
        KernelShap,
    )
    if hasattr(captum_attr, cls.__name__)  # Captum 0.7 has no LayerFeaturePermutation.
}
"""Captum's classes, by its names, that take ``upsampler=``."""

METHODS: dict[str, type[Attribution]] = WITH_UPSAMPLER | {
    cls.__name__: cls
    for cls in (
        IntegratedGradients,
        BlurIG,
        GuidedIG,
        SpectralIG,
        ManifoldGuidedIG,
        SAMP,
        SAMPPlusPlus,
        RankingExplainer,
    )
}
"""Name to class, for tools that let a user choose: Captum's that take ``upsampler=``, then ours."""
