"""FullGrad: one map from the input gradient and the biases of all layers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pytorch_grad_cam.utils.image import scale_accross_batch_and_channels, scale_cam_image
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch import Tensor

from usu_gradcam._arrays import Array, as_array
from usu_gradcam._recording import records


def coarse_maps(cam: Any, images: Tensor) -> list[Array]:
    """Return the input term (B, C, H, W) and one map (B, 1, h, w) per layer with biases.

    The method scales every channel to [0, 1] and adds them up. The library resizes each channel on
    the way; resizing their sum instead gives the same with a few hundredth of the work.

    Raises:
        ValueError: If a layer with biases took no part in the forward and backward pass, or more
            than one.
    """
    gradients, count = records(cam), len(cam.activations_and_grads.gradients)
    if images.grad is None or count != len(gradients) or any(g is None for _, g in gradients):
        raise ValueError(
            f"model must use every convolution and batch norm with a bias once, got {count} "
            f"gradients for {len(gradients)} layers. Try GradCAM."
        )
    term = np.abs(as_array(images.grad) * as_array(images))
    size = cam.get_target_width_height(images)
    maps = [scale_accross_batch_and_channels(term, size)]
    for bias, (_, gradient) in zip(cam.bias_data, gradients, strict=True):
        channels = np.abs(bias[None, :, None, None] * as_array(gradient))
        flat = channels.reshape(-1, *channels.shape[2:])
        unit = scale_cam_image(flat).reshape(channels.shape)
        maps.append(unit.sum(axis=1, keepdims=True))
    return maps


def fine_maps(
    coarse: Sequence[Array],
    images: Tensor,
    eigen_smooth: bool,
    spread: Callable[[Sequence[Array]], list[Array]],
) -> list[Array]:
    """Upsample the layers' maps and add everything up, to a list of one map (B, 1, H, W).

    The input term has the size of the image and is left alone.
    """
    stack = np.concatenate([coarse[0], *spread(coarse[1:])], axis=1)
    if not eigen_smooth:
        return [stack.sum(axis=1, keepdims=True)]
    height, width = images.shape[2:]
    # As the library does, to save memory: the decomposition sees an eighth of the resolution.
    small = scale_accross_batch_and_channels(stack, (width // 8, height // 8))
    projected = scale_cam_image(get_2d_projection(small))
    return spread([projected[:, None]])
