"""The images that deleted pixels are taken from."""

from torch import Tensor

from usu_captum._image_space import BASELINES, ImageSpace, named_baseline
from usu_core._checks import check_choice, check_float_tensor
from usu_core.metrics import Blur
from usu_core.scoring import fill_images

REFERENCES = (*BASELINES, "wide-blur")


def reference_images(
    images: Tensor, reference: str | Tensor, space: ImageSpace | None = None
) -> Tensor:
    """Return the reference of each image.

    Args:
        images: (B, C, H, W).
        reference: ``"black"``, ``"mean"`` (the data's mean colour), ``"blur"`` (a Gaussian of a
            twentieth of the shorter side), ``"wide-blur"`` (the published one: 37 x 37 pixels of
            224 and as wide a Gaussian, nearly a box), or a tensor that broadcasts to the images.
            Both blurs reflect at the border.
        space: Where the images live; needed for ``"black"`` and ``"mean"``.

    Returns:
        (B, C, H, W), without gradient.

    Raises:
        ValueError: If the name is unknown, needs a space and there is none, or the tensor does
            not broadcast.
        TypeError: If the images are not a floating-point tensor.

    Example:
        >>> reference_images(torch.rand(2, 1, 3, 3), torch.zeros(1)).sum()
        tensor(0.)
        >>> reference_images(torch.ones(1, 1, 1, 2), "blur")
        tensor([[[[1., 1.]]]])
    """
    check_float_tensor("images", images)
    images = images.detach()
    if isinstance(reference, Tensor):
        return fill_images(images, reference.detach())
    check_choice("reference", reference, REFERENCES)
    if reference == "wide-blur":
        return _wide_blur(images)
    if reference != "blur" and space is None:
        raise ValueError(
            f"reference={reference!r} needs to know where the images live. Try "
            "space=usu_captum.IMAGENET, or pass a tensor."
        )
    return named_baseline(images, reference, space)


def _wide_blur(images: Tensor) -> Tensor:
    sigma = 37 / 224 * min(images.shape[-2:])
    radius = round(sigma / 2)
    return Blur(sigma, radius)(images) if radius else images
