"""Images from memory, and from any data set."""

import hashlib
import operator
import struct
from typing import Any

import numpy as np
import torch
from PIL.Image import DecompressionBombError
from torch import Tensor

from usu_captum._image_space import ImageSpace
from usu_captum.ranking._images import UNLABELLED, Sample, UnreadableImageError, to_space
from usu_captum.ranking._randomness import seeded

# What decoders raise on damaged bytes; a ValueError is more likely a transform's.
_UNREADABLE = (OSError, SyntaxError, RuntimeError, DecompressionBombError, struct.error)


class ArrayImages:
    """Images in memory: uint8 pixels, brought into the model's space one by one.

    Args:
        images: uint8 (N, H, W, C) or (N, H, W).
        labels: (N,) integers, or ``None``.
        input_shape: (C, H, W) the model takes; the images must have it.
        space: How raw pixels in [0, 1] become the model's inputs.

    Raises:
        TypeError: If the images are not uint8, or the labels no integers.
        ValueError: If there are none, or shapes do not fit.

    Example:
        >>> white = np.full((5, 8, 8, 3), 255, dtype=np.uint8)
        >>> float(ArrayImages(white, None, (3, 8, 8), ImageSpace((0.5,), (0.5,)))[0].image.max())
        1.0
    """

    def __init__(
        self,
        images: Any,
        labels: Any,
        input_shape: tuple[int, int, int],
        space: ImageSpace,
    ) -> None:
        pixels = np.asarray(images)
        if pixels.dtype != np.uint8:
            raise TypeError(f"images must be uint8, got {pixels.dtype}.")
        pixels = pixels[..., None] if pixels.ndim == 3 else pixels
        channels, height, width = input_shape
        if pixels.shape[1:] != (height, width, channels) or len(pixels) == 0:
            raise ValueError(
                f"images must have shape (N, {height}, {width}, {channels}), as the network has, "
                f"got {np.asarray(images).shape}."
            )
        self.images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
        given = None if labels is None else np.asarray(labels)
        if given is not None and not np.issubdtype(given.dtype, np.integer):
            raise TypeError(f"labels must be integers, got {given.dtype}. Try .astype(int).")
        self.labels = None if given is None else given.astype(np.int64)
        if self.labels is not None and self.labels.shape != (len(pixels),):
            raise ValueError(f"labels must have shape ({len(pixels)},), got {self.labels.shape}.")
        self.space = space

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        label = UNLABELLED if self.labels is None else int(self.labels[index])
        return Sample(to_space(self.images[index], self.space), label)

    def fingerprint(self) -> str:
        """Return a digest of all pixels and labels."""
        digest = hashlib.sha256(self.images.contiguous().numpy().tobytes())
        digest.update(b"" if self.labels is None else self.labels.tobytes())
        return digest.hexdigest()


class DatasetImages:
    """Any map-style data set of images (C, H, W) in the model's space, or (image, label) pairs.

    Args:
        dataset: Anything with a length and items.
        input_shape: (C, H, W) each image must have.

    Random transforms are repeatable: training seeds torch, NumPy and Python for each item. An
    image with NaN or infinite values counts as one that cannot be read.

    Raises:
        ValueError: If it is empty, or an image is of another shape.
        TypeError: If an image is no floating-point tensor, or a label no integer.

    Example:
        >>> len(DatasetImages(torch.utils.data.TensorDataset(torch.rand(5, 1, 8, 8)), (1, 8, 8)))
        5
    """

    def __init__(self, dataset: Any, input_shape: tuple[int, int, int]) -> None:
        if len(dataset) == 0:
            raise ValueError("dataset must hold images, got none.")
        self.dataset, self.input_shape = dataset, input_shape

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        try:
            item = self.dataset[index]
        except _UNREADABLE as error:
            raise UnreadableImageError(f"item {index}: {' '.join(str(error).split())}") from error
        parts = item if isinstance(item, tuple | list) else (item,)
        image = parts[0]
        if not isinstance(image, Tensor) or tuple(image.shape) != tuple(self.input_shape):
            what = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(
                f"dataset must give tensors of shape {tuple(self.input_shape)}, got {what} for "
                f"item {index}. Try a transform."
            )
        if not image.is_floating_point():
            raise TypeError(
                f"dataset must give images in the model's space, got {image.dtype} for item "
                f"{index}. Try a transform: image / 255, and the model's mean and deviation."
            )
        wrong = int((~image.isfinite()).sum())
        if wrong:
            raise UnreadableImageError(f"item {index}: {wrong} NaN or infinite values")
        try:
            label = operator.index(parts[1]) if len(parts) > 1 else UNLABELLED
        except TypeError:
            shown = tuple(parts[1].shape) if isinstance(parts[1], Tensor) else repr(parts[1])
            raise TypeError(
                f"dataset must give one integer as the label, got {shown} for item {index}. Try "
                "the number of the class, or images alone."
            ) from None
        return Sample(image.float(), label)

    def fingerprint(self) -> str:
        """Return a digest of the length and of items spread over the data set."""
        digest = hashlib.sha256(str(len(self)).encode())
        for index in sorted({int(i) for i in np.linspace(0, len(self) - 1, 16)}):
            try:
                with seeded(index):  # of images that are changed at random, the same each time
                    image, label = self[index]
            except UnreadableImageError as error:
                digest.update(str(error).encode())
                continue
            digest.update(image.contiguous().numpy().tobytes() + str(label).encode())
        return digest.hexdigest()
