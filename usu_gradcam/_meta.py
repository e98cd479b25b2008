"""Methods on top of a CAM class: FinerCAM, RefineCAM and SESS, each from what is installed."""

import inspect
from collections import deque
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
from usu_gradcam._calls import drop_graph
from usu_gradcam._construction import check_layers
from usu_gradcam._context import sharing_scores
from usu_gradcam._guard import release, untouched
from usu_gradcam._options import Options, Scaling
from usu_gradcam._redistributing import merged_signature, redistributing
from usu_gradcam._targets import check_targets, explain_failure

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
    _keeps_mass = False

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
        if raw and not self._keeps_mass:
            raise ValueError(
                f"raw must be False for {type(self).__name__}, which joins maps that are scaled to "
                "[0, 1] before: no mass is left to return. Try raw=True on the base method."
            )
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

    @property
    def _cams(self) -> list[Any]:
        own: Any = self
        return (
            list(own.base_cam_per_layer) if hasattr(own, "base_cam_per_layer") else [own.base_cam]
        )

    def forward(
        self, input_tensor: Tensor, targets: Any = None, *args: Any, **kwargs: Any
    ) -> Array:
        """Explain a batch of images; further arguments are the library's.

        Raises:
            TypeError: If targets are not callables.
            ValueError: If targets do not match the images or the model's output.
        """
        check_targets(targets, input_tensor)
        theirs: Any = super()
        inner = [getattr(cam, "base_cam", cam) for cam in self._cams]
        model = inner[0].model
        layers = [layer for cam in inner for layer in getattr(cam, "target_layers", ())]
        # Moved once: every layer's CAM would make a copy of its own, and score it.
        images = input_tensor.to(inner[0].device)
        sharing = sharing_scores() if hasattr(self, "base_cam_per_layer") else nullcontext()
        last: deque[Any] = deque(maxlen=1)
        with untouched(model, layers, images), sharing:
            handle = model.register_forward_hook(lambda module, given, out: last.append(out))
            try:
                result: Array = theirs.forward(images, targets, *args, **kwargs)
            except (LookupError, AttributeError, TypeError, RuntimeError) as error:
                outputs = last[0] if last else None
                clearer = explain_failure(error, targets, outputs, len(images))
                if clearer is None:
                    raise
                raise clearer from error
            finally:
                handle.remove()
                for cam in inner:
                    if hasattr(cam, "activations_and_grads"):
                        drop_graph(cam)
        if self.redistribution.follows_library or self._keeps_mass:
            return result
        # What the library ends with is a min-max, which a single peak would dominate.
        return self.redistribution.scale(np.asarray(result, np.float32))

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
        for cam in self._cams:
            if hasattr(cam, "activations_and_grads"):
                release(cam.activations_and_grads)
            elif hasattr(cam, "release"):
                cam.release()


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
            "_keeps_mass": name == "FinerCAM",
        }
        ours: Any = type(name, (RedistributedMeta, theirs), body)
        ours.__signature__ = merged_signature(
            theirs, RedistributedMeta, upsampler=body["_upsampler"]
        )
        found[name] = ours
    return found
