"""From a CAM's coarse maps to fine ones: the step every class of this package replaces."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam import FullGrad
from pytorch_grad_cam.utils.image import scale_cam_image
from torch import Tensor, nn

from usu_core import Interpolation
from usu_core._tokens import CHANNELS_FIRST, has_proportions, norm_channels
from usu_gradcam import _fullgrad
from usu_gradcam._arrays import Array, as_array
from usu_gradcam._context import collected, collecting, shared_scores, suspended
from usu_gradcam._guard import evaluating, muted
from usu_gradcam._model import adapt
from usu_gradcam._options import Options
from usu_gradcam._recording import records
from usu_gradcam._reshape import TokenReshape
from usu_gradcam._targets import TargetScore, predicted_targets


def compute_cam_per_layer(
    cam: Any, options: Options, images: Tensor, targets: Sequence[Any], eigen_smooth: bool
) -> list[Array]:
    """Do what ``BaseCAM.compute_cam_per_layer`` does, but for the upsampling.

    Returns:
        One fine map (B, 1, *pixels) per layer; FullGrad's single sum; or coarse maps
        (B, 1, *cells), while they are collected to be averaged.
    """
    full = isinstance(cam, FullGrad)
    coarse = _fullgrad.coarse_maps(cam, images) if full else _coarse_maps(
        cam, images, targets, eigen_smooth, covers_image=options.box is None
    )  # fmt: skip
    waiting = collected()
    if waiting is not None:
        waiting.append(coarse)
        return coarse
    return _fine_maps(cam, options, coarse, images, targets, eigen_smooth)


def aggregate_multi_layers(
    cam: Any, options: Options, library: Callable[[Any], Array], maps: list[Array]
) -> Array:
    """Do what ``BaseCAM.aggregate_multi_layers`` does, with the scaling asked for.

    Layers differ in scale by orders of magnitude, so each is scaled before their mean is taken.
    Raw maps are averaged (FullGrad: added up) as they are.
    """
    if collected() is not None:
        return maps  # type: ignore[return-value] # dropped: the collector has the coarse maps
    if options.follows_library:
        single = isinstance(cam, FullGrad) and isinstance(maps, list)
        return library(maps[0] if single else maps)
    if isinstance(cam, FullGrad):
        total = np.asarray(np.sum(np.concatenate(maps, axis=1), axis=1, dtype=np.float32))
        return total if options.raw else options.scale(total)
    if options.raw:
        return np.asarray(np.mean(np.concatenate(maps, axis=1), axis=1, dtype=np.float32))
    layers = [options.scale(one[:, 0]) for one in maps]
    return layers[0] if len(layers) == 1 else options.scale(np.mean(layers, axis=0))


def forward_augmentation_smoothing(
    cam: Any, options: Options, images: Tensor, targets: Sequence[Any] | None, eigen_smooth: bool
) -> Array:
    """Average the coarse maps of augmented images, then upsample once, over the original.

    Redistribution is linear in the coarse map where its weights are the same, so this equals the
    mean of one redistribution per augmentation, for one scoring instead of six.

    Raises:
        ValueError: If an augmentation changes the size of the map, or flips it about another place
            than the box's middle.
    """
    options.check_smoothing(cam.tta_transforms, images.shape[2:])
    images = images.to(cam.device)
    if targets is None:
        targets = _predict(cam, images)
    sums: list[Array] = []
    count = 0
    for transform in cam.tta_transforms:
        with collecting() as waiting:
            cam.forward(transform.augment_image(images), targets, eigen_smooth)
        coarse = [
            transform.deaugment_mask(torch.from_numpy(np.ascontiguousarray(one))).numpy()
            for one in waiting[-1]
        ]
        if sums and [one.shape for one in sums] != [one.shape for one in coarse]:
            raise ValueError(
                "tta_transforms must keep the size of the coarse map, got "
                f"{[one.shape for one in sums]} and {[one.shape for one in coarse]}. "
                "Try flips and brightness only."
            )
        sums = [a + b for a, b in zip(sums, coarse, strict=True)] if sums else coarse
        count += 1
    means = [one / count for one in sums]
    fine = _fine_maps(cam, options, means, images, targets, eigen_smooth)
    result: Array = cam.aggregate_multi_layers(fine)
    return result


def upsample(
    model: Any,
    options: Options,
    layers: Sequence[Array],
    images: Tensor,
    targets: Sequence[Any],
    score: Any = None,
) -> list[Array]:
    """Upsample coarse maps (B, K, *cells) of the same images, scoring the images once.

    Args:
        model: The model to score; all CAMs on it are silent meanwhile.
        options: What to do.
        layers: Signed, float32 or float64.
        images: What the model sees, (B, C, *pixels).
        targets: One per image.
        score: Instead of the targets.

    Returns:
        Float32 maps (B, K, *pixels), density or mass as the upsampler says.
    """
    upsampler: Any = options.upsampler or Interpolation("bilinear")
    images = images.detach()
    wide = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
    arguments: dict[str, Any] = {"image": wide}
    # A patched CAM of the library holds the bare model, which wants images of its own precision.
    run = adapt(model, None) if isinstance(model, nn.Module) else model
    score = TargetScore(run, targets) if score is None else score
    fine = []
    with muted(model), evaluating(model), suspended():
        if callable(getattr(upsampler, "score_map", None)):
            shared = shared_scores()
            values = None if shared is None else shared.get(images, targets)
            if values is None:
                values = upsampler.score_map(wide, score).values
                if shared is not None:
                    shared.put(images, targets, values)
            arguments["score_map"] = values
        else:
            arguments["score"] = score
        for one in layers:
            cells = torch.from_numpy(np.ascontiguousarray(one, dtype=np.float32)).to(wide.device)
            grid = options.grid(cells.shape[2:], wide.shape[2:])
            result = upsampler(cells, grid=grid, **arguments)
            fine.append(result.detach().to("cpu", torch.float32).numpy())
    return fine


def _fine_maps(
    cam: Any,
    options: Options,
    coarse: list[Array],
    images: Tensor,
    targets: Sequence[Any],
    eigen_smooth: bool,
) -> list[Array]:
    def spread(layers: Sequence[Array]) -> list[Array]:
        return upsample(cam.model, options, layers, images, targets)

    if isinstance(cam, FullGrad):
        return _fullgrad.fine_maps(coarse, images, eigen_smooth, spread)
    if options.raw:
        return spread(coarse)
    # The library's CAMs are positive maps by definition. Most upsamplers treat signs separately,
    # so that it does not matter whether negative cells are dropped before or after.
    positive = [np.maximum(one, 0) for one in coarse]
    if options.resizes_like_library(images.dim() - 2):
        size = cam.get_target_width_height(images)
        return [scale_cam_image(one[:, 0], size)[:, None] for one in positive]
    if options.follows_library:
        return spread([scale_cam_image(one[:, 0])[:, None] for one in positive])
    return spread(positive)


def _coarse_maps(
    cam: Any, images: Tensor, targets: Sequence[Any], eigen_smooth: bool, covers_image: bool
) -> list[Array]:
    """Return the raw signed map (B, 1, *cells) of each layer."""
    maps = []
    for i, (activations, gradients) in enumerate(records(cam)):
        _check_recorded(cam, i, activations, gradients, images.dim())
        if covers_image and cam.reshape_transform is None:
            _check_channels_first(cam, i, activations.shape, images.shape)
        if getattr(cam, "detach", True):  # 1.5.4 always detaches
            activations = as_array(activations)
            gradients = None if gradients is None else as_array(gradients)
        layer = cam.target_layers[i]
        one = cam.get_cam_image(images, layer, targets, activations, gradients, eigen_smooth)
        maps.append(np.asarray(one)[:, None])
    return maps


def _check_recorded(cam: Any, index: int, activations: Any, gradients: Any, rank: int) -> None:
    name = type(cam.target_layers[index]).__name__
    if activations is None:
        raise ValueError(
            f"target_layers[{index}] ({name}) must take part in the forward pass, got a layer that "
            "was not called. Try another layer."
        )
    if getattr(cam, "detach", True) and activations.ndim != rank:  # else yet to be reshaped
        raise ValueError(
            f"target_layers[{index}] ({name}) must give a map of the images' rank, {rank}, got "
            f"shape {tuple(activations.shape)}. Try a convolutional layer, or reshape_transform=."
        )
    if not cam.uses_gradients:
        return
    if gradients is None:
        raise ValueError(
            f"target_layers[{index}] ({name}) must have a gradient, got none: the target does not "
            "depend on it, or its parameters and the input need no gradient. Try "
            "input_tensor.requires_grad_(), or a class without gradients such as EigenCAM."
        )
    if isinstance(cam.reshape_transform, TokenReshape) and not gradients.any():
        raise ValueError(
            f"target_layers[{index}] ({name}) must come before the last mixing of tokens, got one "
            "whose patch tokens have no gradient. Try the norm1 (timm) or ln_1 (torchvision) of "
            "the last block."
        )


def _check_channels_first(
    cam: Any, index: int, shape: Sequence[int], images: Sequence[int]
) -> None:
    """Raise if a layer (B, C, *cells) of a transformer looks like (B, *cells, C), or like no map.

    Convolutions keep channels first, and models without layer norms have nothing else.
    """
    layer, pixels = cam.target_layers[index], images[2:]
    channels = norm_channels(cam.model.modules())
    if isinstance(layer, CHANNELS_FIRST) or len(shape) != len(images) or not channels:
        return
    says_last = shape[-1] in channels and shape[1] not in channels
    is_last = says_last and has_proportions(shape[1:-1], pixels, strict=True)
    is_first = any(has_proportions(shape[2:], pixels, strict) for strict in (True, False))
    if is_first and not is_last:
        return
    raise ValueError(
        f"target_layers[{index}] ({type(layer).__name__}) must give a map (images, channels, "
        f"*cells) of the images' proportions, got shape {tuple(shape)} for images of shape "
        f"{tuple(images)}. Try reshape_transform=lambda maps: maps.movedim(-1, 1) if its channels "
        "are last, lambda maps: maps if they are not, or another layer."
    )


def _predict(cam: Any, images: Tensor) -> list[Any]:
    with torch.no_grad(), muted(cam.model), evaluating(cam.model), suspended():
        return predicted_targets(cam.model(images))
