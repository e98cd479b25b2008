"""Hierarchical refinement: segments split where the model's own scores change.

Section C of arXiv:2603.16067. Scores of all depths are merged into one score map, and mass is
redistributed once, from the coarse cells: merging maps instead, or redistributing inside segments,
would break per-cell conservation or ignore the scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from usu_core._checks import check_choice, check_finite, check_positive
from usu_core._precision import exact
from usu_core._ranks import doubled_ranks
from usu_core.scoring import ModelScore, Scorer
from usu_core.segments import segment_counts, segment_expand, segment_max

KERNELS = ("range", "diagonal")
PADDINGS = ("edge", "zero")
MIXINGS = ("average", "segment", "pixel")
NORMS = ("rms", "frobenius")
SCALES = ("peak", "rank")


@dataclass(frozen=True)
class Refinement:
    """How depths are chosen and merged.

    ``mixing="average"`` scores every level and averages the levels seen so far. ``"segment"`` and
    ``"pixel"`` refine adaptively: only children of segments on a score boundary are scored, and
    depths are blended by equation 17, α = sigmoid(-(|H| - μ) / τ), with |H| taken as the maximum
    over the coarser segment or per pixel. The paper's per-pixel form acts within one pixel of a
    border, so that a segment's interior hardly ever uses its finer scores.

    Args:
        mixing: See above.
        kernel: Heterogeneity H of a score map. ``"range"`` is the largest minus the smallest score
            in the 3-wide window; ``"diagonal"`` is the paper's K_DD, which is 0 on straight
            horizontal and vertical edges.
        padding: ``"edge"``, or the paper's ``"zero"``, which invents borders at the image's edge.
        threshold: θ; segments with a larger |H| are refined.
        centre: μ of the blend.
        width: τ of the blend.
        tolerance: Stop once a depth changes the score map by no more than this.
        norm: ``"rms"``, the same for every resolution, or the paper's ``"frobenius"``.
        scale: What a merged score becomes: ``"peak"`` divides by the image's largest; ``"rank"`` is
            the share of the image's pixels that score lower, half of the equal ones included. One
            segment that decides nearly alone leaves little between the others by the first; by the
            second a temperature means the same for every image.

    Raises:
        ValueError: If an option is unknown or a number is not positive.

    Example:
        >>> Refinement.paper().kernel
        'diagonal'
    """

    mixing: str = "average"
    kernel: str = "range"
    padding: str = "edge"
    threshold: float = 0.05
    centre: float = 0.1
    width: float = 0.02
    tolerance: float = 0.01
    norm: str = "rms"
    scale: str = "peak"

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("mixing", self.mixing, MIXINGS)
        check_choice("kernel", self.kernel, KERNELS)
        check_choice("padding", self.padding, PADDINGS)
        check_choice("norm", self.norm, NORMS)
        check_choice("scale", self.scale, SCALES)
        for name in ("threshold", "centre", "width", "tolerance"):
            check_positive(name, getattr(self, name))

    @classmethod
    def paper(cls) -> "Refinement":
        """Return the forms printed in the paper, with thresholds it leaves open."""
        return cls(mixing="pixel", kernel="diagonal", padding="zero", norm="frobenius")


@dataclass(frozen=True)
class ScoreMap:
    """Scores of every pixel, and how they came about.

    Attributes:
        values: Φ in [0, 1], (B, *pixels); by peak, each image's largest score is 1, unless nothing
            in it matters to the model; by rank, the mean is 0.5.
        segments: The label maps (B, *pixels) that were scored, coarsest first.
        evaluations: Images the model was run on.
    """

    values: Tensor
    segments: tuple[Tensor, ...]
    evaluations: int


def heterogeneity(scores: Tensor, kernel: str = "range", padding: str = "edge") -> Tensor:
    """Return |H|, how much a score map changes around each pixel.

    Args:
        scores: (B, *pixels) of rank 1 to 3; the diagonal kernel needs 2.
        kernel: ``"range"`` or ``"diagonal"``, see :class:`Refinement`.
        padding: ``"edge"`` or ``"zero"``.

    Returns:
        (B, *pixels), from 0 to 1 (to 2 for the diagonal kernel).

    Example:
        >>> heterogeneity(torch.tensor([[0.0, 0.0, 0.0, 1.0]]))
        tensor([[0., 0., 1., 1.]])
    """
    check_choice("kernel", kernel, KERNELS)
    check_choice("padding", padding, PADDINGS)
    rank = scores.dim() - 1
    mode = "replicate" if padding == "edge" else "constant"
    padded = F.pad(scores.unsqueeze(1), (1, 1) * rank, mode=mode)
    if kernel == "range":
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
        return (pool(padded, 3, 1) + pool(-padded, 3, 1)).squeeze(1)
    if rank != 2:
        raise ValueError(f"kernel 'diagonal' needs two spatial dimensions, got {rank}.")
    weight = scores.new_tensor([[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, -1.0]])
    with exact(scores):
        return F.conv2d(padded, weight.view(1, 1, 3, 3)).squeeze(1).abs()


def score_levels(
    images: Tensor,
    levels: Sequence[Tensor],
    scorer: Scorer,
    score: ModelScore,
    refinement: Refinement,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Score a hierarchy of segments and merge its depths into one score map.

    Args:
        images: What the model sees, (B, C, *pixels).
        levels: Nested label maps (B, *pixels), coarsest first.
        scorer: Scores the segments of one level.
        score: The model.
        refinement: Which segments go deeper, and how depths are merged.

    Returns:
        Φ in [0, 1] of shape (B, *pixels), and the levels that were reached.
    """
    score_level = scorer(images, score)
    raw: list[Tensor] = []
    settled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    for depth, labels in enumerate(levels):
        active = segment_counts(labels, int(labels.max()) + 1) > 0
        if depth and refinement.mixing != "average":
            scores = _normalise(raw)[-1]
            active &= _children_of_boundaries(scores, levels[depth - 1], labels, refinement)
            active &= ~settled[:, None]
            if not bool(active.any()):
                break
        values = score_level(labels, active)
        check_finite("score", values)
        fine = segment_expand(values, labels)
        if depth:
            # Segments that were not split keep the score of their parent.
            fine = fine.where(segment_expand(active, labels), raw[-1])
        raw.append(fine)
        if depth:
            settled |= _has_settled(_normalise(raw), refinement)
    return _merge(_normalise(raw), levels, refinement), tuple(levels[: len(raw)])


