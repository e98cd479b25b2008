"""IWMR against equations 13 and 14, and the mass it moves."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from usu_core import CellGrid, iwmr, usu


def oracle(
    cells: Tensor,
    scores: Tensor,
    labels: np.ndarray,
    prior: str,
    importance: str,
    temperature: float,
    importance_temperature: float,
) -> np.ndarray:
    """Move each sign's mass by importance, spread it by a softmax; one example, float64."""
    s, flat = scores.double().numpy().ravel(), labels.ravel()
    count = cells.numel()
    sizes = np.bincount(flat, minlength=count).astype(float)
    level = np.array([getattr(s[flat == k], importance)() for k in range(count)])
    mass = cells.double().numpy().ravel() * sizes
    parts = [mass] if prior == "uniform" else [mass.clip(0), mass.clip(max=0)]
    moved = np.zeros(count)
    for part in parts:
        weight = sizes if prior == "uniform" else np.abs(part)
        gain = weight * np.exp((level - level.max()) / importance_temperature)
        if gain.sum() > 0:
            moved += part.sum() * gain / gain.sum()
    fine = np.zeros_like(s)
    for k in range(count):
        weight = np.exp((s[flat == k] - s[flat == k].max()) / temperature)
        fine[flat == k] = moved[k] * weight / weight.sum()
    return fine.reshape(scores.shape)


@given(
    st.integers(0, 99),
    st.sampled_from(["uniform", "mass"]),
    st.sampled_from(["max", "mean"]),
    st.sampled_from([(6, 8), (7, 9)]),
    st.booleans(),
    st.sampled_from([0.05, 0.4, 3.0]),
)
def test_equals_the_equations(
    seed: int, prior: str, importance: str, pixels: tuple[int, ...], dense: bool, cool: float
) -> None:
    generator = torch.manual_seed(seed)
    cells = torch.randn(1, 3, 4, generator=generator).double()
    scores = torch.rand(1, *pixels, generator=generator).double()
    grid = CellGrid.even((3, 4), pixels)
    used = grid if dense else CellGrid.from_labels(grid.labels(), grid.cells)
    options = {"prior": prior, "importance": importance, "temperature": 0.3}
    fine = iwmr(cells, scores, importance_temperature=cool, grid=used, **options)  # type: ignore[arg-type]
    truth = oracle(cells[0], scores[0], grid.labels().numpy(), prior, importance, 0.3, cool)
    np.testing.assert_allclose(fine[0].numpy(), truth, rtol=1e-10, atol=1e-12)


