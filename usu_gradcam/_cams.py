"""Our class for every CAM class the installed library has."""

from typing import Any

import pytorch_grad_cam
from pytorch_grad_cam.base_cam import BaseCAM

from usu_gradcam._factorization import DeepFeatureFactorization
from usu_gradcam._meta import meta_methods
from usu_gradcam._redistributing import redistributing


def _cams() -> dict[str, Any]:
    """Build subclasses from what exists, so that older and newer releases of the library work."""
    found = {
        name: redistributing(value)
        for name, value in vars(pytorch_grad_cam).items()
        if isinstance(value, type) and issubclass(value, BaseCAM) and value is not BaseCAM
    }
    return {**found, **meta_methods(), "DeepFeatureFactorization": DeepFeatureFactorization}


CAMS: dict[str, Any] = dict(sorted(_cams().items()))
"""Name to class."""