def _normalise(raw: Sequence[Tensor]) -> list[Tensor]:
    """Divide by each image's largest value over all depths, so that depths stay comparable."""
    ones = (1,) * (raw[0].dim() - 1)
    peak = torch.stack([level.flatten(1).amax(1) for level in raw]).amax(0)
    scale = peak.where(peak > 0, 1.0).view(-1, *ones)
    return [(level / scale).clamp(0, 1) for level in raw]


def _children_of_boundaries(
    scores: Tensor, parents: Tensor, labels: Tensor, refinement: Refinement
) -> Tensor:
    """Return which segments (B, P) lie in a parent on a score boundary."""
    strength = heterogeneity(scores, refinement.kernel, refinement.padding)
    boundary = segment_max(strength, parents, int(parents.max()) + 1) > refinement.threshold
    inside = segment_expand(boundary, parents).float()
    return segment_max(inside, labels, int(labels.max()) + 1) > 0


def _has_settled(scores: Sequence[Tensor], refinement: Refinement) -> Tensor:
    """Return, per image, whether the last depth changed the map by the tolerance at most."""
    change = (scores[-1] - scores[-2]).flatten(1).square()
    distance = change.mean(1) if refinement.norm == "rms" else change.sum(1)
    return distance.sqrt() <= refinement.tolerance


def _merge(scores: Sequence[Tensor], levels: Sequence[Tensor], refinement: Refinement) -> Tensor:
    """Blend the depths, coarse to fine (equation 18)."""
    merged = scores[0]
    for depth in range(1, len(scores)):
        if refinement.mixing == "average":
            merged = merged + (scores[depth] - merged) / (depth + 1)
            continue
        strength = heterogeneity(scores[depth - 1], refinement.kernel, refinement.padding)
        if refinement.mixing == "segment":
            coarse = levels[depth - 1]
            peak = segment_max(strength, coarse, int(coarse.max()) + 1)
            strength = segment_expand(peak, coarse)
        alpha = torch.sigmoid(-(strength - refinement.centre) / refinement.width)
        # An image that has settled stays as it is, whatever depth others of its batch go to.
        went_on = (scores[depth] != scores[depth - 1]).flatten(1).any(1)
        ones = (1,) * (merged.dim() - 1)
        blended = alpha * merged + (1 - alpha) * scores[depth]
        merged = blended.where(went_on.view(-1, *ones), merged)
    # Blends fall short of 1; a temperature should mean the same for every image.
    return scaled(merged, refinement.scale)


def scaled(scores: Tensor, scale: str) -> Tensor:
    """Bring scores (B, *pixels), not below 0, to [0, 1] by one of ``SCALES``."""
    if scale == "peak":
        return _normalise([scores])[0]
    flat = scores.flatten(1)
    return (doubled_ranks(flat).to(scores.dtype) / (2 * flat.shape[1])).view_as(scores)
