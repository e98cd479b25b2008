"""The decoder: features of several stages, and a class, to one score per pixel.

After DPT (Ranftl et al., 2021): every stage is read out together with the class, reassembled to a
level of a pyramid, and fused from the coarsest level to the finest by residual convolutions.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

READOUTS = ("film", "concat")
NORMS = ("group", "batch")


def normalisation(kind: str, channels: int) -> nn.Module:
    """Return a layer that normalises ``channels``, by groups of them or over the batch.

    Groups need no running statistics: maps do not depend on the batch they are in, in training
    neither, and several processes have nothing to exchange.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(8, channels), channels)


class Readout(nn.Module):
    """One stage's features joined with the class, then brought to the decoder's width.

    ``"concat"`` projects the features and the class side by side, as published. ``"film"`` also
    lets the class weigh the projected channels, as a classifier's head weighs its features, so a
    product of the two need not be learnt through the nonlinearity.
    """

    def __init__(
        self, channels: int, class_width: int, middle: int, width: int, readout: str, norm: str
    ) -> None:
        super().__init__()
        self.norm = normalisation(norm, channels)
        self.project = nn.Conv2d(channels, middle, 1)
        self.shift = nn.Linear(class_width, middle, bias=False)
        self.scale = nn.Linear(class_width, middle, bias=False) if readout == "film" else None
        self.reassemble = nn.Conv2d(middle, middle, 1)
        self.reduce = nn.Conv2d(middle, width, 3, padding=1)

    def forward(self, features: Tensor, classes: Tensor, size: tuple[int, int]) -> Tensor:
        """Map features (B, C, h, w) and classes (B, E) to (B, width, *size)."""
        x = self.project(self.norm(features))
        if self.scale is not None:
            x = x * (1 + self.scale(classes)[:, :, None, None])
        x = functional.gelu(x + self.shift(classes)[:, :, None, None])
        x = resized(functional.relu(self.reassemble(x)), size)
        return functional.relu(self.reduce(x))


class ResidualUnit(nn.Module):
    """Two convolutions after their activations, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, width, h, w)."""
        result: Tensor = x + self.second(functional.relu(self.first(functional.relu(x))))
        return result


class Fusion(nn.Module):
    """Add a finer level to what comes down from the coarser ones; the coarsest has none below."""

    def __init__(self, width: int, *, coarsest: bool) -> None:
        super().__init__()
        self.lateral = None if coarsest else ResidualUnit(width)
        self.output = ResidualUnit(width)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, level: Tensor, below: Tensor | None) -> Tensor:
        """Fuse (B, width, h, w) with a map of any smaller size; the result has the level's."""
        x = level
        if self.lateral is not None and below is not None:
            x = self.lateral(level) + resized(below, level.shape[2:])
        return functional.relu(self.project(self.output(x)))


class RefinementHead(nn.Module):
    """From features to scores, starting from a nearly flat map."""

    def __init__(self, channels: int, width: int, dropout: float, norm: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout2d(dropout),
            normalisation(norm, channels),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            normalisation(norm, channels),
            nn.GELU(),
            nn.Conv2d(channels, width, 1, bias=False),
            normalisation(norm, width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            normalisation(norm, width),
            nn.GELU(),
        )
        self.score = nn.Conv2d(width, 1, 3, padding=1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to scores (B, 1, H, W)."""
        x = self.layers(x)
        if self.training:  # which averages cells
            rough: Tensor = self.score(x)
            return rough
        # Half precision would give neighbouring pixels one score, and so no order.
        with torch.autocast(x.device.type, enabled=False):
            scores: Tensor = self.score(x.to(self.score.weight.dtype))
        return scores


class Decoder(nn.Module):
    """Stages and a class to scores.

    Args:
        channels: Of each stage, finest first.
        class_width: Width of the class's description.
        middle: Channels a stage is read out to.
        width: Channels of the pyramid.
        head: Channels of the head; inside it, half of them and twice as many.
        readout: One of ``READOUTS``.
        norm: One of ``NORMS``.
        dropout: Share of channels dropped in front of the refinement head, in training.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        class_width: int,
        middle: int,
        width: int,
        head: int,
        readout: str,
        norm: str,
        dropout: float,
    ) -> None:
        super().__init__()
        self.readouts = nn.ModuleList(
            Readout(count, class_width, middle, width, readout, norm) for count in channels
        )
        last = len(channels) - 1
        self.fusions = nn.ModuleList(Fusion(width, coarsest=i == last) for i in range(last + 1))
        self.smooth = nn.Conv2d(width, width, 3, padding=1)
        self.narrow = nn.Conv2d(width, head, 3, padding=1)
        self.fine = nn.Conv2d(head, head // 2, 3, padding=1)
        self.widen = nn.Conv2d(head // 2, 2 * head, 1)
        self.refinement = RefinementHead(2 * head, head, dropout, norm)
        # On a CPU, narrow convolutions of many pixels take half the time so.
        self.to(memory_format=torch.channels_last)

    def forward(self, stages: Sequence[Tensor], classes: Tensor, size: tuple[int, int]) -> Tensor:
        """Map stages (B, C_i, h_i, w_i), finest first, and classes (B, E) to (B, 1, *size)."""
        levels = level_sizes([tuple(stage.shape[2:]) for stage in stages], size)
        x: Tensor | None = None
        for i in reversed(range(len(stages))):
            level = self.readouts[i](stages[i], classes, levels[i])
            x = self.fusions[i](level, x)
        if x is None:
            raise ValueError("stages must hold at least one map, got none.")
        half = tuple(min(side, 2 * own) for side, own in zip(size, x.shape[2:], strict=True))
        # Convolved before it is enlarged: a quarter of the work, on the same information.
        x = resized(functional.relu(self.smooth(x)), half)
        x = functional.relu(self.fine(resized(self.narrow(x), size)))
        scores: Tensor = self.refinement(self.widen(x))
        return scores


def level_sizes(stages: Sequence[tuple[int, ...]], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the pyramid's sizes, finest first.

    A hierarchy keeps its own. Stages of one size, as a plain transformer has, are spread to 4, 2,
    1 and 1/2 times it, never beyond the image.

    Example:
        >>> level_sizes([(14, 14)] * 4, (224, 224))
        [(56, 56), (28, 28), (14, 14), (7, 7)]
        >>> level_sizes([(32, 32), (16, 16)], (32, 32))
        [(32, 32), (16, 16)]
    """
    own = [(int(h), int(w)) for h, w in stages]
    if len(own) == 1 or len(set(own)) > 1:
        return own
    factors = [2.0 ** (len(own) - 2 - i) for i in range(len(own))]
    return [
        (max(1, min(size[0], round(h * f))), max(1, min(size[1], round(w * f))))
        for (h, w), f in zip(own, factors, strict=True)
    ]


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return ``x`` (B, C, h, w) bilinearly resized, itself if it has the size."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return functional.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
