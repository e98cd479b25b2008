"""Metrics of maps alone, their rank correlation, and their sensitivity to small changes."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy, spearmanr
from torch import Tensor

from usu_core.metrics import complexity, max_sensitivity, sparseness, spearman, threshold_iou

VALUES = st.lists(st.floats(-9, 9, width=32), min_size=2, max_size=30)


def gini(values: np.ndarray) -> float:
    """Half the mean absolute difference of all pairs over the mean."""
    return float(np.abs(values[:, None] - values).mean() / (2 * values.mean()))


@given(VALUES, st.floats(1e-3, 1e3), st.randoms(use_true_random=False))
def test_sparseness_and_complexity(values: list[float], scale: float, random: Any) -> None:
    maps = torch.tensor([values])
    size = maps[0].double().abs().numpy()
    if size.sum() > 0:
        assert float(sparseness(maps)) == pytest.approx(gini(size), abs=1e-9)
        assert float(complexity(maps)) == pytest.approx(entropy(size / size.max()), abs=1e-9)
    shuffled = values.copy()
    random.shuffle(shuffled)
    for metric, high in (
        (sparseness, 1 - 1 / len(values)),
        (complexity, np.log(len(values))),
    ):
        found = float(metric(maps))
        assert -1e-12 <= found <= high + 1e-12
        assert float(metric(torch.tensor([shuffled]))) == pytest.approx(found, abs=1e-9)
        assert float(metric(-scale * maps.double())) == pytest.approx(found, abs=1e-9)


def test_flat_and_empty_maps_and_one_pixel() -> None:
    maps = torch.tensor([[0.0, 0, 0, 0], [2, -2, 2, 2], [0, -7, 0, 0], [1e-30, 0, 0, 0]])
    np.testing.assert_allclose(sparseness(maps).numpy(), [0, 0, 0.75, 0.75], atol=1e-12)
    np.testing.assert_allclose(complexity(maps).numpy(), [np.log(4), np.log(4), 0, 0], atol=1e-12)


@given(st.integers(2, 40), st.integers(1, 9), st.integers(0, 99))
def test_rank_correlation_equals_scipys(count: int, levels: int, seed: int) -> None:
    generator = torch.manual_seed(seed)
    first, second = torch.randint(0, levels + 1, (2, 3, count), generator=generator).float()
    found = spearman(first, second)
    for i in range(3):
        if len(first[i].unique()) > 1 and len(second[i].unique()) > 1:
            assert float(found[i]) == pytest.approx(spearmanr(first[i], second[i])[0], abs=1e-12)
        else:
            assert float(found[i]) == 0.0
    torch.testing.assert_close(spearman(first.exp(), -second), -found)
    torch.testing.assert_close(spearman(second, first), found)


MASK = torch.tensor([[[True, True], [False, False]]])


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([[4.0, 2.0], [1.0, -9.0]], [2 / 3, 1.0, 1 / 2]),
        ([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0, 0.0]),
        ([[-1.0, -2.0], [-3.0, -4.0]], [0.0, 0.0, 0.0]),
        ([[3.0, 3.0], [3.0, 3.0]], [1 / 2, 1 / 2, 1 / 2]),
        ([[0.0, 0.0], [1.0, 1.0]], [0.0, 0.0, 0.0]),
    ],
)
def test_iou_at_thresholds_by_hand(values: list[list[float]], wanted: list[float]) -> None:
    maps = torch.tensor([values])
    found = threshold_iou(maps, MASK)
    assert found[0].tolist() == pytest.approx(wanted)
    torch.testing.assert_close(threshold_iou(7 * maps, MASK), found)
    assert threshold_iou(maps, MASK, [0.5])[0].tolist() == pytest.approx(wanted[1:2])


def test_sensitivity_of_a_linear_map(rand: Any) -> None:
    images = rand(3, 2, 4, 4).double() + 1
    state = torch.get_rng_state()
    found = max_sensitivity(lambda x: x.sum(1), images, radius=0.1, samples=5, seed=4)
    generator, wanted = torch.Generator().manual_seed(4), torch.zeros(3).double()
    for _ in range(5):
        draw = 0.1 * (2 * torch.rand(2, 4, 4, generator=generator).double() - 1)
        wanted = wanted.maximum(draw.sum(0).norm() / images.sum(1).flatten(1).norm(dim=1))
    torch.testing.assert_close(found, wanted)
    assert torch.equal(torch.get_rng_state(), state)
    scaled = max_sensitivity(lambda x: -8 * x.sum(1), images, radius=0.1, samples=5, seed=4)
    torch.testing.assert_close(scaled, found)
    more = max_sensitivity(lambda x: x.sum(1), images, radius=0.1, samples=9, seed=4)
    assert bool((more >= found).all())


def test_sensitivity_stays_in_its_box_and_counts_its_calls(rand: Any) -> None:
    images, seen = rand(2, 1, 5, 5), []

    def attribute(x: Tensor) -> Tensor:
        seen.append(x)
        return x * 0

    assert max_sensitivity(attribute, images, radius=0.25, samples=4).tolist() == [0.0, 0.0]
    assert len(seen) == 5
    furthest = max(float((x - images).abs().max()) for x in seen)
    assert 0.2 < furthest <= 0.25 + 1e-6
    assert torch.equal(seen[0], images)
    # A zero map that changes: the change itself.
    rising = max_sensitivity(lambda x: (x - images).abs(), images, samples=1)
    assert bool((rising > 0).all() & torch.isfinite(rising).all())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sparseness(torch.ones(1, 2).long()), TypeError, "attribution must be a floating"),
        (lambda: complexity(torch.full((1, 2), torch.nan)), ValueError, "must be finite, got 2"),
        (lambda: sparseness(torch.ones(3)), ValueError, r"must have shape \(B, \*pixels\)"),
        (lambda: spearman(torch.ones(1, 2), torch.ones(2, 1)), ValueError, "the same shape"),
        (lambda: spearman(torch.ones(1, 2) / 0, torch.ones(1, 2)), ValueError, "first must be fin"),
        (lambda: threshold_iou(torch.ones(1, 2, 2), MASK, [0.0]), ValueError, "thresholds must"),
        (lambda: threshold_iou(torch.ones(1, 2, 2), MASK, []), ValueError, "thresholds must"),
        (lambda: max_sensitivity(total, torch.ones(2, 1, 2), radius=0), ValueError, "radius must"),
        (lambda: max_sensitivity(total, torch.ones(2, 1, 2), samples=0), ValueError, "samples mu"),
        (lambda: max_sensitivity(total, torch.ones(2, 1, 2)), ValueError, "one map per example"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def total(images: Tensor) -> Tensor:
    return images.sum()


def test_the_second_of_two_maps_is_checked_as_well() -> None:
    with pytest.raises(ValueError, match="second must be finite, got 1"):
        spearman(torch.ones(1, 2), torch.tensor([[1.0, torch.nan]]))


def test_thresholds_are_of_each_maps_own_largest_value(rand: Any) -> None:
    maps, mask = rand(3, 6, 6) * torch.tensor([1.0, 9.0, 80.0]).view(3, 1, 1), rand(3, 6, 6) > 0.6
    together = threshold_iou(maps, mask)
    for i in range(3):
        torch.testing.assert_close(threshold_iou(maps[i : i + 1], mask[i : i + 1])[0], together[i])


def test_the_largest_numbers_there_are_have_shares() -> None:
    maps = torch.full((1, 4), 1.7e308, dtype=torch.float64)
    maps[0, 0] = 0.0
    assert float(sparseness(maps)) == pytest.approx(0.25)
    assert float(complexity(maps)) == pytest.approx(np.log(3))


def test_rounding_does_not_leave_the_range() -> None:
    for pixels in range(2, 400):
        flat = torch.full((1, pixels), 0.1)
        assert float(sparseness(flat)) >= 0
        assert float(complexity(flat)) <= float(np.log(pixels))


def test_sensitivity_keeps_no_graph(rand: Any) -> None:
    images = rand(2, 1, 4, 4).requires_grad_()
    assert not max_sensitivity(lambda x: x * 2, images).requires_grad
