"""What metrics are given: all maps of one image, the model, and what several metrics share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from usu_captum import ForwardScore
from usu_cli.evaluate._again import Again
from usu_cli.evaluate._sources import SEGMENTS
from usu_core import Slic, metrics
from usu_core.scoring import ModelScore


@dataclass(frozen=True)
class Judged:
    """The maps of one image, and what metrics need besides.

    Args:
        maps: (N, H, W).
        inputs: (1, C, H, W).
        model: Images to logits, to judge by.
        target: The explained class.
        black: The value of black in the model's space.
        find_ties: Finds ``ties``, which costs model evaluations, when a metric asks for them.
        again: Makes the maps again; only for metrics that explain again.
        mask: (H, W) bool, the object; only for metrics that need it.
        steps: Steps of curves.
        samples: Boxes or subsets to draw.
        batch_size: Images per model call.
        seed: Of what is drawn.
    """

    maps: Tensor
    inputs: Tensor
    model: Callable[[Tensor], Tensor]
    target: int
    black: Tensor
    find_ties: Callable[[], Tensor]
    again: Again | None
    mask: Tensor | None
    steps: int
    samples: int
    batch_size: int
    seed: int

    @cached_property
    def score(self) -> ModelScore:
        """The explained class's score."""
        return ForwardScore(self.model, self.target)

    @cached_property
    def ties(self) -> Tensor:
        """What orders pixels of equal attribution, once per map."""
        return self.find_ties().expand(len(self.maps), -1, -1)

    @cached_property
    def images(self) -> Tensor:
        """The image once per map."""
        return self.inputs.expand(len(self.maps), -1, -1, -1)

    @cached_property
    def boxes(self) -> tuple[Tensor, Tensor]:
        """The effects of blurring random boxes, and the mass of each map in them, (N, boxes)."""
        size = (self.inputs.shape[2], self.inputs.shape[3])
        boxes = metrics.random_boxes(self.samples, size, seed=self.seed)
        effects = metrics.box_effects(
            self.score, self.inputs, boxes, reference="blur", chunk_size=self.batch_size
        )
        sums = metrics.box_sums(self.maps, boxes)
        return effects.expand(len(self.maps), -1), sums

    @cached_property
    def segments(self) -> Tensor:
        """Superpixels, (N, H, W)."""
        (labels,) = Slic((SEGMENTS,))(self.inputs)
        return labels.expand(len(self.maps), -1, -1)

    @property
    def made_again(self) -> Again:
        """How the maps are made again."""
        if self.again is None:
            raise ValueError("the maps cannot be made again.")
        return self.again

    @cached_property
    def masks(self) -> Tensor:
        """The object once per map."""
        if self.mask is None:
            raise ValueError("the image has no mask.")
        return self.mask.expand(len(self.maps), -1, -1)


@dataclass(frozen=True)
class Values:
    """One value per map, (N,), and the curves (N, steps + 1) that some are the area of."""

    values: Tensor
    curves: Tensor | None = None
