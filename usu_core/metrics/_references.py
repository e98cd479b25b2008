"""What removed pixels are replaced with."""

import torch
from torch import Tensor

from usu_core._checks import check_choice
from usu_core.scoring import fill_images

REFERENCES = ("black", "mean", "blur")


def reference_images(images: Tensor, reference: str | Tensor, black: Tensor | float) -> Tensor:
    """Return the reference of each image.

    Args:
        images: (B, C, *pixels) in the model's space.
        reference: ``"black"``, ``"mean"`` (each image's mean colour), ``"blur"`` (Gaussian,
            reflected border), or a tensor that broadcasts to ``images``.
        black: Value of black in the model's space: a number, or a tensor such as (C, 1, 1).
            Zero is *not* black after the usual normalisation, hence no default.

    Returns:
        A tensor of the images' shape.
    """
    if isinstance(reference, Tensor):
        return fill_images(images, reference)
    check_choice("reference", reference, REFERENCES)
    if reference == "black":
        return torch.as_tensor(black).to(images).expand_as(images)
    return fill_images(images, reference)
