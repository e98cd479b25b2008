"""Random boxes, correlation, scale-optimised infidelity, localisation."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from usu_core.metrics import (
    box_correlation,
    box_effects,
    box_sums,
    concentration,
    matched_area_iou,
    pointing_game,
    random_boxes,
    scale_optimised_infidelity,
    threshold_iou,
)


@given(st.integers(1, 50), st.integers(1, 60), st.integers(1, 60), st.integers(0, 9))
def test_boxes_lie_inside_and_have_the_sizes_asked_for(
    count: int, height: int, width: int, seed: int
) -> None:
    boxes = random_boxes(count, (height, width), seed=seed, shares=(0.2, 0.7))
    assert boxes.shape == (count, 4)
    top, left, bottom, right = boxes.unbind(1)
    for low, high, size in ((top, bottom, height), (left, right, width)):
        assert bool((low >= 0).all() & (high <= size).all())
        sides = (high - low).double()
        assert float(sides.min()) >= max(1, round(0.2 * size) - 1)
        assert float(sides.max()) <= max(1, 0.7 * size + 0.5)


def test_boxes_reach_every_border_and_follow_their_seed() -> None:
    state = torch.get_rng_state()
    boxes = random_boxes(5000, (12, 20), seed=3)
    assert torch.equal(boxes, random_boxes(5000, (12, 20), seed=3))
    assert not torch.equal(boxes, random_boxes(5000, (12, 20), seed=4))
    assert torch.equal(torch.get_rng_state(), state)
    assert boxes[:, :2].amin(0).tolist() == [0, 0]
    assert boxes[:, 2:].amax(0).tolist() == [12, 20]
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        random_boxes(0, (4, 4))
    for shares in ((-0.1, 0.5), (0.5, 0.1), (0.5, 1.1), (0.1, float("nan"))):
        with pytest.raises(ValueError, match="shares must be in order and between 0 and 1, got"):
            random_boxes(2, (4, 4), shares=shares)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_box_sums_equal_slices(height: int, width: int, seed: int) -> None:
    maps = torch.randn(2, height, width, generator=torch.manual_seed(seed))
    boxes = random_boxes(9, (height, width), seed=seed, shares=(0.0, 1.0))
    sums = box_sums(maps, boxes)
    assert sums.dtype == torch.float64
    for i in range(2):
        for j, (t, left, b, r) in enumerate(boxes.tolist()):
            assert float(sums[i, j]) == pytest.approx(float(maps[i, t:b, left:r].sum()), abs=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 4, 64])
def test_effects_of_an_additive_model_are_its_own_sums(
    rand: Any, linear: Any, chunk_size: int
) -> None:
    images, weights = rand(2, 3, 8, 9), rand(2, 3, 8, 9)
    boxes, model = random_boxes(7, (8, 9)), linear(weights)
    effects = box_effects(
        model, images, boxes, reference="black", black=0.25, chunk_size=chunk_size
    )
    wanted = box_sums(((images - 0.25) * weights).sum(1), boxes)
    torch.testing.assert_close(effects, wanted, atol=1e-4, rtol=1e-4)
    assert sum(model.asked) == 2 * 8
    np.testing.assert_allclose(box_correlation(effects, wanted).numpy(), 1.0, atol=1e-6)
    np.testing.assert_allclose(scale_optimised_infidelity(effects, wanted).numpy(), 0.0, atol=1e-6)


@given(st.integers(0, 99), st.integers(3, 30))
def test_correlation_equals_numpys_and_ignores_scale(seed: int, count: int) -> None:
    generator = torch.manual_seed(seed)
    effects = torch.randn(2, count, generator=generator).double()
    sums = torch.randn(2, count, generator=generator).double()
    found = box_correlation(effects, sums)
    for i in range(2):
        wanted = np.corrcoef(effects[i].numpy(), sums[i].numpy())[0, 1]
        assert float(found[i]) == pytest.approx(wanted, abs=1e-12)
    torch.testing.assert_close(box_correlation(effects, 7 * sums + 2), found)
    torch.testing.assert_close(box_correlation(effects, -sums), -found)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6 / 7])
@pytest.mark.parametrize("count", [3, 7, 30, 101])
def test_constants_correlate_with_nothing(rand: Any, value: float, count: int) -> None:
    flat, other = torch.full((1, count), value).double(), rand(1, count).double()
    assert float(box_correlation(flat, other)) == 0.0
    assert float(box_correlation(other, flat)) == 0.0


@given(st.integers(0, 99))
def test_infidelity_is_the_smallest_residual_over_all_scales(seed: int) -> None:
    generator = torch.manual_seed(seed)
    effects = torch.randn(2, 20, generator=generator).double()
    sums = torch.randn(2, 20, generator=generator).double()
    found = scale_optimised_infidelity(effects, sums)
    for i in range(2):
        x, y = sums[i].numpy()[:, None], effects[i].numpy()
        _, residual, *_ = np.linalg.lstsq(x, y, rcond=None)
        assert float(found[i]) == pytest.approx(residual[0] / (y @ y), rel=1e-9)
    assert bool((found >= 0).all() & (found <= 1).all())
    torch.testing.assert_close(scale_optimised_infidelity(effects, 7 * sums), found)
    torch.testing.assert_close(scale_optimised_infidelity(7 * effects, sums), found)


def test_infidelity_of_nothing() -> None:
    zero, one = torch.zeros(1, 3).double(), torch.ones(1, 3).double()
    assert float(scale_optimised_infidelity(zero, one)) == 0.0
    assert float(scale_optimised_infidelity(one, zero)) == 1.0
    assert float(scale_optimised_infidelity(zero, zero)) == 0.0


MASK = torch.tensor([[[True, True], [False, False]]])


@pytest.mark.parametrize(
    ("values", "iou", "concentrated", "pointed"),
    [
        ([[3.0, 2.0], [1.0, 0.0]], 1.0, 5 / 6, 1.0),
        ([[0.0, -1.0], [2.0, 6.0]], 0.0, 0.0, 0.0),
        ([[4.0, 0.0], [2.0, -9.0]], 1 / 3, 4 / 6, 1.0),
        ([[0.0, 0.0], [0.0, 0.0]], 1 / 3, 0.0, 0.5),
        ([[5.0, 1.0], [5.0, 5.0]], 1 / 5, 6 / 16, 1 / 3),
        ([[-1.0, -2.0], [-3.0, -4.0]], 1.0, 0.0, 1.0),
    ],
)
def test_localisation_by_hand(
    values: list[list[float]], iou: float, concentrated: float, pointed: float
) -> None:
    attribution = torch.tensor([values])
    assert float(matched_area_iou(attribution, MASK)) == pytest.approx(iou)
    assert float(concentration(attribution, MASK)) == pytest.approx(concentrated)
    assert float(pointing_game(attribution, MASK)) == pytest.approx(pointed)


def test_localisation_is_per_example_and_scale_free(rand: Any) -> None:
    maps, mask = rand(4, 6, 6), rand(4, 6, 6) > 0.6
    for metric in (matched_area_iou, concentration, pointing_game):
        together = metric(maps, mask)
        torch.testing.assert_close(metric(maps * 9, mask), together)
        for i in range(4):
            torch.testing.assert_close(metric(maps[i : i + 1], mask[i : i + 1])[0], together[i])


@pytest.mark.parametrize("metric", [matched_area_iou, concentration, pointing_game])
@pytest.mark.parametrize(
    ("attribution", "mask", "message"),
    [
        (torch.zeros(1, 3, 2), MASK, r"same shape, got \(1, 3, 2\) and \(1, 2, 2\)"),
        (torch.zeros(1, 2, 2), ~MASK & MASK, "mask must mark at least one pixel of every example"),
        (torch.full((1, 2, 2), torch.inf), MASK, "attribution must be finite, got 4"),
    ],
)
def test_what_does_not_fit_is_refused(
    metric: Any, attribution: Tensor, mask: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metric(attribution, mask)


@pytest.mark.parametrize("metric", [matched_area_iou, concentration, pointing_game, threshold_iou])
def test_masks_of_numbers_are_refused(metric: Any) -> None:
    with pytest.raises(TypeError, match=r"mask must be a bool .* got torch.uint8. Try mask > 0"):
        metric(torch.ones(1, 2, 2), MASK.byte() * 255)


def test_effects_of_boxes_are_of_planes() -> None:
    with pytest.raises(ValueError, match=r"images must have shape \(B, C, H, W\), got \(1, 3, 4\)"):
        box_effects(lambda x: x.sum((1, 2)), torch.ones(1, 3, 4), random_boxes(2, (4, 4)))


BOXES = torch.tensor([[0, 0, 2, 2], [0, 1, 2, 2]])
ROWS = torch.ones(2, 3).double()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: box_sums(torch.ones(1, 3, 2, 2), BOXES), ValueError, r"\(B, H, W\), got \(1, 3, "),
        (lambda: box_sums(torch.ones(1, 2, 2).long(), BOXES), TypeError, "attribution must be a f"),
        (lambda: box_sums(torch.ones(1, 2, 2) / 0, BOXES), ValueError, "attribution must be fini"),
        (lambda: box_sums(torch.ones(1, 2, 2), BOXES + 1), ValueError, r"got \[1, 1, 3, 3\] for"),
        (lambda: box_sums(torch.ones(1, 2, 2), -BOXES), ValueError, "inside the image, got"),
        (lambda: box_sums(torch.ones(1, 2, 2), BOXES[:, [2, 1, 0, 3]]), ValueError, "top, left, b"),
        (lambda: box_sums(torch.ones(1, 2, 2), BOXES * 1.0), TypeError, r"boxes must .* Try .long"),
        (lambda: box_sums(torch.ones(1, 2, 2), BOXES[0]), ValueError, r"\(N, 4\), N above 0, got"),
        (lambda: box_sums(torch.ones(1, 2, 2), BOXES[:0]), ValueError, "boxes must have shape"),
        (
            lambda: box_effects(lambda x: x.sum((1, 2, 3)), torch.ones(1, 1, 2, 2), BOXES + 1),
            ValueError,
            r"Try random_boxes\(count, \(2, 2\)\)",
        ),
        (lambda: random_boxes(2, (0, 4)), ValueError, r"size must not be empty, got \(0, 4\)"),
        (lambda: random_boxes(2, (2, 3, 4)), ValueError, r"size must be .*got \(2, 3, 4\)"),
    ],
)
def test_boxes_that_do_not_fit_are_refused(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("metric", [box_correlation, scale_optimised_infidelity])
def test_rows_that_do_not_fit_are_refused(metric: Any) -> None:
    for other in (ROWS[:1], ROWS[0], ROWS[:, :2]):
        with pytest.raises(ValueError, match="effects and sums must have the same shape"):
            metric(ROWS, other)
    with pytest.raises(ValueError, match="effects must be finite, got 6"):
        metric(ROWS / 0, ROWS)
    with pytest.raises(ValueError, match="sums must be finite, got 6"):
        metric(ROWS, ROWS / 0)


def test_bytes_and_empty_boxes_are_boxes() -> None:
    maps = torch.ones(1, 2, 2)
    assert torch.equal(box_sums(maps, BOXES.byte()), box_sums(maps, BOXES))
    assert box_sums(maps, torch.tensor([[1, 0, 1, 2]])).tolist() == [[0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_no_effect(rand: Any, dtype: torch.dtype) -> None:
    """A score that stays may differ by some units in the last place, in batches of other sizes."""
    images, maps = rand(2, 1, 8, 8).to(dtype), rand(2, 8, 8)
    boxes, eps = random_boxes(20, (8, 8)), torch.finfo(dtype).eps

    def steady(size: float) -> Any:
        return lambda x: -(3 + size * eps * (x.sum((1, 2, 3)) * 1e4).sin())

    effects = box_effects(steady(8), images, boxes, chunk_size=7)
    assert not bool(effects.any())
    sums = box_sums(maps, boxes)
    assert box_correlation(effects, sums).tolist() == [0.0, 0.0]
    assert scale_optimised_infidelity(effects, sums).tolist() == [0.0, 0.0]
    assert bool(box_effects(steady(200), images, boxes).any())


def test_sides_are_a_tenth_to_a_half_by_default() -> None:
    boxes = random_boxes(2000, (100, 200))
    sides = (boxes[:, 2:] - boxes[:, :2]).double() / torch.tensor([100.0, 200.0])
    assert sides.amin(0).tolist() == pytest.approx([0.1, 0.1], abs=0.011)
    assert sides.amax(0).tolist() == pytest.approx([0.5, 0.5], abs=0.011)


@pytest.mark.parametrize("metric", [matched_area_iou, concentration, pointing_game, threshold_iou])
def test_one_empty_mask_of_several_is_refused(metric: Any) -> None:
    masks = torch.cat([MASK, ~MASK & MASK])
    with pytest.raises(ValueError, match="mask must mark at least one pixel of every example"):
        metric(torch.ones(2, 2, 2), masks)
