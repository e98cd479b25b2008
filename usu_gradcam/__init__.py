"""pytorch-grad-cam's CAMs, redistributed to pixels instead of resized.

Every class is a subclass of the library's own of the same name, with ``upsampler=``, ``scaling=``
and ``raw=`` added. Classes the installed release does not have are missing here too.
"""

from typing import Any

from usu_gradcam._boxes import detector_box
from usu_gradcam._cams import CAMS
from usu_gradcam._options import Options
from usu_gradcam._patching import patch, patched, unpatch
from usu_gradcam._redistributed import Redistributed
from usu_gradcam._redistributing import redistributing
from usu_gradcam._reshape import ChannelsLast, TokenReshape, reshape_transform_for
from usu_gradcam._targets import TargetScore

AblationCAM: Any
DeepFeatureFactorization: Any
EigenCAM: Any
EigenGradCAM: Any
FEM: Any
FinerCAM: Any
FullGrad: Any
GradCAM: Any
GradCAMElementWise: Any
GradCAMPlusPlus: Any
HiResCAM: Any
KPCA_CAM: Any
LayerCAM: Any
RandomCAM: Any
RefineCAM: Any
SESS: Any
ScoreCAM: Any
SegEigenCAM: Any
ShapleyCAM: Any
XGradCAM: Any
globals().update(CAMS)

__all__ = [  # the CAMs are those of the installed library
    *CAMS,
    "CAMS",
    "ChannelsLast",
    "Options",
    "Redistributed",
    "TargetScore",
    "TokenReshape",
    "detector_box",
    "patch",
    "patched",
    "redistributing",
    "reshape_transform_for",
    "unpatch",
]
