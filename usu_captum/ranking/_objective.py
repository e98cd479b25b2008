"""Deletion and insertion as a differentiable objective of a map."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from usu_captum.ranking._checks import check_batch, check_maps
from usu_captum.ranking._interventions import Classifier, end_scores, faded_scores
from usu_captum.ranking._masks import Grid, masks_to_pixels, pool_to_grid
from usu_captum.ranking._sinkhorn import GumbelSinkhorn
from usu_captum.ranking._sorter import Sorter, standardise
from usu_core._checks import check_choice, check_count, check_float_tensor, check_not_negative
from usu_core._precision import wide
from usu_core.scoring import OUTPUTS


class ObjectiveValue(NamedTuple):
    """The objective of each example, and what it is made of.

    Attributes:
        total: (B,), ``deletion + insertion_weight * (1 - insertion) + peak_penalty * peak``; lower
            is better.
        deletion: (B,), area under the score as the most important cells go first.
        insertion: (B,), area under the score as the least important cells go first, which is
            insertion read backwards.
        peak: (B,), mean square by which pixels exceed the mean around them.
        curves: (B, 2, n_percentiles), the scores of deletion and of insertion, both from the
            whole image to the reference.
    """

    total: Tensor
    deletion: Tensor
    insertion: Tensor
    peak: Tensor
    curves: Tensor


@dataclass(frozen=True)
class RankingObjective:
    """Ask of a map that deleting what it ranks high hurts soon, and what it ranks low late.

    Args:
        sorter: Ranks cells softly.
        n_percentiles: Equally spaced shares of deleted cells, both ends included.
        insertion_weight: How much insertion counts beside deletion. The two ask for different
            orders: scattered pixels are missed at once, but show nothing alone.
        peak_penalty: Weight of the penalty on lone peaks.
        peak_window: Side in pixels of the window whose mean a peak exceeds, odd.
        smoothing: Standard deviation in pixels of the blur of masks.
        output: Scale of the score; the ends are bounded for ``"probability"`` alone.
        consistent_cells: ``False`` for adaptive pooling, as published; see :func:`pool_to_grid`.
        shared_order: Read insertion from the masks of deletion, which costs one sort and not two.
            ``False`` sorts ``-scores`` too, with noise of its own, as published.
        scaled_peaks: Measure peaks on the map stretched as the sorter stretches scores, since
            its scale has no other meaning then. ``False`` measures the map itself, as published.
        chunk_size: Images per pass of the classifier; ``None`` for all at once.

    Raises:
        ValueError: If a number is out of range or the output unknown.
        TypeError: If ``sorter`` does not sort.

    Example:
        >>> objective = RankingObjective(n_percentiles=3, smoothing=0.0, output="logit")
        >>> images = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
        >>> value = objective(
        ...     lambda x: x.sum((1, 2, 3)), images, images, torch.tensor([0]), grid=2,
        ...     references=torch.zeros_like(images),
        ... )
        >>> value.deletion.round(decimals=2), value.insertion.round(decimals=2)
        (tensor([1.]), tensor([3.]))
    """

    sorter: Sorter = field(default_factory=GumbelSinkhorn)
    n_percentiles: int = 16
    insertion_weight: float = 1.0
    peak_penalty: float = 0.0025
    peak_window: int = 15
    smoothing: float = 1.0
    output: str = "probability"
    consistent_cells: bool = True
    shared_order: bool = True
    scaled_peaks: bool = True
    chunk_size: int | None = 64

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not isinstance(self.sorter, Sorter):
            raise TypeError(
                f"sorter must have top_masks and score_range, got {type(self.sorter).__name__}. "
                "Try GumbelSinkhorn() or RankTransport()."
            )
        check_count("n_percentiles", self.n_percentiles, 3)
        check_not_negative("insertion_weight", self.insertion_weight)
        check_not_negative("peak_penalty", self.peak_penalty)
        check_count("peak_window", self.peak_window)
        if self.peak_window % 2 == 0:
            raise ValueError(f"peak_window must be odd, got {self.peak_window}. Try 15.")
        check_not_negative("smoothing", self.smoothing)
        check_choice("output", self.output, OUTPUTS)
        if self.chunk_size is not None:
            check_count("chunk_size", self.chunk_size)

    def __call__(
        self,
        forward_func: Callable[..., Any],
        images: Tensor,
        maps: Tensor,
        targets: Tensor,
        *,
        grid: Grid,
        references: Tensor,
        temperature: float | None = None,
        noise_scale: float | None = None,
        generator: torch.Generator | None = None,
        additional_forward_args: Any = None,
        ends: Tensor | None = None,
    ) -> ObjectiveValue:
        """Evaluate the objective of maps.

        Args:
            forward_func: Images (N, C, H, W) to logits or probabilities (N, classes), in
                evaluation mode. Its parameters' gradients are not touched.
            images: (B, C, H, W).
            maps: (B, 1, H, W), higher is more important.
            targets: (B,) or (B, K) int64; the scores of K classes are averaged, and all come from
                one pass.
            grid: Cells per side, or (rows, columns).
            references: (B, C, H, W), or (R, B, C, H, W) to average over R of them.
            temperature: Replaces the sorter's own, for annealing.
            noise_scale: Replaces the sorter's own.
            generator: Draws the sorter's noise.
            additional_forward_args: Passed on; tensors with one entry per example follow it.
            ends: What :meth:`ends` returned for these images, to save its passes.

        Returns:
            Values per example, differentiable once in ``maps``.

        Raises:
            ValueError: If shapes do not match, a value is not finite, or the classifier has no
                gradient while the maps need one.
            TypeError: If maps or images are not floating-point tensors.

        Cost:
            ``2 R B (n_percentiles - 2)`` forward passes, as many backward passes where the maps
            need gradients, and ``(R + 1) B`` forward passes for the ends unless given.
        """
        references = _check_inputs(images, maps, targets, references)
        classifier = Classifier(forward_func, targets, self.output, additional_forward_args)
        inner = torch.linspace(0, 1, self.n_percentiles, dtype=torch.float64)[1:-1]
        scores = pool_to_grid(maps, grid, consistent=self.consistent_cells)
        options: Any = {
            "temperature": temperature,
            "noise_scale": noise_scale,
            "generator": generator,
        }
        highest = self.sorter.top_masks(scores, inner, **options)
        if self.shared_order:
            # The shares are symmetric: the lowest f are all but the highest 1 - f.
            lowest = 1.0 - highest.flip(1)
        else:
            lowest = self.sorter.top_masks(-scores, inner, **options)
        size = (images.shape[2], images.shape[3])
        masks = masks_to_pixels(torch.cat([highest, lowest], 1), grid, size, self.smoothing)
        between = faded_scores(classifier, images, references, masks, self.chunk_size)
        if ends is None:
            ends = end_scores(classifier, images, references, self.chunk_size)
        whole, gone = ends.to(between)[:, None, :1], ends.to(between)[:, None, 1:]
        curves = torch.cat(
            [whole.expand(-1, 2, -1), between.unflatten(1, (2, -1)), gone.expand(-1, 2, -1)], 2
        )
        deletion, insertion = torch.trapezoid(curves, dx=1 / (self.n_percentiles - 1)).unbind(1)
        peak = self._peaks(maps)
        total = deletion + self.insertion_weight * (1.0 - insertion)
        if self.peak_penalty > 0:
            total = total + self.peak_penalty * peak.to(total)
        return ObjectiveValue(total, deletion, insertion, peak, curves)

    def ends(
        self,
        forward_func: Callable[..., Any],
        images: Tensor,
        targets: Tensor,
        *,
        references: Tensor,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Score the whole images and their references, which no ranking changes.

        Args:
            forward_func: As in the call, like all that follow.
            images: As there.
            targets: As there.
            references: As there.
            additional_forward_args: As there.

        Returns:
            (B, 2), without gradient.

        Cost:
            ``(R + 1) B`` forward passes.
        """
        references = _check_inputs(images, None, targets, references)
        classifier = Classifier(forward_func, targets, self.output, additional_forward_args)
        return end_scores(classifier, images, references, self.chunk_size)

    def _peaks(self, maps: Tensor) -> Tensor:
        span = self.sorter.score_range
        heights = wide(maps)
        if self.scaled_peaks and span is not None:
            heights = standardise(heights, span)
        window = self.peak_window
        around = F.avg_pool2d(heights, window, 1, window // 2, count_include_pad=False)
        return (heights - around).relu().square().mean((1, 2, 3))


def _check_inputs(
    images: Tensor, maps: Tensor | None, targets: Tensor, references: Tensor
) -> Tensor:
    """Return references as (R, B, C, H, W)."""
    check_batch(images)
    check_float_tensor("references", references)
    if maps is not None:
        check_maps(maps, images)
    if isinstance(targets, Tensor) and targets.dim() > 0 and len(targets) != len(images):
        raise ValueError(
            f"targets must have one row for each of {len(images)} images, got "
            f"{tuple(targets.shape)}."
        )
    every = references[None] if references.dim() == 4 else references
    if every.shape[1:] != images.shape or len(every) == 0:
        raise ValueError(
            f"references must have shape {tuple(images.shape)}, or (R, ...) of it, got "
            f"{tuple(references.shape)}. Try reference_images(images, 'blur')."
        )
    return every


def check_objective(objective: object) -> None:
    """Raise ``TypeError`` unless ``objective`` is one."""
    if not isinstance(objective, RankingObjective):
        raise TypeError(f"objective must be a RankingObjective, got {type(objective).__name__}.")
