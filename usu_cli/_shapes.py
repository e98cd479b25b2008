"""The synthetic shapes with known ground truth, and the small network that tells them apart.

A grey picture of one circle, triangle or square, so that what a classifier ought to look at is
known pixel by pixel. The set-up follows the paper (section "synthetic data"): 224 x 224, one
centred shape, three balanced classes, and a network of three convolution stages trained with a
penalty on input gradients outside the shape ("right for the right reasons").
"""

from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

CLASSES: Final = ("circle", "triangle", "square")
SIZE: Final = 224
ASSET: Final = "shapes_cnn.safetensors"

# Distance of a polygon's sides from its centre, for an area of one: sqrt(1 / (n tan(pi / n))).
_APOTHEM: Final = {n: (n * np.tan(np.pi / n)) ** -0.5 for n in (3, 4)}


@dataclass(frozen=True)
class Shapes:
    """Drawn pictures, (N, 1, H, W) in [0, 1]; their shapes' masks, (N, H, W); labels, (N,)."""

    images: npt.NDArray[np.float32]
    masks: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int64]


def draw_shapes(labels: npt.ArrayLike, rng: np.random.Generator, *, size: int = SIZE) -> Shapes:
    """Draw one picture per label (an index into ``CLASSES``).

    Area, rotation, both grey levels, background texture and noise are random and drawn alike for
    every class, so that only the outline tells the classes apart.
    """
    kinds = np.asarray(labels, dtype=np.int64)
    count = (len(kinds), 1, 1)
    # The square root of the area in pixels: a circle's diameter is about a third to 0.7 of a side.
    extent = rng.uniform(0.3, 0.6, count) * size
    angle = rng.uniform(0.0, 2 * np.pi, count)
    distance = _outline_distance(kinds, extent, angle, size)

    # Always brighter than the background: were it either, the outline alone would tell, and the
    # filled shape would no longer be what a network ought to look at.
    background = rng.uniform(0.05, 0.4, count)
    foreground = background + rng.uniform(0.3, 0.6, count)
    texture = rng.uniform(0.0, 0.08, count) * _smooth_noise(len(kinds), rng, size)
    grain = rng.uniform(0.005, 0.03, count) * rng.standard_normal((len(kinds), size, size))
    cover = np.clip(0.5 - distance, 0.0, 1.0)  # anti-aliased over one pixel
    images = background + cover * (foreground - background) + texture + grain
    return Shapes(
        images=np.clip(images, 0.0, 1.0).astype(np.float32)[:, None],
        masks=distance < 0,
        labels=kinds,
    )


def balanced_labels(count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return ``count`` shuffled labels with equally many of each class, up to one."""
    labels: npt.NDArray[np.int64] = rng.permutation(np.arange(count) % len(CLASSES))
    return labels


def _outline_distance(
    kinds: npt.NDArray[np.int64],
    extent: npt.NDArray[np.float64],
    angle: npt.NDArray[np.float64],
    size: int,
) -> npt.NDArray[np.float64]:
    """Signed distance in pixels to each outline, (N, H, W); negative inside."""
    axis = np.arange(size) - (size - 1) / 2
    y, x = axis[None, :, None], axis[None, None, :]
    distance: npt.NDArray[np.float64] = np.hypot(y, x) - extent / np.sqrt(np.pi)
    for kind, sides in ((1, 3), (2, 4)):
        chosen = kinds == kind
        turns = angle[chosen] + 2 * np.pi * np.arange(sides)[:, None, None, None] / sides
        towards_side = np.cos(turns) * x + np.sin(turns) * y
        distance[chosen] = towards_side.max(0) - _APOTHEM[sides] * extent[chosen]
    return distance


def _smooth_noise(count: int, rng: np.random.Generator, size: int) -> npt.NDArray[np.float64]:
    """Blotches a few to a side, roughly unit variance: (N, H, W)."""
    coarse = torch.from_numpy(rng.standard_normal((count, 1, 8, 8)))
    fine = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    blotches: npt.NDArray[np.float64] = fine[:, 0].numpy()
    return blotches


class ShapesCNN(nn.Module):
    """The paper's network: 3 x [5 x 5 convolution, ReLU, 2 x 2 max-pool], 4 x 4 means, 2 layers."""

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for before, after in ((1, 16), (16, 32), (32, 64)):
            stages += [nn.Conv2d(before, after, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.head = nn.Sequential(nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, len(CLASSES)))
        for layer in self.modules():
            # Five layers without normalisation barely start from PyTorch's default gain.
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (N, 3) for pictures (N, 1, H, W) in [0, 1]."""
        logits: torch.Tensor = self.head(self.pool(self.stages(images)).flatten(1))
        return logits


def load_shapes_cnn() -> ShapesCNN:
    """Return the network shipped with this package, trained by ``benchmarks/train_shapes.py``."""
    from safetensors.torch import load_file

    with as_file(files("usu_cli") / "_assets" / ASSET) as path:
        weights = {name: tensor.float() for name, tensor in load_file(path).items()}
    model = ShapesCNN()
    model.load_state_dict(weights)
    return model.eval()
