"""Superpixels of several sizes, nested by construction."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from usu_core._checks import check_count, check_not_negative, check_positive
from usu_core.segments._labels import nest
from usu_core.segments._protocol import check_images

# scikit-image's ten take twice as long and explain as much of the colours' variation.
_ITERATIONS = 5


@dataclass(frozen=True)
class Slic:
    """Segment by SLIC superpixels (scikit-image), one level per size.

    Every level is segmented on its own; then each fine superpixel joins the coarse one it overlaps
    most, so that levels nest and borders follow the finest level.

    Args:
        segments: At most about how many segments per level, coarsest first; textures may give far
            fewer.
        compactness: Weight of position against colour; larger is squarer.
        sigma: Width in pixels of the blur before segmenting.

    Raises:
        ValueError: If the sizes do not grow or a number is not positive.
        TypeError: If the sizes are not a tuple of integers, or a number is none.

    Cost:
        About 20 ms per level and 224 × 224 image on one CPU core, on the CPU whatever the device.
        Deterministic: the same image gives the same segments, alone or in a batch.

    Example:
        >>> images = torch.zeros(1, 3, 64, 64)
        >>> images[..., 32:] = 1.0
        >>> [int(level.max()) + 1 for level in Slic(segments=(4, 16))(images)]
        [4, 16]
    """

    segments: tuple[int, ...] = (16, 64)
    compactness: float = 10.0
    sigma: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not isinstance(self.segments, tuple):
            raise TypeError(f"segments must be a tuple, got {self.segments!r}. Try (36, 64).")
        if not self.segments:
            raise ValueError("segments must hold at least one level, got none.")
        for number in self.segments:
            check_count("segments", number)
        if list(self.segments) != sorted(set(self.segments)):
            raise ValueError(f"segments must grow from level to level, got {self.segments}.")
        check_positive("compactness", self.compactness)
        check_not_negative("sigma", self.sigma)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return one nested label map per level."""
        check_images(images)
        if not 4 <= images.dim() <= 5:
            raise ValueError(
                f"images must have two or three spatial dimensions for Slic, got shape "
                f"{tuple(images.shape)}. Try Quadtree."
            )
        # One transfer for the whole batch; scikit-image works on the CPU, and lets go of Python's
        # lock while it does.
        batch = images.detach().to("cpu", torch.float32)
        with ThreadPoolExecutor() as pool:
            smooth = list(pool.map(self._smooth, batch))
            jobs = [[pool.submit(self._segment, x, n) for n in self.segments] for x in smooth]
        rows = [nest([job.result() for job in levels]) for levels in jobs]
        return tuple(torch.stack(level).to(images.device) for level in zip(*rows, strict=True))

    def _smooth(self, image: Tensor) -> NDArray[np.float32]:
        """Return an image's colours (*pixels, C) in a perceptual space, blurred: all levels' own.

        Without this, scikit-image would convert and blur again for every level.
        """
        from skimage.color import rgb2lab
        from skimage.filters import gaussian

        # Models see normalised values; the conversion wants [0, 1].
        low, high = torch.aminmax(image)
        array = ((image - low) / (high - low).clamp(min=1e-12)).movedim(0, -1).numpy()
        # Compactness is meant for the range of Lab, 0 to 100; other values are taken as 0 to 1.
        colours = rgb2lab(array) if array.shape[-1] == 3 else 100 * array
        blurred = gaussian(colours, sigma=self.sigma, mode="reflect", channel_axis=-1)
        return np.asarray(blurred, dtype=np.float32)

    def _segment(self, colours: NDArray[np.float32], number: int) -> Tensor:
        from skimage.segmentation import slic

        # scikit-image stretches its input to [0, 1], and with it the distances between colours.
        spread = float(np.ptp(colours))
        labels = slic(
            colours,
            n_segments=number,
            compactness=self.compactness / spread if spread > 0 else self.compactness,
            max_num_iter=_ITERATIONS,
            sigma=0,
            start_label=0,
            channel_axis=-1,
            convert2lab=False,
        )
        return torch.from_numpy(labels).long()
