"""Deep Feature Factorization: several concept maps per image."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam.feature_factorization import deep_feature_factorization as library
from torch import Tensor, nn

from usu_core import AnyUpsampler, Interpolation
from usu_core._devices import device_of
from usu_gradcam._arrays import as_array
from usu_gradcam._guard import evaluating, release, untouched
from usu_gradcam._maps import upsample
from usu_gradcam._model import Evaluated, adapt, detached
from usu_gradcam._options import Options, Scaling
from usu_gradcam._reshape import reshape_transform_for
from usu_gradcam._targets import check_targets, predicted_targets

Result = tuple[Any, ...]


class DeepFeatureFactorization(library.DeepFeatureFactorization):
    """pytorch-grad-cam's ``DeepFeatureFactorization``, redistributed.

    Concepts know no target. All maps of an image are redistributed by the same scores, those of
    its highest class unless told otherwise, so that within a cell the strongest concept stays the
    strongest before maps are scaled.

    Args:
        model: As in the library.
        target_layer: As in the library.
        reshape_transform: As in :class:`Redistributed`.
        computation_on_concepts: As in the library.
        upsampler: As in :class:`Redistributed`.
        scaling: As in :class:`Redistributed`; each concept is scaled on its own.
        raw: As in :class:`Redistributed`.
        score_fn: As in :class:`Redistributed`.
        box: As in :class:`Redistributed`.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        computation_on_concepts: Callable[[Tensor], Tensor] | None = None,
        *,
        upsampler: str | AnyUpsampler | None = "usu",
        scaling: Scaling | None = None,
        raw: bool = False,
        score_fn: Callable[[Tensor], Tensor] | None = None,
        box: Sequence[float] | None = None,
    ) -> None:
        self.redistribution = Options.make(upsampler, scaling, raw, box)
        adapted = adapt(model, None)
        self._score_fn = score_fn
        if score_fn is not None:
            adapt(model, score_fn)  # checks it
        if reshape_transform is None:
            reshape_transform = reshape_transform_for(model)
        super().__init__(adapted, target_layer, reshape_transform, computation_on_concepts)
        self.activations_and_grads.model = Evaluated(adapted)

    def __call__(
        self, input_tensor: Tensor, n_components: int = 16, targets: list[Any] | None = None
    ) -> Result:
        """Factorize the activations of a batch of images.

        Args:
            input_tensor: (B, C, H, W).
            n_components: As in the library.
            targets: What to score by, one callable per image; ``None`` for the highest class.

        Returns:
            Concepts (channels, K), one float32 array (K, H, W) per image, and the results of
            ``computation_on_concepts`` if there is such; as in the library.
        """
        check_targets(targets, input_tensor)
        with untouched(self.model):
            return factorize(
                self, self.redistribution, input_tensor, n_components, targets, self._score_fn
            )

    def __enter__(self) -> "DeepFeatureFactorization":
        return self

    def __exit__(self, *exception: object) -> None:
        release(self.activations_and_grads)

    def __del__(self) -> None:
        if hasattr(self, "activations_and_grads"):
            release(self.activations_and_grads)


def factorize(
    owner: Any,
    options: Options,
    images: Tensor,
    n_components: int,
    targets: Sequence[Any] | None = None,
    score_fn: Callable[[Tensor], Tensor] | None = None,
) -> Result:
    """Do what the library's ``__call__`` does, but for the upsampling."""
    device = device_of([owner.model], images.device)
    images = images.to(device)
    with torch.no_grad(), evaluating(owner.model):
        outputs = detached(owner.activations_and_grads(images))
        activations = as_array(owner.activations_and_grads.activations[0])
    concepts, coarse = library.dff(activations, n_components=n_components)
    size = (images.shape[-1], images.shape[-2])
    if options.resizes_like_library(2):
        maps = [library.scale_cam_image(one, size) for one in coarse]
    else:
        if options.follows_library:
            coarse = np.stack([library.scale_cam_image(one) for one in coarse])
        needs_targets = not isinstance(options.upsampler, Interpolation) and score_fn is None
        if targets is None and needs_targets:
            targets = predicted_targets(outputs)
        (fine,) = upsample(owner.model, options, [coarse], images, targets or (), score_fn)
        plain = options.raw or options.follows_library
        maps = [one if plain else options.scale(one) for one in fine]
    if owner.computation_on_concepts is None:
        return concepts, maps
    with torch.no_grad():
        vectors = torch.from_numpy(np.asarray(concepts, np.float32).T).to(device)
        return concepts, maps, as_array(owner.computation_on_concepts(vectors))
