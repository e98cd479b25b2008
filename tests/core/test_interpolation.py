"""The controls against torch and Pillow."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from usu_core import CellGrid, interpolate
from usu_core._interpolation import MODES

SIZES = [((7, 7), (224, 224)), ((3, 5), (10, 11)), ((4, 4), (4, 4)), ((1, 2), (6, 7))]


@pytest.mark.parametrize(("cells", "size"), SIZES)
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_dimensions_equal_torch_bit_for_bit(
    rand: Any, cells: tuple[int, ...], size: tuple[int, ...], mode: str, dtype: torch.dtype
) -> None:
    values = rand(2, 3, *cells, dtype=dtype) - 0.5
    assert torch.equal(interpolate(values, size, mode), F.interpolate(values, size, mode=mode))


@pytest.mark.parametrize(
    ("cells", "size", "linear"), [((5,), (13,), "linear"), ((2, 3, 4), (5, 6, 7), "trilinear")]
)
def test_other_ranks_equal_torch_bit_for_bit(
    rand: Any, cells: tuple[int, ...], size: tuple[int, ...], linear: str
) -> None:
    values = rand(2, 3, *cells)
    assert torch.equal(
        interpolate(values, size, "bilinear"), F.interpolate(values, size, mode=linear)
    )
    assert torch.equal(
        interpolate(values, size, "nearest"), F.interpolate(values, size, mode="nearest")
    )


def test_bilinear_leaves_seven_sixteenths_of_a_cell_outside_it() -> None:
    cells = torch.zeros(1, 1, 7, 7)
    cells[..., 3, 3] = 1.0
    fine = interpolate(cells, (224, 224), "bilinear")[0, 0]
    torch.testing.assert_close(fine[96:128, 96:128].sum() / fine.sum(), torch.tensor(9 / 16))


@pytest.mark.parametrize(("cells", "size"), SIZES)
def test_lanczos_equals_pillow(rand: Any, cells: tuple[int, ...], size: tuple[int, ...]) -> None:
    values = rand(1, 1, *cells) - 0.3
    picture = Image.fromarray(values[0, 0].numpy())
    assert picture.mode == "F"
    wanted = np.asarray(picture.resize(size[::-1], Image.Resampling.LANCZOS))
    np.testing.assert_allclose(interpolate(values, size, "lanczos")[0, 0], wanted, atol=2e-6)


def test_lanczos_in_one_and_three_dimensions_is_separable(rand: Any) -> None:
    rows, columns, layers = rand(4), rand(3), rand(2)
    volume = layers[:, None, None] * rows[:, None] * columns
    fine = interpolate(volume[None, None], (5, 9, 8), "lanczos")[0, 0]
    parts = [
        interpolate(v[None, None], (n,), "lanczos")[0, 0]
        for v, n in ((layers, 5), (rows, 9), (columns, 8))
    ]
    torch.testing.assert_close(fine, parts[0][:, None, None] * parts[1][:, None] * parts[2])


@given(st.integers(0, 99), st.integers(1, 3))
def test_bilinear_conserving_keeps_signed_cells(seed: int, rank: int) -> None:
    generator = torch.manual_seed(seed)
    cells = torch.randint(2, 5, (rank,), generator=generator).tolist()
    size = [n + int(torch.randint(0, 12, (1,), generator=generator)) for n in cells]
    values = torch.randn(2, 2, *cells, generator=generator).double()
    values = values * (torch.rand(values.shape, generator=generator) > 0.3)
    fine = interpolate(values, size, "bilinear-conserving")
    torch.testing.assert_close(
        CellGrid.even(cells, size).mean(fine), values, rtol=1e-12, atol=1e-12
    )


def test_bilinear_conserving_is_bilinear_scaled_per_cell(rand: Any) -> None:
    values, grid = rand(1, 1, 3, 4) + 0.1, CellGrid.even((3, 4), (10, 12))
    smooth = F.interpolate(values, (10, 12), mode="bilinear")
    wanted = smooth * grid.expand(values / grid.mean(smooth))
    torch.testing.assert_close(interpolate(values, (10, 12), "bilinear-conserving"), wanted)
    # A sign apart, part by part: zero cells stay zero, signs do not mix inside a cell.
    values[0, 0, 1, 1], values[0, 0, 2, 2] = 0.0, -2.0
    fine = interpolate(values, (10, 12), "bilinear-conserving")
    labels = grid.labels()
    assert bool((fine[0, 0][labels == 5] == 0).all())
    assert bool((fine[0, 0][labels == 10] < 0).all())


@pytest.mark.parametrize("mode", MODES)
def test_constants_stay_constant(mode: str) -> None:
    fine = interpolate(torch.full((1, 2, 3, 3), 0.7), (10, 10), mode)
    torch.testing.assert_close(fine, torch.full((1, 2, 10, 10), 0.7))


@pytest.mark.parametrize("mode", MODES)
def test_gradients_flow(rand: Any, mode: str) -> None:
    values = (rand(1, 1, 3, 3, dtype=torch.float64) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: interpolate(v, (7, 8), mode), values)


def test_smooth_resizing_moves_mass_across_cells(rand: Any) -> None:
    """On random maps bilinear moves about a fifth of the mass to other cells; nearest none."""
    cells, grid = rand(64, 1, 7, 7).double(), CellGrid.even((7, 7), (224, 224))

    def moved(mode: str) -> float:
        drift = grid.mean(interpolate(cells, (224, 224), mode)) - cells
        return float(drift.abs().sum() / cells.sum())

    assert 0.15 < moved("bilinear") < 0.35
    assert moved("bicubic") > 0.05
    assert moved("lanczos") > 0.02
    assert moved("nearest") < 1e-12
    assert moved("bilinear-conserving") < 1e-12


def test_mass_that_would_overflow_is_refused_and_not_lost() -> None:
    cells = torch.full((1, 1, 2, 2), 1e37)
    with pytest.raises(ValueError, match=r"cells must not exceed .* total mass might overflow"):
        interpolate(cells, (64, 64), "bilinear-conserving")
    fine = interpolate(cells.double(), (64, 64), "bilinear-conserving")
    torch.testing.assert_close(fine, torch.full_like(fine, float(cells[0, 0, 0, 0])))


def test_nearest_follows_torch_where_it_rounds_a_border() -> None:
    """The docstring's example: should torch mend it, the docstring may promise more."""
    fine = interpolate(torch.arange(7.0)[None, None], (287,), "nearest")
    assert int((fine[0, 0].long() != CellGrid.even((7,), (287,)).labels()).sum()) > 0


@pytest.mark.parametrize(
    "mode", ["nearest", "bilinear", "bicubic", "lanczos", "bilinear-conserving"]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_kept(mode: str, dtype: torch.dtype) -> None:
    assert interpolate(torch.ones(1, 1, 2, 3).to(dtype), (4, 6), mode).dtype == dtype
