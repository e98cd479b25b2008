"""Square blocks that ignore the image: the segmenter that costs nothing."""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from usu_core._cells import CellGrid
from usu_core._checks import check_count
from usu_core.segments._protocol import check_images


@dataclass(frozen=True)
class Quadtree:
    """Divide the image into ever smaller blocks, the same for every image.

    Args:
        blocks: Blocks per axis at each level, coarsest first; each a multiple of the one before.
            An axis shorter than that has one block per pixel.

    Raises:
        ValueError: If there is no level or the numbers do not divide each other.
        TypeError: If the numbers are not a tuple of integers.

    Cost:
        Nothing but the label maps. Any rank, any device.

    Example:
        >>> Quadtree(blocks=(1, 2))(torch.zeros(1, 3, 2, 4))[1]
        tensor([[[0, 0, 1, 1],
                 [2, 2, 3, 3]]])
    """

    blocks: tuple[int, ...] = (4, 8, 16)

    def __post_init__(self) -> None:
        """Check that the levels nest."""
        if not isinstance(self.blocks, tuple):
            raise TypeError(f"blocks must be a tuple, got {self.blocks!r}. Try (4, 8).")
        if not self.blocks:
            raise ValueError("blocks must hold at least one level, got none.")
        for number in self.blocks:
            check_count("blocks", number)
        for coarse, fine in pairwise(self.blocks):
            if fine % coarse:
                raise ValueError(f"blocks must be multiples of each other, got {self.blocks}.")

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return one label map per level."""
        check_images(images)
        pixels = tuple(images.shape[2:])
        levels = []
        for number in self.blocks:
            grid = CellGrid.even([min(number, size) for size in pixels], pixels)
            levels.append(grid.labels(images.device).expand(images.shape[0], *pixels))
        return tuple(levels)
