"""Where a detector's feature maps lie in the image it was given."""

from collections.abc import Sequence
from typing import Any

import torch

from usu_core._modes import evaluation_mode


def detector_box(
    model: Any, pixels: Sequence[int], cells: Sequence[int], stride: int
) -> tuple[float, float, float, float]:
    """Return the box, in pixels of the image, that a torchvision detector's feature map covers.

    Detectors resize images and pad them, so that the map of a level reaches beyond the image:
    cell i covers ``stride`` pixels of the resized image, not 1/h of the given one.

    Args:
        model: A torchvision detector; its ``transform`` says how images are resized.
        pixels: Size (H, W) of the image.
        cells: Size (h, w) of the feature map.
        stride: Pixels of the resized image per cell: 64 for the library's ``"pool"`` level of a
            feature pyramid network.

    Returns:
        (top, left, bottom, right), for the ``box`` of a CAM.

    Raises:
        TypeError: If the model has no such transform.
        ValueError: If the map is not one of that stride.

    Example:
        >>> from torchvision.models.detection.transform import GeneralizedRCNNTransform
        >>> model = torch.nn.Module()
        >>> model.transform = GeneralizedRCNNTransform(64, 128, [0.0], [1.0])
        >>> detector_box(model, (32, 40), (1, 2), 64)
        (0.0, 0.0, 32.0, 64.0)
    """
    transform: Any = getattr(model, "transform", None)
    if not hasattr(transform, "batch_images"):
        raise TypeError(
            f"model must be a torchvision detector with a transform, got {type(model).__name__}."
        )
    height, width = (int(size) for size in pixels)
    channels = len(transform.image_mean)
    with evaluation_mode([transform]):  # In training mode it draws a size at random.
        resized, _ = transform([torch.zeros(channels, height, width)])
    padded = tuple(resized.tensors.shape[2:])
    if tuple(-(-size // stride) for size in padded) != tuple(cells):
        raise ValueError(
            f"cells must be those of stride {stride} in the padded image of {padded} pixels, got "
            f"{tuple(cells)}. Try another stride."
        )
    inner = resized.image_sizes[0]
    return (
        0.0,
        0.0,
        cells[0] * stride * height / inner[0],
        cells[1] * stride * width / inner[1],
    )
