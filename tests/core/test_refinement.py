"""Which segments go deeper, how depths are merged, and when refinement stops."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from usu_core import (
    USU,
    GivenLabels,
    GradientScorer,
    MaskedPerturbation,
    Quadtree,
    Refinement,
    heterogeneity,
    score_levels,
)
from usu_core._refinement import scaled
from usu_core.scoring import model_score
from usu_core.segments import segment_expand

ADAPTIVE = ["segment", "pixel"]
SCORER = MaskedPerturbation(mode="drop", fill="zero")
LEVELS = Quadtree((2, 4, 8))(torch.zeros(2, 1, 8, 8))


def run(
    weights: Tensor, linear: Any, refinement: Refinement, levels: tuple[Tensor, ...] = LEVELS
) -> tuple[Tensor, tuple[Tensor, ...], list[int], list[Tensor]]:
    """Score a model that adds weighted pixels of all-ones images."""
    model = linear(weights)
    values, used = score_levels(torch.ones_like(weights), levels, SCORER, model, refinement)
    return values, used, model.asked, model.examples


def corner() -> Tensor:
    """Two images: in one, only the first pixel of all counts; in the other, nothing does."""
    weights = torch.zeros(2, 1, 8, 8)
    weights[0, 0, 0, 0] = 1.0
    return weights


@pytest.mark.parametrize("mixing", ADAPTIVE)
def test_only_children_of_boundary_segments_are_scored(linear: Any, mixing: str) -> None:
    # With blocks of 4 x 4 pixels, the quarter of the hot pixel borders two others and, at the
    # centre, the fourth: all are boundary segments. The sixteenth borders three of its kind.
    values, used, asked, examples = run(corner(), linear, Refinement(mixing=mixing))
    assert asked == [2, 8, 16, 16]  # whole images; 4 each; 16 and 4 * 4 children of one image
    assert examples[2].tolist() == [0] * 16
    assert len(used) == 3
    assert float(values[0, 0, 0]) == 1.0
    assert bool((values[1] == 0).all())
    averaging = run(corner(), linear, Refinement(mixing="average"))[2]
    assert sum(averaging) == 2 + 2 * (4 + 16 + 64)


@pytest.mark.parametrize("mixing", ADAPTIVE)
def test_constant_scores_are_never_refined(linear: Any, mixing: str) -> None:
    values, used, asked, _ = run(torch.ones(2, 1, 8, 8), linear, Refinement(mixing=mixing))
    assert asked == [2, 8]
    assert len(used) == 1
    assert bool((values == 1).all())


@pytest.mark.parametrize("mixing", ADAPTIVE)
def test_images_that_settled_stop_and_others_go_on(linear: Any, mixing: str) -> None:
    # Each image has one hot quarter. In image 0 a drop grows by as much as the area shrinks, so
    # nothing changes between depths; image 1 keeps sharpening.
    weights = torch.zeros(2, 1, 8, 8)
    weights[0, 0, :4, :4] = 1.0
    weights[1, 0, 0, 0] = 1.0
    loose = Refinement(mixing=mixing, tolerance=100.0)
    assert run(weights, linear, loose)[2] == [2, 8, 32]
    tight = Refinement(mixing=mixing, tolerance=1e-6)
    _, used, asked, examples = run(weights, linear, tight)
    assert len(used) == 3
    assert sum(asked) > 42
    assert 1 in examples[-1].tolist()


@pytest.mark.parametrize("norm", ["rms", "frobenius"])
def test_the_norm_decides_whether_resolution_matters(linear: Any, norm: str) -> None:
    depths = []
    for scale in (1, 4):
        weights = F.interpolate(corner(), scale_factor=scale, mode="nearest") / scale**2
        levels = Quadtree((2, 4, 8))(weights)
        refinement = Refinement(mixing="segment", norm=norm, tolerance=6.0)
        if norm == "rms":
            refinement = Refinement(mixing="segment", norm=norm, tolerance=0.75)
        depths.append(len(run(weights, linear, refinement, levels)[1]))
    assert depths == ([2, 2] if norm == "rms" else [2, 3])


@pytest.mark.parametrize("mixing", ["average", *ADAPTIVE])
def test_depth_never_exceeds_the_levels_given(linear: Any, rand: Any, mixing: str) -> None:
    # E16: rescaled scores may never settle, so the number of levels is the bound that counts.
    weights = rand(2, 1, 8, 8)
    never = Refinement(mixing=mixing, tolerance=1e-30, threshold=1e-30)
    _, used, asked, _ = run(weights, linear, never)
    assert len(used) <= 3
    assert sum(asked) <= 2 + 2 * (4 + 16 + 64)


@settings(max_examples=12)
@given(st.integers(0, 99), st.sampled_from(["average", *ADAPTIVE]), st.booleans())
def test_scores_lie_in_the_unit_interval(linear: Any, seed: int, mixing: str, paper: bool) -> None:
    weights = torch.randn(2, 1, 8, 8, generator=torch.manual_seed(seed))
    refinement = Refinement.paper() if paper else Refinement(mixing=mixing)
    values, _, _, _ = run(weights, linear, refinement)
    assert float(values.min()) >= 0
    assert set(values.flatten(1).amax(1).tolist()) <= {0.0, 1.0}  # 0 where nothing counts
    positive = LEVELS[0].clone().float()[:, None] + 1
    assert run(positive, linear, refinement)[0].flatten(1).amax(1).tolist() == [1.0, 1.0]


def test_a_single_level_is_the_drops_over_their_maximum(linear: Any, rand: Any) -> None:
    weights = rand(2, 1, 8, 8)
    values, _, _, _ = run(weights, linear, Refinement(), LEVELS[1:2])
    drops = F.avg_pool2d(weights, 2) * 4
    wanted = drops / drops.amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(values, F.interpolate(wanted, scale_factor=2)[:, 0])


def test_averaging_is_the_mean_of_levels_in_one_unit(linear: Any, rand: Any) -> None:
    weights = rand(2, 1, 8, 8)
    values, _, _, _ = run(weights, linear, Refinement(mixing="average"))
    drops = [F.interpolate(F.avg_pool2d(weights, n) * n**2, (8, 8))[:, 0] for n in (4, 2, 1)]
    mean = torch.stack(drops).mean(0)
    torch.testing.assert_close(values, mean / mean.amax((1, 2), keepdim=True))


@pytest.mark.parametrize("mixing", ADAPTIVE)
def test_blending_follows_equation_17(linear: Any, rand: Any, mixing: str) -> None:
    weights = rand(1, 1, 8, 8)
    refinement = Refinement(mixing=mixing, threshold=1e-9, tolerance=1e-9, centre=0.3, width=0.2)
    levels = tuple(level[:1] for level in LEVELS[:2])
    values, used, _, _ = run(weights, linear, refinement, levels)
    assert len(used) == 2
    coarse, fine = (F.interpolate(F.avg_pool2d(weights, n) * n**2, (8, 8))[:, 0] for n in (4, 2))
    peak = max(float(coarse.max()), float(fine.max()))
    coarse, fine = coarse / peak, fine / peak
    strength = heterogeneity(coarse)
    if mixing == "segment":
        top = [strength[0][levels[0][0] == k].max() for k in range(4)]
        strength = segment_expand(torch.stack(top)[None], levels[0])
    alpha = 1 / (1 + ((strength - 0.3) / 0.2).exp())
    blend = alpha * coarse + (1 - alpha) * fine
    torch.testing.assert_close(values, blend / blend.max())


def test_segments_that_are_not_split_keep_their_parents_score(linear: Any) -> None:
    # Four segments of three pixels with drops 3, 1.5, 1.5 and 1.5: the first two share a border.
    weights = torch.tensor([1.0] * 3 + [0.5] * 9).view(1, 1, 12)
    levels = (torch.arange(12)[None] // 3, torch.arange(12)[None])
    refinement = Refinement(mixing="segment", centre=1e-9, width=1.0)
    values, _, asked, _ = run(weights, linear, refinement, levels)
    assert asked == [1, 4, 6]
    alpha = 1 / (1 + torch.tensor(0.5).exp())
    split = alpha * torch.tensor([1.0, 0.5]) + (1 - alpha) * torch.tensor([1.0, 0.5]) / 3
    blend = torch.cat([split, torch.tensor([0.5, 0.5])]).repeat_interleave(3)
    torch.testing.assert_close(values[0], blend / blend.max())


@pytest.mark.parametrize("mixing", ["average", *ADAPTIVE])
def test_scores_of_nothing_give_nearest(mixing: str) -> None:
    upsampler = USU(segmenter=Quadtree((2, 4)), refinement=Refinement(mixing=mixing))
    cells = torch.tensor([[[[1.0, -2.0], [3.0, 0.0]]]])
    result = upsampler(
        cells, image=torch.rand(1, 3, 8, 8), score=lambda x: torch.ones(len(x)), details=True
    )
    assert result.score_map is not None
    assert bool((result.score_map == 0).all())
    assert torch.equal(result.attribution, cells.repeat_interleave(4, 2).repeat_interleave(4, 3))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("padding", ["edge", "zero"])
def test_the_range_kernel_equals_a_loop(rand: Any, rank: int, padding: str) -> None:
    scores = rand(1, *[5] * rank)
    mode = "replicate" if padding == "edge" else "constant"
    padded = F.pad(scores[None], (1, 1) * rank, mode=mode)[0]
    result = heterogeneity(scores, "range", padding)
    for place in torch.ones([5] * rank).nonzero().tolist():
        window = padded[0][tuple(slice(p, p + 3) for p in place)]
        torch.testing.assert_close(result[0][tuple(place)], window.max() - window.min())


def test_the_diagonal_kernel_needs_two_dimensions() -> None:
    with pytest.raises(ValueError, match="kernel 'diagonal' needs two spatial dimensions, got 1"):
        heterogeneity(torch.zeros(1, 4), "diagonal")


def test_the_papers_forms_are_one_call_away() -> None:
    paper = Refinement.paper()
    chosen = (paper.mixing, paper.kernel, paper.padding, paper.norm)
    assert chosen == ("pixel", "diagonal", "zero", "frobenius")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixing": "mean"}, "mixing must be one of average, segment, pixel, got 'mean'"),
        ({"kernel": "sobel"}, "kernel must be one of range, diagonal"),
        ({"padding": "reflect"}, "padding must be one of edge, zero"),
        ({"norm": "max"}, "norm must be one of rms, frobenius"),
        ({"scale": "max"}, "scale must be one of peak, rank"),
        ({"threshold": 0.0}, "threshold must be finite and above 0"),
        ({"width": -1.0}, "width must be finite and above 0"),
        ({"tolerance": torch.nan}, "tolerance must be finite and above 0"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Refinement(**options)


def test_ranks_are_the_share_of_pixels_below(linear: Any) -> None:
    weights = torch.zeros(2, 1, 8, 8)
    weights[0, 0, :4, :4], weights[0, 0, :4, 4:] = 9.0, 1.0
    values, _, _, _ = run(weights, linear, Refinement(scale="rank"), LEVELS[:1])
    wanted = torch.full((2, 8, 8), 0.5)  # in the second image nothing matters
    wanted[0, :4, :4], wanted[0, :4, 4:], wanted[0, 4:] = 0.875, 0.625, 0.25
    torch.testing.assert_close(values, wanted)


@given(st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_ranks_keep_the_order(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 9, (2, 5, 7), generator=generator).float()
    ranks = scaled(scores, "rank").flatten(1)
    torch.testing.assert_close(ranks.mean(1), torch.full((2,), 0.5))
    for row, own in zip(scores.flatten(1), ranks, strict=True):
        assert torch.equal(row[:, None] < row, own[:, None] < own)
    assert bool(((ranks > 0) & (ranks < 1)).all())


def test_merging_keeps_the_mass_of_cells(rand: Any, linear: Any) -> None:
    labels = [torch.arange(64).view(8, 8) // 8 // n for n in (4, 2, 1)]
    for mixing in ("average", *ADAPTIVE):
        upsampler = USU(segmenter=GivenLabels(labels), refinement=Refinement(mixing=mixing))
        cells = rand(1, 1, 2, 2).double()
        result = upsampler(
            cells, image=rand(1, 1, 8, 8).double(), score=linear(rand(1, 1, 8, 8)), details=True
        )
        assert float(result.mass_error.max()) < 1e-13


@pytest.mark.parametrize("mixing", ADAPTIVE)
def test_an_image_that_settled_does_not_follow_its_batch(rand: Any, mixing: str) -> None:
    images = rand(4, 1, 16, 16)
    images[2] = 0.5 + 0.2 * images[2]  # Nearly even: it settles early.
    levels = Quadtree((2, 4, 8, 16))(images)
    scorer, refinement = GradientScorer(fill="zero"), Refinement(mixing=mixing, tolerance=0.1)
    score = model_score(lambda x: x.square().sum((1, 2, 3)))
    values, _ = score_levels(images, levels, scorer, score, refinement)
    reached = set()
    for i in range(4):
        its = tuple(level[i : i + 1] for level in levels)
        alone, used = score_levels(images[i : i + 1], its, scorer, score, refinement)
        torch.testing.assert_close(values[i : i + 1], alone)
        reached.add(len(used))
    assert len(reached) > 1  # Otherwise nothing was tested.


def test_scores_that_are_not_finite_are_the_models() -> None:
    model = model_score(lambda x: x.log().sum((1, 2, 3)))
    with pytest.raises(ValueError, match="score must be finite, got 8 NaN or infinite of 8"):
        score_levels(torch.ones(2, 1, 8, 8), LEVELS[:1], SCORER, model, Refinement())


def test_a_border_of_exactly_the_threshold_is_none(linear: Any) -> None:
    # Drops of 1 and 0.5 by segments of four pixels: |H| is exactly 0.5 at their border.
    weights = torch.tensor([0.25] * 4 + [0.125] * 4).view(1, 1, 8)
    levels = (torch.arange(8)[None] // 4, torch.arange(8)[None] // 2)
    for threshold, depths in ((0.5, 1), (0.499, 2)):
        refinement = Refinement(mixing="segment", threshold=threshold)
        assert len(run(weights, linear, refinement, levels)[1]) == depths


def test_a_change_of_exactly_the_tolerance_settles(linear: Any) -> None:
    # Scores 1 and 0 of halves become 0.5 and 0: four pixels change by 0.5, a norm of exactly 1.
    weights = torch.tensor([0.25] * 4 + [0.0] * 4).view(1, 1, 8)
    levels = tuple(torch.arange(8)[None] // n for n in (4, 2, 1))
    for tolerance, depths in ((1.0, 2), (0.999, 3)):
        refinement = Refinement(mixing="segment", norm="frobenius", tolerance=tolerance)
        assert len(run(weights, linear, refinement, levels)[1]) == depths


def test_the_papers_kernel_and_padding_decide_who_is_refined_and_how_depths_blend(
    linear: Any, rand: Any
) -> None:
    weights = rand(1, 1, 8, 8)
    paper = Refinement(
        mixing="pixel", kernel="diagonal", padding="zero", threshold=0.05, tolerance=1e-9,
        centre=0.3, width=0.2,
    )  # fmt: skip
    levels = tuple(level[:1] for level in LEVELS[:2])
    values, _, _, _ = run(weights, linear, paper, levels)
    coarse, fine = (F.interpolate(F.avg_pool2d(weights, n) * n**2, (8, 8))[:, 0] for n in (4, 2))
    peak = max(float(coarse.max()), float(fine.max()))
    strength = heterogeneity(coarse / peak, "diagonal", "zero")
    alpha = 1 / (1 + ((strength - 0.3) / 0.2).exp())
    blend = alpha * coarse + (1 - alpha) * fine
    torch.testing.assert_close(values, blend / blend.max())
    # The diagonal kernel is 0 on a straight edge: with edge padding nothing is refined there.
    halves = torch.zeros(1, 1, 8, 8)
    halves[..., :4] = 1.0
    straight = Refinement(mixing="pixel", kernel="diagonal")
    assert len(run(halves, linear, straight, levels)[1]) == 1
    assert len(run(halves, linear, Refinement(mixing="pixel"), levels)[1]) == 2


def test_the_defaults_are_those_documented() -> None:
    assert Refinement() == Refinement(
        mixing="average", kernel="range", padding="edge", threshold=0.05, centre=0.1, width=0.02,
        tolerance=0.01, norm="rms", scale="peak",
    )  # fmt: skip
