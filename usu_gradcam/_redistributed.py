"""The mixin that turns a CAM of the library into one of ours."""

from collections.abc import Callable, Sequence
from typing import Any

from pytorch_grad_cam import FullGrad
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import RawScoresOutputTarget
from torch import Tensor

from usu_core import AnyUpsampler
from usu_gradcam import _maps
from usu_gradcam._arrays import Array
from usu_gradcam._calls import guarded
from usu_gradcam._construction import Construction
from usu_gradcam._guard import evaluating, release
from usu_gradcam._model import Evaluated, adapt, is_half
from usu_gradcam._options import Options, Scaling
from usu_gradcam._reshape import TokenReshape, reshape_transform_for
from usu_gradcam._targets import check_targets


class Redistributed(BaseCAM):
    """A CAM of pytorch-grad-cam whose coarse map is redistributed instead of resized.

    Everything before the upsampling is the library's, and so are the arguments; these are new:

    Args:
        model: As in the library. Its mode and gradients are restored after each call.
        target_layers: As in the library.
        reshape_transform: As in the library; ``None`` reads it from timm and torchvision vision
            and Swin transformers, also inside a wrapper.
        *args: Further arguments of the library's class, and the three above if a class of another
            package has other names for them.
        upsampler: A name such as ``"usu"`` (see :func:`usu_core.available`), an object such as
            ``usu_core.USU(...)``, or ``None`` for the library's own result, bit for bit.
        scaling: How maps come into [0, 1]: ``"robust"`` (:func:`usu_core.scale_to_unit`),
            ``"min-max"``, or a function from maps (B, *pixels) to such. By default robust for
            redistributed maps and the library's for interpolated ones.
        raw: Return signed density or mass, as the upsampler says, from the raw coarse map: no
            ReLU, no scaling. Not for ``show_cam_on_image`` and metrics that need [0, 1].
        score_fn: From images (N, C, *pixels) to (N,): what is explained, in place of the model's
            output and its targets. For models that return dictionaries or tuples.
        box: Where in the image the coarse grid lies, in pixels: all lower corners, then all upper
            ones. For models that pad or crop inside; see :func:`detector_box`.
        **kwargs: Further arguments of the library's class.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an option is unknown, or options exclude each other.
    """

    redistribution: Options
    reshape_transform: Callable[[Tensor], Tensor] | None

    def __init__(
        self,
        *args: Any,
        upsampler: str | AnyUpsampler | None = "usu",
        scaling: Scaling | None = None,
        raw: bool = False,
        score_fn: Callable[[Tensor], Tensor] | None = None,
        box: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.redistribution = Options.make(upsampler, scaling, raw, box)
        self._has_own_way = _has_own_way(type(self))
        if self._has_own_way and not self.redistribution.resizes_like_library(2):
            raise ValueError(
                f"upsampler must be None or 'bilinear' and no more for {type(self).__name__}, "
                f"which makes fine maps in its own way, got {self.redistribution}. Try "
                "usu_gradcam.patched() around the class itself."
            )
        given = Construction.bind(super().__init__, args, kwargs)
        model, adapted = given.model, adapt(given.model, score_fn)
        given.check_layers(may_be_empty=isinstance(self, FullGrad))
        reshape = reshape_transform_for(model) if given.reshape_transform is None else None
        given.fill(adapted, reshape)
        with evaluating(model):
            super().__init__(*given.bound.args, **given.bound.kwargs)
        self._targets_are_fixed = score_fn is not None
        self.activations_and_grads.model = Evaluated(adapted)
        if self.reshape_transform is None:  # Another package's class may have no argument for it.
            self._lay_out(reshape)
        self._own_reshape = reshape is not None and self.reshape_transform is reshape

    def __call__(
        self,
        input_tensor: Tensor,
        targets: list[Any] | None = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
    ) -> Array:
        """Explain a batch of images.

        Args:
            input_tensor: (B, C, H, W), or (B, C, D, H, W) for models of volumes.
            targets: One callable per image, or ``None`` for each image's highest class.
            aug_smooth: Average the coarse maps of six flipped and brightened copies; not for a
                ``box`` that is off the middle of the image from left to right.
            eigen_smooth: As in the library.

        Returns:
            Float32 maps (B, *pixels): in [0, 1], or density or mass with ``raw=True``.

        Raises:
            TypeError: If targets are not callables, or the model's output is no list or tensor.
            ValueError: If targets do not match the images or the model's output, or a layer has
                no gradient.
        """
        if self._targets_are_fixed:
            if targets is not None:
                raise ValueError(
                    "targets must be None with score_fn=, which already says what is explained, "
                    f"got {len(targets)}."
                )
            targets = [RawScoresOutputTarget() for _ in input_tensor]
        check_targets(targets, input_tensor)
        result: Array = super().__call__(
            input_tensor, targets, aug_smooth=aug_smooth, eigen_smooth=eigen_smooth
        )
        return result

    def forward(
        self, input_tensor: Tensor, targets: list[Any] | None, eigen_smooth: bool = False
    ) -> Array:
        """Explain a batch of images without augmentation; see :meth:`__call__`."""
        if self._own_reshape and isinstance(self.reshape_transform, TokenReshape):
            # A model of any size lays its tokens out by the image: 14 x 14 are 7 x 28, too.
            model = getattr(self.model, "wrapped", self.model)
            self._lay_out(reshape_transform_for(model, input_tensor))
        library = super().forward
        return guarded(
            [self], lambda own: library(own, targets, eigen_smooth), input_tensor, targets
        )

    def compute_cam_per_layer(
        self, input_tensor: Tensor, targets: list[Any], eigen_smooth: bool
    ) -> list[Array]:
        """Return one fine map (B, 1, *pixels) per layer."""
        # The library makes arrays of what it has recorded, and there are none of half precision.
        half = any(is_half(one) for one in self.activations_and_grads.activations)
        if self._has_own_way or (self.redistribution.upsampler is None and not half):
            result: list[Array] = super().compute_cam_per_layer(input_tensor, targets, eigen_smooth)
            return result
        with evaluating(self.model):  # a meta-method of the library may call this directly
            return _maps.compute_cam_per_layer(
                self, self.redistribution, input_tensor, targets, eigen_smooth
            )

    def aggregate_multi_layers(self, cam_per_target_layer: list[Array]) -> Array:
        """Combine the layers' maps to one (B, *pixels)."""
        return _maps.aggregate_multi_layers(
            self, self.redistribution, super().aggregate_multi_layers, cam_per_target_layer
        )

    def forward_augmentation_smoothing(
        self, input_tensor: Tensor, targets: list[Any] | None, eigen_smooth: bool = False
    ) -> Array:
        """Explain a batch of images with augmentation; see :meth:`__call__`."""
        if self.redistribution.follows_library:
            result: Array = super().forward_augmentation_smoothing(
                input_tensor, targets, eigen_smooth
            )
            return result
        return _maps.forward_augmentation_smoothing(
            self, self.redistribution, input_tensor, targets, eigen_smooth
        )

    def _lay_out(self, reshape: Callable[[Tensor], Tensor] | None) -> None:
        self.reshape_transform = self.activations_and_grads.reshape_transform = reshape

    def __exit__(self, *exception: object) -> None:
        # The library's swallows every IndexError raised inside the block.
        release(self.activations_and_grads)

    def __del__(self) -> None:
        # A constructor that raised leaves nothing to release.
        if hasattr(self, "activations_and_grads"):
            release(self.activations_and_grads)


def _has_own_way(kind: type) -> bool:
    """Whether a class of another package replaces what the library makes fine maps by."""
    names = ("compute_cam_per_layer", "aggregate_multi_layers", "forward_augmentation_smoothing")
    theirs = [base for base in kind.__mro__ if not issubclass(base, Redistributed)]
    makers = [next(base for base in theirs if name in vars(base)) for name in names]
    return any(not maker.__module__.startswith("pytorch_grad_cam.") for maker in makers)