@given(
    st.integers(0, 99),
    st.sampled_from(["uniform", "mass"]),
    st.sampled_from(["density", "total"]),
    st.sampled_from([1e-6, 1e-2, 1.0, 1e6]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_keeps_the_total_mass(
    seed: int, prior: str, convention: str, cool: float, dtype: torch.dtype
) -> None:
    generator = torch.manual_seed(seed)
    cells = torch.rand(2, 5, 5, generator=generator).to(dtype)
    cells = cells * (torch.rand(cells.shape, generator=generator) > 0.3)
    scores = torch.rand(2, 33, 32, generator=generator).to(dtype)
    fine = iwmr(
        cells, scores, prior=prior, convention=convention, importance_temperature=cool
    ).double()
    sizes = CellGrid.even((5, 5), (33, 32)).sizes().double()
    mass = cells.double() * (sizes if convention == "density" else 1)
    wanted, got = mass.flatten(1).sum(1), fine.flatten(1).sum(1)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    assert float(((got - wanted) / wanted).abs().max()) <= tolerance


@given(st.integers(0, 99), st.sampled_from(["same", "invert"]))
def test_the_mass_prior_keeps_each_signs_total(seed: int, negative: str) -> None:
    generator = torch.manual_seed(seed)
    cells = torch.randn(1, 4, 4, generator=generator).double()
    scores = torch.rand(1, 16, 16, generator=generator).double()
    fine = iwmr(cells, scores, prior="mass", negative=negative)
    for sign in (1, -1):
        wanted = (sign * cells).clamp(min=0).sum() * 16
        if negative == "invert":  # The parts overlap once moved, so only their difference is seen.
            wanted, part = cells.sum() * 16, fine
        else:
            # Mass never crosses zero: cells that were positive stay so.
            inside = CellGrid.even((4, 4), (16, 16)).expand(cells) * sign > 0
            part = sign * fine.where(inside, 0.0)
        torch.testing.assert_close(part.sum(), wanted)


@pytest.mark.parametrize("cool", [1e-6, 1e-3, 0.3, 1e6])
@pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
def test_the_mass_prior_is_usu_when_importances_are_equal(
    rand: Any, cool: float, level: float
) -> None:
    # What the paper says of its own form (E1), and what holds for this one.
    cells, scores = rand(2, 7, 7) - 0.4, rand(2, 56, 56) * 0.2
    scores[:, ::8, ::8] = level  # 8 x 8 pixels to a cell: each has this one ...
    scores = scores.clamp(max=level)  # ... as its maximum.
    fine = iwmr(cells, scores, prior="mass", importance_temperature=cool)
    torch.testing.assert_close(fine, usu(cells, scores), rtol=5e-6, atol=1e-6)


def test_the_mass_prior_moves_mass_between_unequal_importances() -> None:
    cells, scores = torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    fine = iwmr(cells, scores, prior="mass", importance_temperature=1.0)
    left, right = 3 / (3 + torch.e), torch.e / (3 + torch.e)
    torch.testing.assert_close(fine, torch.tensor([[4 * left] * 2 + [4 * right] * 2]))


def test_dust_with_high_importance_does_not_round_the_weights_away() -> None:
    cells = torch.tensor([[0.0, 3.0, 1.0]])
    scores = torch.tensor([[1.0, 0.5, 0.5]])
    fine = iwmr(cells, scores, prior="mass", importance_temperature=1e-6)
    torch.testing.assert_close(fine, torch.tensor([[0.0, 3.0, 1.0]]))


def test_one_hot_cell_at_a_tiny_importance_temperature() -> None:
    cells, scores = torch.zeros(1, 3, 3), torch.zeros(1, 9, 9)
    cells[0, 1, 1] = 2.0
    scores[0, 0, 0] = 1.0
    for prior in ("uniform", "mass"):
        fine = iwmr(cells, scores, prior=prior, importance_temperature=1e-6)
        assert bool(fine.isfinite().all())
        torch.testing.assert_close(fine.sum(), torch.tensor(18.0))
    # The mass prior has nowhere else to go; the uniform one follows the scores alone.
    kept = iwmr(cells, scores, prior="mass", importance_temperature=1e-6)
    torch.testing.assert_close(kept[0, 3:6, 3:6], torch.full((3, 3), 2.0))
    moved = iwmr(cells, scores, prior="uniform", importance_temperature=1e-6)
    torch.testing.assert_close(moved[0, :3, :3].sum(), torch.tensor(18.0))


@pytest.mark.parametrize("prior", ["uniform", "mass"])
@pytest.mark.parametrize("negative", ["same", "invert"])
def test_zero_maps_stay_zero(rand: Any, prior: str, negative: str) -> None:
    fine = iwmr(torch.zeros(2, 3, 3), rand(2, 9, 9), prior=prior, negative=negative)
    assert bool((fine == 0).all())


@pytest.mark.parametrize("prior", ["uniform", "mass"])
def test_cells_outside_the_image_neither_give_nor_take(rand: Any, prior: str) -> None:
    grid = CellGrid.box((4,), (6,), (-4, 8))  # Cells of 3 pixels, of which 0, 2, 3 and 1 are seen.
    assert grid.sizes().tolist() == [0, 2, 3, 1]
    cells, scores = rand(1, 4) + 0.1, rand(1, 6)
    fine = iwmr(cells, scores, prior=prior, grid=grid)
    torch.testing.assert_close(fine.sum(), (cells * grid.sizes()).sum())


@given(st.integers(0, 99))
def test_other_examples_change_nothing(seed: int) -> None:
    generator = torch.manual_seed(seed)
    cells = torch.randn(3, 2, 2, generator=generator)
    scores = torch.rand(3, 5, 5, generator=generator)
    scores[1] = scores[1] / 2  # Less important than others' cells, and next to none at 1e-6.
    for prior, cool in (("uniform", 0.3), ("mass", 0.3), ("uniform", 1e-6), ("mass", 1e-6)):
        together = iwmr(cells, scores, prior=prior, importance_temperature=cool)
        alone = iwmr(cells[1:2], scores[1:2], prior=prior, importance_temperature=cool)
        torch.testing.assert_close(together[1:2], alone)


def test_gaps_are_taken_within_an_example() -> None:
    cells = torch.tensor([[3.0, 1.0], [3.0, 1.0]])
    scores = torch.tensor([[1.0, 1.0], [0.25, 0.25]])
    fine = iwmr(cells, scores, prior="mass", importance_temperature=1e-6)
    torch.testing.assert_close(fine, cells)


def test_the_defaults_are_those_documented(rand: Any) -> None:
    cells, scores = rand(2, 3, 2) - 0.4, rand(2, 12, 10)
    spelled = iwmr(
        cells, scores, temperature=0.1, importance_temperature=0.3, prior="uniform",
        importance="max", potential="tensor", convention="density", negative="same",
    )  # fmt: skip
    assert torch.equal(iwmr(cells, scores), spelled)
