"""Content boxes and explicit label maps."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from usu_core import CellGrid, usu

Box = tuple[int, int, Fraction, Fraction]


@st.composite
def axis_boxes(draw: Any) -> Box:
    """Cells, pixels, and a box in quarters of a pixel that may reach beyond the image."""
    cells, pixels = draw(st.integers(1, 7)), draw(st.integers(1, 24))
    low = Fraction(draw(st.integers(-20, 4 * pixels - 1)), 4)
    high = low + Fraction(draw(st.integers(1, 8 * pixels)), 4)
    assume(high > 0)
    return cells, pixels, low, high


def brute(cells: int, pixels: int, low: Fraction, high: Fraction) -> list[int]:
    """Cell of the pixel whose lower edge is p: the i with edge_i <= p < edge_(i + 1)."""
    return [
        (p - low) * cells // (high - low) if low <= p < high else -1
        for p in map(Fraction, range(pixels))
    ]


@given(axis_boxes())
def test_one_axis_equals_the_definition(box: Box) -> None:
    cells, pixels, low, high = box
    grid = CellGrid.box((cells,), (pixels,), (low, high))
    assert grid.labels().tolist() == brute(*box)
    assert grid.sizes().tolist() == [brute(*box).count(k) for k in range(cells)]


@given(axis_boxes(), axis_boxes())
def test_two_axes_are_the_product_of_both(first: Box, second: Box) -> None:
    cells, pixels = (first[0], second[0]), (first[1], second[1])
    grid = CellGrid.box(cells, pixels, (first[2], second[2], first[3], second[3]))
    rows, columns = np.array(brute(*first)), np.array(brute(*second))
    both = rows[:, None] * cells[1] + columns
    truth = np.where((rows[:, None] < 0) | (columns < 0), -1, both)
    np.testing.assert_array_equal(grid.labels().numpy(), truth)
    values = torch.rand(2, *pixels, generator=torch.manual_seed(0)).double()
    for k, total in enumerate(grid.sum(values)[1].flatten().tolist()):
        assert total == pytest.approx(values[1].numpy()[truth == k].sum(), abs=1e-12)
    fine = grid.expand(torch.arange(1.0, 1 + cells[0] * cells[1]).view(1, *cells))
    np.testing.assert_array_equal(fine[0].numpy(), truth + 1)


@given(axis_boxes())
def test_a_box_and_its_labels_agree(box: Box) -> None:
    cells, pixels, low, high = box
    dense = CellGrid.box((cells,), (pixels,), (low, high))
    assume(int(dense.sizes().sum()) > 0)
    explicit = CellGrid.from_labels(dense.labels(), (cells,))
    values = torch.randn(3, pixels, generator=torch.manual_seed(1)).double()
    torch.testing.assert_close(dense.sum(values), explicit.sum(values), atol=1e-12, rtol=0)
    assert torch.equal(dense.max(values), explicit.max(values))
    assert torch.equal(dense.mean(values) == 0, explicit.mean(values) == 0)
    coarse = torch.randn(2, cells, generator=torch.manual_seed(2)).double()
    phi = torch.rand(2, pixels, generator=torch.manual_seed(3)).double()
    torch.testing.assert_close(
        usu(coarse, phi, grid=dense), usu(coarse, phi, grid=explicit), atol=1e-12, rtol=0
    )


def test_pixels_outside_the_box_get_nothing_and_inside_ones_all() -> None:
    grid = CellGrid.box((2, 2), (6, 8), (1, 2, 5, 6))
    fine = usu(torch.ones(1, 2, 2), torch.rand(1, 6, 8), grid=grid)
    outside = torch.ones(6, 8, dtype=torch.bool)
    outside[1:5, 2:6] = False
    assert bool((fine[0][outside] == 0).all())
    torch.testing.assert_close(fine.sum(), torch.tensor(16.0))
    assert not grid.is_even
    assert "box" in repr(grid)


def test_the_whole_image_as_box_is_the_even_grid() -> None:
    grid = CellGrid.box((3, 2), (7, 5), (0, 0, 7, 5))
    assert grid.is_even
    assert "even" in repr(grid)


def test_a_box_may_have_more_cells_than_pixels() -> None:
    grid = CellGrid.box((4,), (3,), (0, 8))
    assert not grid.is_even
    assert "box" in repr(grid)
    assert grid.sizes().tolist() == [2, 1, 0, 0]


def test_a_float_division_would_move_this_border() -> None:
    # 0.1 * 3 > 0.3 in floating point: exact arithmetic keeps pixel 3 in cell 1 of [0, 6).
    grid = CellGrid.box((2,), (6,), (Fraction(0), Fraction(6)))
    assert grid.labels().tolist() == [0, 0, 0, 1, 1, 1]
    thirds = CellGrid.even((49,), (49 * 3,))
    assert thirds.sizes().tolist() == [3] * 49


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 4), "box must have 4 numbers, got 2"),
        ((2, 0, 2, 4), r"non-empty and overlap .* got \[2, 2\) on an axis of 4"),
        ((0, 4, 4, 9), "non-empty and overlap"),
        ((-3, 0, 0, 4), "non-empty and overlap"),
        ((3, 0, 1, 4), "non-empty and overlap"),
        ((0, 0, float("nan"), 4), r"box must be finite, got \(0, 0, nan, 4\)"),
        ((0, 0, 4, float("inf")), "box must be finite"),
    ],
)
def test_boxes_that_miss_the_image_are_refused(box: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CellGrid.box((2, 2), (4, 4), box)


def test_labels_with_pixels_outside_and_an_empty_cell() -> None:
    labels = torch.tensor([[0, 0, -1], [2, 2, 2]])
    grid = CellGrid.from_labels(labels)
    assert grid.cells == (3,)
    assert grid.sizes().tolist() == [2, 0, 3]
    values = torch.tensor([[[1.0, 3.0, 100.0], [4.0, 5.0, 6.0]]])
    assert grid.sum(values).tolist() == [[4.0, 0.0, 15.0]]
    assert grid.mean(values).tolist() == [[2.0, 0.0, 5.0]]
    assert grid.max(values).tolist() == [[3.0, -torch.inf, 6.0]]
    fine = grid.expand(torch.tensor([[7.0, 8.0, 9.0]]))
    assert fine.tolist() == [[[7.0, 7.0, 0.0], [9.0, 9.0, 9.0]]]
    assert "labels" in repr(grid)


def test_labels_take_a_coarse_shape() -> None:
    grid = CellGrid.from_labels(torch.tensor([0, 1, 2, 2]), (2, 2))
    assert grid.sizes().tolist() == [[1, 1], [2, 0]]


def test_labels_are_copied() -> None:
    labels = torch.tensor([0, 1, 1])
    grid = CellGrid.from_labels(labels)
    labels.zero_()
    assert grid.labels().tolist() == [0, 1, 1]


def test_label_sums_of_many_float32_values_do_not_drift() -> None:
    values = torch.full((1, 300_000), 0.1)
    grid = CellGrid.from_labels(torch.zeros(300_000, dtype=torch.long))
    exact = 300_000 * float(torch.tensor(0.1).double())
    assert float(grid.sum(values)) == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize(
    ("labels", "cells", "error", "message"),
    [
        (torch.zeros(4), None, TypeError, "labels must be an integer tensor, got torch.float32"),
        ([0, 1], None, TypeError, "labels must be an integer tensor, got list"),
        (torch.tensor([-2, 0]), None, ValueError, "cell numbers or -1, got values from -2 to 0"),
        (torch.tensor([-1, -1]), None, ValueError, "cell numbers or -1, got values from -1 to -1"),
        (torch.tensor([0, 4]), (2, 2), ValueError, r"labels must be below 4 for cells \(2, 2\)"),
        (torch.zeros(0, dtype=torch.long), None, ValueError, "labels.shape must not be empty"),
        (torch.zeros((1,) * 4, dtype=torch.long), None, ValueError, "1, 2 or 3 dimensions"),
    ],
)
def test_labels_that_make_no_grid_are_refused(
    labels: Tensor, cells: tuple[int, ...] | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        CellGrid.from_labels(labels, cells)


def test_a_float_sum_would_move_this_border() -> None:
    # 1/3 + (17/3 - 1/3) / 2 is 3 exactly, and more than 3 in floating point.
    grid = CellGrid.box((2,), (6,), (Fraction(1, 3), Fraction(17, 3)))
    assert grid.labels().tolist() == [-1, 0, 0, 1, 1, 1]
