"""USU against its closed form, computed per cell in float64 with numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from usu_core import CellGrid, usu

TOLERANCE = {torch.float32: 5e-7, torch.float64: 1e-13}


def oracle(cells: Tensor, scores: Tensor, labels: np.ndarray, temperature: float) -> np.ndarray:
    """A(x) = a_k |N_k| exp(s(x) / T) / sum over the cell of exp(s / T), 0 outside."""
    a = cells.double().flatten(1).numpy()
    s = scores.double().flatten(1).numpy()
    fine, flat = np.zeros_like(s), labels.ravel()
    for k in range(a.shape[1]):
        inside = flat == k
        if inside.any():
            weight = np.exp((s[:, inside] - s[:, inside].max(1, keepdims=True)) / temperature)
            share = weight / weight.sum(1, keepdims=True)
            fine[:, inside] = a[:, k : k + 1] * inside.sum() * share
    return fine.reshape(scores.shape)


@st.composite
def grids(draw: Any) -> CellGrid:
    """An even grid, a box or a label map, of rank 1 to 3."""
    rank = draw(st.integers(1, 3))
    fine = tuple(draw(st.integers(1, (60, 20, 9)[rank - 1])) for _ in range(rank))
    cells = tuple(draw(st.integers(1, n)) for n in fine)
    kind = draw(st.sampled_from(["even", "box", "labels"]))
    if kind == "even":
        return CellGrid.even(cells, fine)
    if kind == "box":
        low = [draw(st.integers(-3, n - 1)) for n in fine]
        high = [max(1, lo + draw(st.integers(1, 2 * n))) for lo, n in zip(low, fine, strict=True)]
        return CellGrid.box(cells, fine, (*low, *high))
    seed = torch.manual_seed(draw(st.integers(0, 99)))
    labels = torch.randint(-1, int(np.prod(cells)), fine, generator=seed)
    labels.view(-1)[0] = 0
    return CellGrid.from_labels(labels, cells)


@st.composite
def problems(draw: Any) -> tuple[CellGrid, Tensor, Tensor, float]:
    """A grid, signed cells with zeros, scores with ties and extremes, and a temperature."""
    grid = draw(grids())
    generator = torch.manual_seed(draw(st.integers(0, 999)))
    scale = 10.0 ** draw(st.integers(-20, 20))
    cells = torch.randn(2, *grid.cells, generator=generator, dtype=torch.float64) * scale
    cells = cells * (torch.rand(cells.shape, generator=generator) > 0.2)
    scores = torch.rand(2, *grid.pixels, generator=generator, dtype=torch.float64)
    scores = scores if draw(st.booleans()) else (scores * 4).round() / 4
    return grid, cells, scores, 10.0 ** draw(st.integers(-6, 6))


@given(problems())
def test_equals_the_closed_form(problem: tuple[CellGrid, Tensor, Tensor, float]) -> None:
    grid, cells, scores, temperature = problem
    fine = usu(cells, scores, temperature=temperature, grid=grid)
    truth = oracle(cells, scores, grid.labels().numpy(), temperature)
    # exp magnifies the rounding of its argument, up to 1e6 * 2^-53 at the lowest temperature.
    margin = 1e-12 + 1e-15 / temperature
    limit = np.abs(truth).max() * margin
    np.testing.assert_allclose(fine.numpy(), truth, atol=limit, rtol=margin)


@given(
    problems(),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.sampled_from(["density", "total"]),
    st.sampled_from(["same", "invert"]),
    st.sampled_from(["tensor", "power", "log-odds"]),
)
def test_keeps_the_mass_of_every_cell(
    problem: tuple[CellGrid, Tensor, Tensor, float],
    dtype: torch.dtype,
    convention: str,
    negative: str,
    potential: str,
) -> None:
    grid, cells, scores, temperature = problem
    half = dtype in (torch.float16, torch.bfloat16)
    cells = (cells / cells.abs().max().clamp(min=1e-300) if half else cells).to(dtype)
    sizes = grid.sizes().double()
    if convention == "total" and bool((sizes == 0).any()):
        return
    fine = usu(
        cells,
        scores.to(dtype),
        temperature=temperature,
        potential=potential,
        convention=convention,
        negative=negative,
        grid=grid,
    )
    assert fine.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert bool(fine.isfinite().all())
    flat = grid.labels().flatten()
    mass = cells.double() * (sizes if convention == "density" else 1.0)
    for k, wanted in enumerate(mass.flatten(1).T):
        inside = fine.double().flatten(1)[:, flat == k]
        if inside.shape[1]:
            error = (inside.sum(1) - wanted).abs() / wanted.abs().where(wanted != 0, 1.0)
            assert float(error.max()) <= TOLERANCE[fine.dtype]
            assert bool((inside[wanted == 0] == 0).all())
            assert bool((inside * wanted[:, None] >= 0).all())
    assert bool((fine.flatten(1)[:, flat < 0] == 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("cells", "pixels"), [(7, 224), (1, 224), (14, 225), (7, 500)])
@pytest.mark.parametrize("temperature", [1e-6, 0.1, 1e6])
def test_keeps_mass_at_image_sizes(
    rand: Any, dtype: torch.dtype, cells: int, pixels: int, temperature: float
) -> None:
    grid = CellGrid.even((cells, cells), (pixels, pixels))
    a, phi = rand(2, cells, cells, dtype=dtype) - 0.3, rand(2, pixels, pixels, dtype=dtype)
    mean = grid.mean(usu(a, phi, temperature=temperature).double())
    assert float(((mean - a) / a).abs().max()) <= TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("cells", "pixels", "temperature", "share"),
    [
        ((7, 7), (1792, 1792), 0.05, None),  # one hot pixel in each cell
        ((7, 7), (1793, 1793), 0.05, None),
        ((7, 7), (217, 217), 0.0601, None),  # where each low one is just under half an ulp of 1
        ((7, 7), (224, 224), 0.1, 1e-3),
        ((1,), (1_000_000,), 0.05, None),
        ((2, 1, 1), (128, 128, 128), 0.05, None),
    ],
)
def test_many_low_scores_next_to_a_high_one_keep_their_mass(
    cells: tuple[int, ...], pixels: tuple[int, ...], temperature: float, share: float | None
) -> None:
    """Each is far below what single precision holds next to 1, all together they are not."""
    generator = torch.Generator().manual_seed(0)
    grid = CellGrid.even(cells, pixels)
    if share is None:
        scores = torch.zeros(1, *pixels)
        one = (slice(1, None, p // n) for n, p in zip(cells, pixels, strict=True))
        scores[0, *one] = 1.0
    else:
        scores = (torch.rand(1, *pixels, generator=generator) < share).float()
    coarse = torch.randn(1, *cells, generator=generator)
    fine = usu(coarse, scores, temperature=temperature)
    wanted = coarse.double() * grid.sizes()
    torch.testing.assert_close(grid.sum(fine.double()), wanted, rtol=2e-6, atol=0)


def test_the_oracle_can_fail(rand: Any) -> None:
    cells, scores = rand(1, 2, 2), rand(1, 8, 8)
    labels = CellGrid.even((2, 2), (8, 8)).labels().numpy()
    wrong = oracle(cells, scores, labels, 0.11)
    assert not np.allclose(usu(cells, scores, temperature=0.1).numpy(), wrong, rtol=1e-3)


def test_unequal_cells_hold_area_weighted_mass() -> None:
    cells, scores = torch.ones(1, 2), torch.tensor([[0.0, 0.5, 1.0, 0.0, 0.0]])
    fine = usu(cells, scores, temperature=1.0)
    weight = torch.tensor([0.0, 0.5, 1.0]).exp()
    torch.testing.assert_close(fine[0, :3], 3 * weight / weight.sum())
    assert fine[0, 3:].tolist() == [1.0, 1.0]
    total = usu(cells, scores, temperature=1.0, convention="total")
    torch.testing.assert_close(total[0, :3], weight / weight.sum())
    assert total[0, 3:].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("negative", ["same", "invert"])
def test_negative_cells(negative: str) -> None:
    cells, scores = torch.tensor([[-2.0]]), torch.tensor([[0.0, 1.0]])
    fine = usu(cells, scores, temperature=1.0, negative=negative)
    high = 4 * torch.e / (1 + torch.e)
    wanted = [high - 4, -high] if negative == "same" else [-high, high - 4]
    torch.testing.assert_close(fine, torch.tensor([wanted]))
    assert bool((fine[0, 0] < fine[0, 1]) == (negative == "invert"))
