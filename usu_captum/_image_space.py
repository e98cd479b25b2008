"""Where the values of an image live, so that "black" and "mean" have a meaning."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from usu_core._checks import check_choice
from usu_core.scoring import gaussian_blur

BASELINES = ("black", "mean", "blur")


@dataclass(frozen=True)
class ImageSpace:
    """The space of a model's inputs: raw pixels in [0, 1], or ``(raw - mean) / std`` of them.

    Papers write "zero baseline" for black and for the mean colour alike; which one zero is
    depends on the space. Naming the space makes the baselines ``"black"`` and ``"mean"`` exact.

    Args:
        mean: The data's mean per channel, in raw units. One number, by itself or in a tuple, serves
            all channels.
        std: The data's standard deviation per channel, in raw units.
        normalised: Whether inputs are normalised by the two; ``False`` for models that take raw
            pixels and normalise inside.

    Raises:
        ValueError: If the two differ in length, a number is not finite, or a deviation not above 0.

    Example:
        >>> space = ImageSpace(mean=(0.5,), std=(0.25,))
        >>> space.black(torch.ones(1, 3, 2, 2))[0, 0, 0]
        tensor([-2., -2.])
        >>> ImageSpace(0.5, 0.25) == space
        True
        >>> IMAGENET.mean
        (0.485, 0.456, 0.406)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...] = (1.0,)
    normalised: bool = True

    def __post_init__(self) -> None:
        """Freeze sequences into tuples and check them."""
        for name in ("mean", "std"):
            given: Any = getattr(self, name)
            values = (given,) if isinstance(given, int | float) else tuple(given)
            values = tuple(float(value) for value in values)
            if not values or not all(map(math.isfinite, values)):
                raise ValueError(f"{name} must hold finite numbers, got {values}.")
            object.__setattr__(self, name, values)
        if len(self.std) not in (1, len(self.mean)):
            raise ValueError(
                f"std must have 1 or {len(self.mean)} values, as mean has, got {len(self.std)}."
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {self.std}.")

    def black(self, images: Tensor) -> Tensor:
        """Return raw 0 in this space, in the images' shape."""
        return self.from_raw(torch.zeros_like(images))

    def mean_colour(self, images: Tensor) -> Tensor:
        """Return the data's mean colour in this space, in the images' shape."""
        return self.from_raw(self._channels(self.mean, images).expand_as(images))

    def from_raw(self, raw: Tensor) -> Tensor:
        """Bring raw pixels (B, C, *pixels) into this space."""
        if not self.normalised:
            return raw
        return (raw - self._channels(self.mean, raw)) / self._channels(self.std, raw)

    def to_raw(self, images: Tensor) -> Tensor:
        """Bring images (B, C, *pixels) of this space back to raw pixels."""
        if not self.normalised:
            return images
        return images * self._channels(self.std, images) + self._channels(self.mean, images)

    def _channels(self, values: tuple[float, ...], images: Tensor) -> Tensor:
        if len(self.mean) not in (1, images.shape[1]):
            raise ValueError(
                f"space must have the images' {images.shape[1]} channels, got mean {self.mean}."
            )
        each = torch.tensor(values, dtype=torch.float64).to(images)
        return each.view(-1, *[1] * (images.dim() - 2))


IMAGENET = ImageSpace((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Normalised by the usual mean and deviation of ImageNet."""


def named_baseline(images: Tensor, name: str, space: ImageSpace | None) -> Tensor:
    """Return a baseline of each image by name.

    Args:
        images: (B, C, *pixels).
        name: ``"black"``, ``"mean"`` (the data's mean colour), or ``"blur"`` (a Gaussian of a
            twentieth of the shorter side, reflected at the border).
        space: Where the images live; needed for ``"black"`` and ``"mean"``.

    Returns:
        A tensor of the images' shape.

    Raises:
        ValueError: If the name is unknown, it needs a space and there is none, or the inputs are no
            images.

    Example:
        >>> named_baseline(torch.ones(1, 1, 2, 2), "black", ImageSpace((0.5,), (0.5,)))[0, 0]
        tensor([[-1., -1.],
                [-1., -1.]])
    """
    check_choice("baselines", name, BASELINES)
    if images.dim() < (3 if name == "blur" else 2):
        raise ValueError(
            f"baselines={name!r} needs images (B, C, *pixels), got shape {tuple(images.shape)}. "
            "Try a number or a tensor."
        )
    if name == "blur":
        return gaussian_blur(images, min(images.shape[2:]) / 20)
    if space is None:
        raise ValueError(
            f"baselines={name!r} needs to know where the images live. Try "
            "space=usu_captum.IMAGENET, or pass a tensor."
        )
    return space.black(images) if name == "black" else space.mean_colour(images)
