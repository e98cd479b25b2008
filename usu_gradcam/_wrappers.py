"""What replaces methods of pytorch-grad-cam: themselves, unless a patch is in force."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

import pytorch_grad_cam
from pytorch_grad_cam import FullGrad
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.feature_factorization.deep_feature_factorization import (
    DeepFeatureFactorization,
)
from torch import Tensor

from usu_gradcam import _maps
from usu_gradcam._arrays import Array
from usu_gradcam._calls import guarded
from usu_gradcam._context import FRAME, Frame, assigned, shared_scores, sharing_scores
from usu_gradcam._factorization import factorize
from usu_gradcam._guard import untouched
from usu_gradcam._meta import META_METHODS, explain
from usu_gradcam._name_bound import Wrapper, in_force
from usu_gradcam._targets import check_targets

Maker = Callable[[Wrapper], Wrapper]


def places() -> list[tuple[Any, str, Maker]]:
    """Return what is replaced: owner, attribute, and what makes its replacement."""
    found: list[tuple[Any, str, Maker]] = [
        (BaseCAM, "forward", _forward),
        (BaseCAM, "compute_cam_per_layer", _compute),
        (BaseCAM, "aggregate_multi_layers", _aggregate),
        (BaseCAM, "forward_augmentation_smoothing", _smooth),
        (FullGrad, "compute_cam_per_layer", _compute),
        (FullGrad, "aggregate_multi_layers", _aggregate),
        (DeepFeatureFactorization, "__call__", _factorize),
    ]
    installed = [getattr(pytorch_grad_cam, name, None) for name in META_METHODS]
    return found + [(method, "forward", _meta) for method in installed if method is not None]


def _forward(original: Wrapper) -> Wrapper:
    @wraps(original)
    def forward(self: Any, input_tensor: Any, targets: Any, eigen_smooth: bool = False) -> Any:
        options = in_force(self)
        if options is None:
            return original(self, input_tensor, targets, eigen_smooth)
        check_targets(targets, input_tensor)

        def run(images: Tensor) -> Array:
            shared = sharing_scores() if shared_scores() is None else nullcontext()
            with shared, assigned(FRAME, Frame(self, options, images, targets)):
                result: Array = original(self, images, targets, eigen_smooth)
                return result

        return guarded([self], run, input_tensor, targets)

    return forward


def _compute(original: Wrapper) -> Wrapper:
    @wraps(original)
    def compute_cam_per_layer(
        self: Any, input_tensor: Any, targets: Any, eigen_smooth: bool
    ) -> Any:
        options = in_force(self)
        if options is None:
            return original(self, input_tensor, targets, eigen_smooth)
        with assigned(FRAME, None):
            return _maps.compute_cam_per_layer(self, options, input_tensor, targets, eigen_smooth)

    return compute_cam_per_layer


def _aggregate(original: Wrapper) -> Wrapper:
    @wraps(original)
    def aggregate_multi_layers(self: Any, cam_per_target_layer: Any) -> Any:
        options = in_force(self)
        if options is None:
            return original(self, cam_per_target_layer)
        return _maps.aggregate_multi_layers(
            self, options, original.__get__(self), cam_per_target_layer
        )

    return aggregate_multi_layers


def _smooth(original: Wrapper) -> Wrapper:
    @wraps(original)
    def forward_augmentation_smoothing(
        self: Any, input_tensor: Any, targets: Any, eigen_smooth: bool = False
    ) -> Any:
        options = in_force(self)
        # Coarse maps cannot be had from a class that makes fine ones in its own way.
        own_way = not getattr(type(self).compute_cam_per_layer, "_usu_gradcam", False)
        if options is None or options.follows_library or own_way:
            return original(self, input_tensor, targets, eigen_smooth)
        check_targets(targets, input_tensor)
        return _maps.forward_augmentation_smoothing(
            self, options, input_tensor, targets, eigen_smooth
        )

    return forward_augmentation_smoothing


def _factorize(original: Wrapper) -> Wrapper:
    @wraps(original)
    def __call__(self: Any, input_tensor: Any, n_components: int = 16) -> Any:  # noqa: N807
        options = in_force(self)
        if options is None:
            return original(self, input_tensor, n_components)
        with untouched(self.model):
            return factorize(self, options, input_tensor, n_components)

    return __call__


def _meta(original: Wrapper) -> Wrapper:
    @wraps(original)
    def forward(
        self: Any, input_tensor: Any, targets: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        options = in_force(self)
        if options is None:
            return original(self, input_tensor, targets, *args, **kwargs)

        def run(images: Tensor) -> Array:
            result: Array = original(self, images, targets, *args, **kwargs)
            return result

        return explain(self, options, run, input_tensor, targets)

    return forward
