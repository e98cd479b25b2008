"""Subclasses of the library's classes, made from the mixins."""

import inspect
from functools import cache
from typing import Any

import pytorch_grad_cam
from pytorch_grad_cam.base_cam import BaseCAM

from usu_gradcam._redistributed import Redistributed
from usu_gradcam._specials import (
    RedistributedAblation,
    RedistributedFullGrad,
    RedistributedShapley,
)

# ShapleyCAM exists since 1.5.5.
_SPECIAL = {
    "ShapleyCAM": RedistributedShapley,
    "AblationCAM": RedistributedAblation,
    "FullGrad": RedistributedFullGrad,
}


@cache
def redistributing(method: type[Any]) -> Any:
    """Return the subclass of a CAM class that redistributes: for CAMs of other packages.

    Args:
        method: A subclass of the library's ``BaseCAM``. Those that override how it makes fine maps
            (``compute_cam_per_layer``, ``aggregate_multi_layers``,
            ``forward_augmentation_smoothing``) are redistributed under :func:`patched` only: here
            they take ``None`` and ``"bilinear"``, and give their own maps.

    Returns:
        A class of the same name with the options of :class:`Redistributed`; ``method`` itself if
        it has them.

    Raises:
        TypeError: If it is no such class.

    Example:
        >>> from pytorch_grad_cam import GradCAM
        >>> redistributing(GradCAM).__name__
        'GradCAM'
    """
    if not isinstance(method, type) or not issubclass(method, BaseCAM):
        raise TypeError(f"method must be a subclass of BaseCAM, got {method!r}.")
    if issubclass(method, Redistributed):
        return method
    mixin: type[Redistributed] = Redistributed
    for name, special in _SPECIAL.items():
        if issubclass(method, getattr(pytorch_grad_cam, name, ())):
            mixin = special
    text = f"pytorch-grad-cam's ``{method.__name__}``, redistributed.\n\n{Redistributed.__doc__}"
    ours = type(method.__name__, (mixin, method), {"__doc__": text, "__module__": "usu_gradcam"})
    ours.__signature__ = merged_signature(method, Redistributed)  # type: ignore[attr-defined]
    return ours


def merged_signature(method: type[Any], mixin: Any, **defaults: Any) -> inspect.Signature:
    """Return the library's parameters followed by ours, for help() and editors."""
    theirs = list(inspect.signature(method).parameters.values())
    options = [
        parameter.replace(default=defaults.get(parameter.name, parameter.default))
        for parameter in inspect.signature(mixin.__init__).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    rest = [p for p in theirs if p.kind is inspect.Parameter.VAR_KEYWORD]
    return inspect.Signature([*(p for p in theirs if p not in rest), *options, *rest])
