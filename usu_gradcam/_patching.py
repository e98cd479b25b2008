"""Redistribution for code that uses pytorch-grad-cam itself.

Methods of the library's base classes are replaced while a patch is in force anywhere, but act only
in the thread or task that asked for it: a context variable decides. The library's resizing helper
is replaced in every module that imported it, for CAMs of others that call it themselves.
"""

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

import pytorch_grad_cam
from pytorch_grad_cam import FullGrad
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.feature_factorization.deep_feature_factorization import (
    DeepFeatureFactorization,
)
from pytorch_grad_cam.utils import image as library_image

from usu_core import AnyUpsampler
from usu_gradcam import _maps
from usu_gradcam._calls import guarded
from usu_gradcam._context import (
    ACTIVE,
    FRAME,
    Frame,
    assigned,
    shared_scores,
    sharing_scores,
)
from usu_gradcam._factorization import factorize
from usu_gradcam._guard import untouched
from usu_gradcam._name_bound import (
    Wrapper,
    in_force,
    make_scale_accross,
    make_scale_cam_image,
    rebind,
)
from usu_gradcam._options import Options, Scaling
from usu_gradcam._targets import check_targets

Maker = Callable[[Wrapper], Wrapper]

_lock = threading.RLock()
_depth = 0
_replaced: list[tuple[Any, str, Any, Any]] = []
_helpers: list[tuple[Any, Any]] = []


def patch(
    upsampler: str | AnyUpsampler | None = "usu",
    *,
    scaling: Scaling | None = None,
    raw: bool = False,
    box: Sequence[float] | None = None,
) -> None:
    """Make pytorch-grad-cam's own classes redistribute, until :func:`unpatch`.

    Existing objects, and subclasses of others, follow too. Our own classes keep their options.
    Only the calling thread (or asynchronous task) is affected. Calls nest.

    Args:
        upsampler: As in :class:`Redistributed`.
        scaling: As in :class:`Redistributed`.
        raw: As in :class:`Redistributed`.
        box: As in :class:`Redistributed`.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown, or options exclude each other.

    Example:
        >>> patch("usu")
        >>> unpatch()
    """
    options = Options.make(upsampler, scaling, raw, box)
    _install()
    ACTIVE.set((*ACTIVE.get(), options))


def unpatch() -> None:
    """Undo the last :func:`patch` of this thread.

    Raises:
        RuntimeError: If there is none.
    """
    active = ACTIVE.get()
    if not active:
        raise RuntimeError("unpatch() needs a patch() in the same thread before it, got none.")
    ACTIVE.set(active[:-1])
    _uninstall()


@contextmanager
def patched(
    upsampler: str | AnyUpsampler | None = "usu",
    *,
    scaling: Scaling | None = None,
    raw: bool = False,
    box: Sequence[float] | None = None,
) -> Iterator[None]:
    """Make pytorch-grad-cam's own classes redistribute inside a ``with`` block.

    Args:
        upsampler: As in :class:`Redistributed`.
        scaling: As in :class:`Redistributed`.
        raw: As in :class:`Redistributed`.
        box: As in :class:`Redistributed`.

    Raises:
        TypeError: As in :func:`patch`.
        ValueError: As in :func:`patch`.

    Example:
        >>> with patched("usu"):
        ...     pass
    """
    options = Options.make(upsampler, scaling, raw, box)
    _install()
    try:
        with assigned(ACTIVE, (*ACTIVE.get(), options)):
            yield
    finally:
        _uninstall()


def _forward(original: Wrapper) -> Wrapper:
    @wraps(original)
    def forward(self: Any, input_tensor: Any, targets: Any, eigen_smooth: bool = False) -> Any:
        options = in_force(self)
        if options is None:
            return original(self, input_tensor, targets, eigen_smooth)
        check_targets(targets, input_tensor)
        shared = sharing_scores() if shared_scores() is None else nullcontext()
        with shared, assigned(FRAME, Frame(self, options, input_tensor, targets)):
            return guarded(self, original.__get__(self), input_tensor, targets, eigen_smooth)

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


def _refine(original: Wrapper) -> Wrapper:
    @wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if in_force(self) is None:
            return original(self, *args, **kwargs)
        with sharing_scores():
            return original(self, *args, **kwargs)

    return forward


def _places() -> list[tuple[Any, str, Maker]]:
    places: list[tuple[Any, str, Maker]] = [
        (BaseCAM, "forward", _forward),
        (BaseCAM, "compute_cam_per_layer", _compute),
        (BaseCAM, "aggregate_multi_layers", _aggregate),
        (BaseCAM, "forward_augmentation_smoothing", _smooth),
        (FullGrad, "compute_cam_per_layer", _compute),
        (FullGrad, "aggregate_multi_layers", _aggregate),
        (DeepFeatureFactorization, "__call__", _factorize),
    ]
    if hasattr(pytorch_grad_cam, "RefineCAM"):  # since 1.5.7
        places.append((pytorch_grad_cam.RefineCAM, "forward", _refine))
    return places


def _install() -> None:
    global _depth
    with _lock:
        _depth += 1
        if _depth > 1:
            return
        for owner, name, make in _places():
            original = owner.__dict__[name]
            wrapper: Any = make(original)
            wrapper._usu_gradcam = True
            setattr(owner, name, wrapper)
            _replaced.append((owner, name, original, wrapper))
        for name, make in (
            ("scale_cam_image", make_scale_cam_image),
            ("scale_accross_batch_and_channels", make_scale_accross),
        ):
            original = getattr(library_image, name)
            wrapper = make(original)
            _helpers.append((original, wrapper))
            rebind(original, wrapper)


def _uninstall() -> None:
    global _depth
    with _lock:
        _depth -= 1
        if _depth:
            return
        while _replaced:
            owner, name, original, wrapper = _replaced.pop()
            if owner.__dict__.get(name) is wrapper:
                setattr(owner, name, original)
            else:
                # Ours does nothing any more without an active patch, so it may stay below.
                warnings.warn(
                    f"{owner.__name__}.{name} was replaced by other code while patched, and is "
                    "left as it is.",
                    RuntimeWarning,
                    stacklevel=3,
                )
        while _helpers:
            original, wrapper = _helpers.pop()
            # Modules imported meanwhile have bound the wrapper.
            rebind(wrapper, original)
