"""Methods on top of a CAM class: FinerCAM, RefineCAM and SESS, each from what is installed."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytorch_grad_cam
from pytorch_grad_cam.base_cam import BaseCAM
from torch import Tensor, nn

from usu_core import AnyUpsampler
from usu_gradcam._arrays import Array
from usu_gradcam._calls import guarded
from usu_gradcam._construction import check_layers
from usu_gradcam._context import sharing_scores
from usu_gradcam._guard import release
from usu_gradcam._options import Options, Scaling
from usu_gradcam._redistributing import merged_signature, redistributing
from usu_gradcam._targets import check_targets

META_METHODS = ("FinerCAM", "RefineCAM", "SESS")


class RedistributedMeta:
    """A method of pytorch-grad-cam that builds on ``base_method``, redistributed through it.

    Args:
        model: As in the library.
        target_layers: As in the library.
        reshape_transform: As in :class:`Redistributed`.
        base_method: A CAM class; the library's own are replaced by ours of the same name. Other
            callables, such as another meta-method, are called as they are.
        *args: Further arguments of the library's class.
        upsampler: As in :class:`Redistributed`. SESS explains more than a hundred crops of each
            image, and each is scored on its own, so its default is ``"usu-fast"``.
        scaling: As in :class:`Redistributed`.
        raw: As in :class:`Redistributed`, for FinerCAM only: the others multiply or merge maps
            that are scaled to [0, 1] before, and whose mass is lost.
        box: As in :class:`Redistributed`.
        **kwargs: Further arguments of the library's class, or of ``base_method`` where the library
            passes them on.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an option is unknown, or options exclude each other.
    """

    _upsampler: str = "usu"

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        base_method: Any = None,
        *args: Any,
        upsampler: str | AnyUpsampler | None = "default",
        scaling: Scaling | None = None,
        raw: bool = False,
        box: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        chosen = self._upsampler if upsampler == "default" else upsampler
        self.redistribution = Options.make(chosen, scaling, raw, box)
        _check_raw(self, self.redistribution)
        if base_method is None:
            theirs: Any = super().__init__
            base_method = inspect.signature(theirs).parameters["base_method"].default
        check_layers("target_layers", target_layers)
        if "score_fn" in kwargs and isinstance(self, getattr(pytorch_grad_cam, "SESS", ())):
            raise TypeError(
                "score_fn must not be given to SESS, which weighs its crops by their targets. Try "
                "a module that returns (images, classes)."
            )
        options: dict[str, Any] = {"upsampler": chosen, "scaling": scaling, "raw": raw, "box": box}
        base = base_method
        if isinstance(base_method, type) and issubclass(base_method, BaseCAM):
            base = partial(redistributing(base_method), **options)
        elif isinstance(base_method, type) and issubclass(base_method, RedistributedMeta):
            base = partial(base_method, **options)
        super().__init__(model, target_layers, reshape_transform, base, *args, **kwargs)  # type: ignore[call-arg]

    def forward(
        self, input_tensor: Tensor, targets: Any = None, *args: Any, **kwargs: Any
    ) -> Array:
        """Explain a batch of images; further arguments are the library's.

        Raises:
            TypeError: If targets are not callables.
            ValueError: If targets do not match the images or the model's output.
        """
        theirs: Any = super()

        def run(images: Tensor) -> Array:
            result: Array = theirs.forward(images, targets, *args, **kwargs)
            return result

        return explain(self, self.redistribution, run, input_tensor, targets)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: object) -> None:
        # The library's swallows every IndexError raised inside the block.
        self.release()

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        """Remove all hooks from the model."""
        if not (hasattr(self, "base_cam") or hasattr(self, "base_cam_per_layer")):
            return  # A constructor that raised leaves nothing to release.
        for cam in _base_cams(self):
            if hasattr(cam, "activations_and_grads"):
                release(cam.activations_and_grads)
            elif hasattr(cam, "release"):
                cam.release()


def _check_raw(method: Any, options: Options) -> None:
    if options.raw and not _keeps_mass(method):
        raise ValueError(
            f"raw must be False for {type(method).__name__}, which joins maps that are scaled to "
            "[0, 1] before: no mass is left to return. Try raw=True on the base method."
        )


def explain(
    method: Any,
    options: Options,
    library: Callable[[Tensor], Array],
    images: Tensor,
    targets: Sequence[Any] | None,
) -> Array:
    """Run a meta-method's ``forward``, and scale its maps as the options say.

    Raises:
        TypeError: If targets are not callables.
        ValueError: If targets do not match the images or the model's output, or raw maps are asked
            for where there are none.
    """
    _check_raw(method, options)
    check_targets(targets, images)
    cams = [getattr(cam, "base_cam", cam) for cam in _base_cams(method)]
    with sharing_scores() if hasattr(method, "base_cam_per_layer") else nullcontext():
        result = guarded(cams, library, images, targets)
    if options.follows_library or _keeps_mass(method):
        return result
    # What the library ends with is a min-max, which a single peak would dominate.
    return options.scale(np.asarray(result, np.float32))


def _keeps_mass(method: Any) -> bool:
    return isinstance(method, getattr(pytorch_grad_cam, "FinerCAM", ()))


def _base_cams(method: Any) -> list[Any]:
    several = getattr(method, "base_cam_per_layer", None)
    return [method.base_cam] if several is None else list(several)


def meta_methods() -> dict[str, Any]:
    """Return our class for each meta-method the installed library has."""
    found = {}
    for name in META_METHODS:
        theirs = getattr(pytorch_grad_cam, name, None)
        if theirs is None:
            continue
        body: dict[str, Any] = {
            "__doc__": f"pytorch-grad-cam's ``{name}``.\n\n{RedistributedMeta.__doc__}",
            "__module__": "usu_gradcam",
            "_upsampler": "usu-fast" if name == "SESS" else "usu",
        }
        ours: Any = type(name, (RedistributedMeta, theirs), body)
        ours.__signature__ = merged_signature(
            theirs, RedistributedMeta, upsampler=body["_upsampler"]
        )
        found[name] = ours
    return found
