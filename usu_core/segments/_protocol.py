"""What every segmenter does."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from usu_core._checks import check_finite, check_float_tensor


@runtime_checkable
class Segmenter(Protocol):
    """Images in, nested label maps out.

    Implementations are frozen dataclasses, so that they can be compared, printed and written to
    a file.
    """

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Segment a batch.

        Args:
            images: What the model sees, (B, C, *pixels), floating point.

        Returns:
            Label maps (B, *pixels), int64, coarsest first. Labels of each image run from 0
            without gaps, and every segment lies inside one segment of the level before.
        """
        ...


def check_images(images: Tensor) -> None:
    """Raise unless ``images`` is a finite floating-point batch (B, C, *pixels) of rank 1 to 3.

    Nothing in it may be empty, the batch included.
    """
    check_float_tensor("images", images)
    if not 3 <= images.dim() <= 5 or min(images.shape) < 1:
        raise ValueError(
            "images must have shape (batch, channels, 1 to 3 spatial dimensions), none of them 0, "
            f"got {tuple(images.shape)}."
        )
    check_finite("images", images)
