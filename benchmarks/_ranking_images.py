"""Images to train on, moved or cut, so that a few stand for more."""

import hashlib
import itertools

from torch import Tensor
from torchvision.transforms import v2

from usu_captum import ImageSpace
from usu_captum.ranking import ImageSource, Sample
from usu_captum.ranking._images import UNLABELLED, to_space

SHARES = (0.25, 0.8)
"""Least and largest area of a cut, as a share of the photograph's."""


class MovedImages:
    """Every image of a source at all shifts of up to some pixels, and mirrored.

    Args:
        source: The images.
        reach: Largest shift along each axis; what leaves at one border enters at the other.
        mirror: Mirrored left to right too.
    """

    def __init__(self, source: ImageSource, reach: int, *, mirror: bool) -> None:
        self.source = source
        steps = range(-reach, reach + 1)
        self.moves = list(itertools.product(steps, steps, (False, True)[: 1 + mirror]))

    def __len__(self) -> int:
        return len(self.source) * len(self.moves)

    def __getitem__(self, index: int) -> Sample:
        image, label = self.source[index % len(self.source)]
        down, right, mirrored = self.moves[index // len(self.source)]
        moved = image.roll((down, right), (1, 2))
        return Sample(moved.flip(2) if mirrored else moved, label)

    def fingerprint(self) -> str:
        """Return a digest of the source and the moves."""
        digest = hashlib.sha256(f"{self.source.fingerprint()} {self.moves}".encode())
        return digest.hexdigest()


class Crops:
    """Random square cuts of photographs, half of them mirrored, in a classifier's space.

    Args:
        pixels: uint8 (N, 3, H, W).
        side: Of the images that are made.
        space: Where they live.
    """

    def __init__(self, pixels: Tensor, side: int, space: ImageSpace) -> None:
        self.pixels, self.side, self.space = pixels, side, space
        cut = v2.RandomResizedCrop(side, scale=SHARES, ratio=(1, 1))
        self.cut = v2.Compose([cut, v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Sample:
        return Sample(to_space(self.cut(self.pixels[index]), self.space), UNLABELLED)

    def fingerprint(self) -> str:
        """Return a digest of the pixels and of how they are cut."""
        digest = hashlib.sha256(self.pixels.numpy().tobytes())
        digest.update(f"{self.side} {SHARES}".encode())
        return digest.hexdigest()
