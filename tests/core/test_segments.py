"""Segmenters: nested, contiguous, deterministic; and reductions over segments."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from usu_core import GivenLabels, Quadtree, Slic
from usu_core.segments import (
    Segmenter,
    check_images,
    check_nested,
    relabel,
    segment_counts,
    segment_expand,
    segment_max,
    segment_mean,
    segment_sum,
)
from usu_core.segments._labels import nest


def parents(coarse: Tensor, fine: Tensor) -> list[set[int]]:
    """The coarse segments that each fine one touches, by a loop."""
    return [set(coarse[fine == k].tolist()) for k in range(int(fine.max()) + 1)]


def assert_hierarchy(levels: tuple[Tensor, ...], images: Tensor) -> None:
    for level in levels:
        assert level.shape == (images.shape[0], *images.shape[2:])
        assert level.dtype == torch.long
        for row in level:
            assert row.unique().tolist() == list(range(int(row.max()) + 1))
    for coarse, fine in pairwise(levels):
        for i in range(len(images)):
            assert all(len(p) == 1 for p in parents(coarse[i], fine[i]))


@pytest.mark.parametrize(
    "shape", [(1, 3, 40, 50), (2, 1, 33, 32), (1, 7, 32, 32), (1, 1, 8, 12, 16)]
)
def test_slic_makes_nested_levels_of_any_image(rand: Any, shape: tuple[int, ...]) -> None:
    images = rand(*shape) * 4 - 2
    levels = Slic(segments=(4, 12, 40))(images)
    assert len(levels) == 3
    assert_hierarchy(levels, images)
    counts = [int(level[0].max()) + 1 for level in levels]
    assert counts == sorted(counts)
    assert counts[-1] > 10


def test_slic_is_deterministic_and_blind_to_the_batch(rand: Any) -> None:
    images = rand(3, 3, 48, 48)
    segmenter = Slic(segments=(6, 20))
    state = torch.get_rng_state()
    together = segmenter(images)
    assert torch.equal(torch.get_rng_state(), state)
    for first, again in zip(together, segmenter(images), strict=True):
        assert torch.equal(first, again)
    for i in range(3):
        for level, alone in zip(together, segmenter(images[i : i + 1]), strict=True):
            assert torch.equal(level[i], alone[0])


def test_slic_follows_colour_and_not_its_scale() -> None:
    images = torch.zeros(1, 3, 40, 40)
    images[..., 17:] = 1.0
    (level,) = Slic(segments=(16,), sigma=0.0)(images)
    for k in range(int(level.max()) + 1):
        assert images[:, 0][level == k].unique().numel() == 1
    assert torch.equal(Slic(segments=(16,), sigma=0.0)(images * 8 - 2)[0], level)


def test_slic_takes_constant_and_half_precision_images() -> None:
    for images in (torch.zeros(1, 3, 32, 32), torch.rand(1, 3, 32, 32).bfloat16()):
        assert_hierarchy(Slic(segments=(4, 9))(images), images)


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=3),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
)
def test_quadtree_is_nested_at_any_rank(size: list[int], factors: list[int]) -> None:
    blocks = tuple(torch.tensor(factors).cumprod(0).tolist())
    images = torch.zeros(2, 1, *size)
    levels = Quadtree(blocks)(images)
    assert_hierarchy(levels, images)
    for number, level in zip(blocks, levels, strict=True):
        wanted = 1
        for n in size:
            wanted *= min(number, n)
        assert int(level.max()) + 1 == wanted


def test_given_labels_are_renumbered_expanded_and_checked() -> None:
    coarse, fine = torch.tensor([[9, 9, 4, 4]]), torch.tensor([[[1, 5, 7, 7]], [[2, 2, 3, 9]]])
    first, second = GivenLabels([coarse, fine])(torch.zeros(2, 3, 1, 4))
    assert first.tolist() == [[[1, 1, 0, 0]], [[1, 1, 0, 0]]]
    assert second.tolist() == [[[0, 1, 2, 2]], [[0, 0, 1, 2]]]
    with pytest.raises(ValueError, match=r"levels\[1\] must be nested in levels\[0\], got 1 segm"):
        GivenLabels([fine[0], torch.tensor([[0, 1, 1, 2]])])(torch.zeros(1, 3, 1, 4))
    with pytest.raises(ValueError, match=r"levels\[0\] must have shape \(1, 5\) or \(2, 1, 5\)"):
        GivenLabels([coarse])(torch.zeros(2, 3, 1, 5))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GivenLabels([]), ValueError, "levels must hold at least one label map"),
        (
            lambda: GivenLabels(torch.zeros(2, 2).long()),
            TypeError,
            r"Try GivenLabels\(\[labels\]\)",
        ),
        (lambda: GivenLabels([torch.zeros(2)]), TypeError, r"levels\[0\] must be an integer tens"),
        (lambda: GivenLabels([[0, 1]]), TypeError, r"levels\[0\] must be an integer .* got list"),
        (lambda: Quadtree(()), ValueError, "blocks must hold at least one level"),
        (lambda: Quadtree((2, 3)), ValueError, r"blocks must be multiples .* got \(2, 3\)"),
        (lambda: Quadtree((0,)), ValueError, "blocks must be at least 1, got 0"),
        (lambda: Slic(()), ValueError, "segments must hold at least one level"),
        (lambda: Slic((9, 4)), ValueError, r"segments must grow .* got \(9, 4\)"),
        (lambda: Slic((4, 4)), ValueError, "segments must grow"),
        (lambda: Slic((4.0,)), TypeError, "segments must be an integer, got float"),
        (lambda: Slic(compactness=0.0), ValueError, "compactness must be finite and above 0"),
        (lambda: Slic(sigma=-1.0), ValueError, "sigma must be finite and at least 0, got -1.0"),
        (lambda: Slic(sigma=float("nan")), ValueError, "sigma must be finite and at least 0, got"),
        (lambda: Slic(sigma=float("inf")), ValueError, "sigma must be finite and at least 0, got"),
        (lambda: Slic(sigma="1"), TypeError, "sigma must be a number, got str"),
        (lambda: Slic()(torch.zeros(1, 3, 9)), ValueError, "two or three spatial .* Try Quadtree"),
        (lambda: Quadtree()(torch.zeros(1, 3)), ValueError, "images must have shape"),
        (lambda: Quadtree()(torch.zeros(1, 3, 4).long()), TypeError, "images must be a floating"),
        (lambda: check_images(torch.full((1, 1, 2), torch.nan)), ValueError, "images must be fini"),
        (lambda: check_images(torch.zeros(1, 0, 2)), ValueError, "images must have shape"),
    ],
)
def test_what_makes_no_segments_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("segmenter", [Slic(), Quadtree(), GivenLabels([torch.tensor([0])])])
def test_segmenters_follow_the_protocol(segmenter: Any) -> None:
    assert isinstance(segmenter, Segmenter)


def test_nesting_is_checked_both_ways() -> None:
    coarse, fine = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 2, 2]])
    check_nested([coarse, fine])
    check_nested([coarse, coarse])
    with pytest.raises(ValueError, match="must be nested"):
        check_nested([fine, coarse])


@given(st.integers(1, 6), st.integers(0, 99), st.sampled_from([(7,), (3, 4), (2, 3, 2)]))
def test_reductions_equal_loops(count: int, seed: int, size: tuple[int, ...]) -> None:
    generator = torch.manual_seed(seed)
    labels = torch.randint(0, count, (2, *size), generator=generator)
    values = torch.randn(2, *size, generator=generator).double()
    for i in range(2):
        for k in range(count + 1):
            own = values[i][labels[i] == k]
            empty = own.numel() == 0
            assert int(segment_counts(labels, count + 1)[i, k]) == own.numel()
            got = [f(values, labels, count + 1)[i, k] for f in (segment_sum, segment_mean)]
            torch.testing.assert_close(got[0], own.sum())
            torch.testing.assert_close(got[1], own.new_zeros(()) if empty else own.mean())
            top = segment_max(values, labels, count + 1)[i, k]
            assert float(top) == (-torch.inf if empty else float(own.max()))
    per_segment = torch.randn(2, count, generator=generator)
    expanded = segment_expand(per_segment, labels)
    assert torch.equal(expanded[1], per_segment[1][labels[1]])


def test_fine_segments_join_the_coarse_one_they_overlap_most() -> None:
    coarse = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    fine = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    joined, kept = nest([coarse, fine])
    assert kept.tolist() == fine.tolist()
    assert joined.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    tied = nest([coarse, torch.tensor([0, 0, 1, 1, 1, 1, 2, 2])])[0]
    assert tied.tolist() == [0, 0, 0, 0, 0, 0, 1, 1]


def test_relabel_keeps_order() -> None:
    assert relabel(torch.tensor([[5, 2, 5], [1, 1, 8]])).tolist() == [[1, 0, 1], [0, 0, 1]]


def test_slic_takes_grey_values_as_a_hundredfold() -> None:
    """Compactness is meant for the range of Lab, 0 to 100, whatever the number of channels."""
    coarse = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    grey = torch.nn.functional.interpolate(coarse, (48, 48), mode="bilinear")
    one, two = Slic(segments=(16,))(grey), Slic(segments=(16,), compactness=1000.0)(grey)
    assert not torch.equal(one[0], two[0])
    assert int(one[0].max()) + 1 < 16 or not torch.equal(
        one[0], Slic(segments=(16,), compactness=1e4)(grey)[0]
    )
