"""Even grids against floor(p * h / H), pixel by pixel."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from usu_core import CellGrid

Shapes = tuple[tuple[int, ...], tuple[int, ...]]


@st.composite
def shapes(draw: Any) -> Shapes:
    """A coarse shape and a fine one at least as large, of rank 1 to 3."""
    rank = draw(st.integers(1, 3))
    fine = tuple(draw(st.integers(1, (40, 17, 9)[rank - 1])) for _ in range(rank))
    return tuple(draw(st.integers(1, n)) for n in fine), fine


@given(shapes())
def test_labels_and_sizes_equal_the_definition(brute_labels: Any, shape: Shapes) -> None:
    grid, truth = CellGrid.even(*shape), brute_labels(*shape)
    np.testing.assert_array_equal(grid.labels().numpy(), truth)
    counts = np.bincount(truth.ravel(), minlength=int(np.prod(shape[0])))
    np.testing.assert_array_equal(grid.sizes().numpy().ravel(), counts)
    assert counts.min() >= 1
    assert grid.is_even
    assert grid.is_dense


@given(shapes(), st.integers(0, 2))
def test_reductions_equal_loops_over_pixels(brute_labels: Any, shape: Shapes, lead: int) -> None:
    cells, pixels = shape
    grid, truth = CellGrid.even(cells, pixels), brute_labels(cells, pixels).ravel()
    values = torch.randn(*[2] * lead, *pixels, generator=torch.manual_seed(0)).double()
    flat = values.reshape(-1, truth.size).numpy()
    members = [flat[:, truth == k] for k in range(int(np.prod(cells)))]
    wanted: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "sum": lambda m: m.sum(1),
        "mean": lambda m: m.mean(1),
        "max": lambda m: m.max(1),
    }
    for name, reduce in wanted.items():
        result = getattr(grid, name)(values)
        assert result.shape == (*[2] * lead, *cells)
        truth_value = np.stack([reduce(m) for m in members], 1)
        np.testing.assert_allclose(result.reshape(truth_value.shape), truth_value, atol=1e-12)


@given(shapes(), st.integers(0, 2))
def test_expand_gives_each_pixel_its_cells_value(
    brute_labels: Any, shape: Shapes, lead: int
) -> None:
    cells, pixels = shape
    coarse = torch.randn(*[2] * lead, *cells, generator=torch.manual_seed(1))
    fine = CellGrid.even(cells, pixels).expand(coarse)
    flat = coarse.reshape(-1, int(np.prod(cells))).numpy()[:, brute_labels(cells, pixels).ravel()]
    np.testing.assert_array_equal(fine.reshape(flat.shape).numpy(), flat)
    assert fine.shape == (*[2] * lead, *pixels)


@given(shapes())
def test_join_undoes_split(shape: Shapes) -> None:
    grid = CellGrid.even(*shape)
    values = torch.randn(2, *shape[1], generator=torch.manual_seed(2))
    blocks = grid.split(values, -7.0)
    assert blocks.dim() == 1 + 2 * len(shape[0])
    assert torch.equal(grid.join(blocks), values)


@given(shapes())
def test_split_puts_a_cells_pixels_in_its_block_and_the_fill_beside_them(shape: Shapes) -> None:
    grid = CellGrid.even(*shape)
    blocks = grid.split(torch.ones(shape[1]), 0.0)
    assert torch.equal(blocks.sum(grid.within).long(), grid.sizes())
    numbered = grid.split(grid.labels().double(), -1.0).amax(grid.within)
    assert torch.equal(numbered.flatten(), torch.arange(numbered.numel()).double())


@given(shapes())
def test_dense_and_label_forms_of_one_partition_agree(shape: Shapes) -> None:
    dense = CellGrid.even(*shape)
    explicit = CellGrid.from_labels(dense.labels(), dense.cells)
    assert not explicit.is_dense
    assert not explicit.is_even
    values = torch.randn(3, *shape[1], generator=torch.manual_seed(3)).double()
    coarse = torch.randn(3, *shape[0], generator=torch.manual_seed(4)).double()
    torch.testing.assert_close(dense.sum(values), explicit.sum(values), atol=1e-12, rtol=0)
    torch.testing.assert_close(dense.mean(values), explicit.mean(values), atol=1e-12, rtol=0)
    assert torch.equal(dense.max(values), explicit.max(values))
    assert torch.equal(dense.expand(coarse), explicit.expand(coarse))
    assert torch.equal(dense.sizes(), explicit.sizes())
    assert torch.equal(dense.labels(), explicit.labels())


def test_a_32_over_7_axis_has_the_sides_the_definition_gives() -> None:
    assert CellGrid.even((7,), (32,)).sizes().tolist() == [5, 5, 4, 5, 4, 5, 4]


@pytest.mark.parametrize("name", ["sum", "mean", "max"])
@pytest.mark.parametrize("pixels", [(4, 6), (5, 7)])
@pytest.mark.parametrize("dense", [True, False])
def test_reductions_are_differentiable(name: str, pixels: tuple[int, ...], dense: bool) -> None:
    grid = CellGrid.even((2, 3), pixels)
    if not dense:
        grid = CellGrid.from_labels(grid.labels(), grid.cells)
    values = torch.randn(2, *pixels, generator=torch.manual_seed(5)).double().requires_grad_()
    assert torch.autograd.gradcheck(getattr(grid, name), values)


@pytest.mark.parametrize("pixels", [(4, 6), (5, 7)])
@pytest.mark.parametrize("dense", [True, False])
def test_expand_split_and_join_are_differentiable(pixels: tuple[int, ...], dense: bool) -> None:
    even = CellGrid.even((2, 3), pixels)
    grid = even if dense else CellGrid.from_labels(even.labels(), even.cells)
    coarse = torch.randn(2, 2, 3, generator=torch.manual_seed(6)).double().requires_grad_()
    assert torch.autograd.gradcheck(grid.expand, coarse)
    fine = torch.randn(2, *pixels, generator=torch.manual_seed(7)).double().requires_grad_()

    def there_and_back(values: Tensor) -> Tensor:
        return even.join(even.split(values, 0.0) ** 2)

    assert torch.autograd.gradcheck(there_and_back, fine)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_reductions_keep_the_dtype(dtype: torch.dtype) -> None:
    for grid in (CellGrid.even((2,), (5,)), CellGrid.from_labels(torch.tensor([0, 0, 0, 1, 1]))):
        values = torch.ones(1, 5, dtype=dtype)
        assert grid.sum(values).dtype == dtype
        assert grid.sum(values).tolist() == [[3.0, 2.0]]


@pytest.mark.parametrize(
    ("cells", "pixels", "message"),
    [
        ((8,), (7,), r"cells must not be larger than pixels along any axis, got \(8,\) .* \(7,\)"),
        ((2, 9), (20, 8), "must not be larger than pixels"),
        ((2,), (4, 4), r"same rank, got \(2,\) and \(4, 4\)"),
        ((0, 2), (4, 4), r"cells must not be empty, got \(0, 2\)"),
        ((2, 2), (4, 0), r"pixels must not be empty, got \(4, 0\)"),
        ((), (), "cells must have 1, 2 or 3 dimensions"),
        ((1,) * 4, (2,) * 4, "cells must have 1, 2 or 3 dimensions"),
    ],
)
def test_sizes_that_make_no_grid_are_refused(
    cells: tuple[int, ...], pixels: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CellGrid.even(cells, pixels)


@pytest.mark.parametrize("name", ["sum", "mean", "max"])
@pytest.mark.parametrize("labels", [None, torch.tensor([0, 0, 1, 1])])
def test_tensors_of_another_lattice_are_refused(name: str, labels: Tensor | None) -> None:
    grid = CellGrid.even((2,), (4,)) if labels is None else CellGrid.from_labels(labels)
    with pytest.raises(ValueError, match=r"values must end in shape \(4,\), got \(2, 5\)"):
        getattr(grid, name)(torch.ones(2, 5))
    with pytest.raises(ValueError, match=r"cells must end in shape \(2,\), got \(1, 3\)"):
        grid.expand(torch.ones(1, 3))
