"""What must hold of USU for any map: locality, order, symmetry, limits."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from usu_core import CellGrid, iwmr, usu

Shapes = tuple[tuple[int, ...], tuple[int, ...]]


@st.composite
def shapes(draw: Any, divisible: bool = False) -> Shapes:
    """A coarse and a fine shape of rank 1 to 3."""
    rank = draw(st.integers(1, 3))
    cells = tuple(draw(st.integers(1, 5)) for _ in range(rank))
    if divisible:
        return cells, tuple(n * draw(st.integers(1, 4)) for n in cells)
    return cells, tuple(n + draw(st.integers(0, 9)) for n in cells)


def maps(shape: Shapes, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.manual_seed(seed)
    cells = torch.randn(2, *shape[0], generator=generator)
    return cells, torch.rand(2, *shape[1], generator=generator)


@given(shapes(), st.integers(0, 99), st.booleans())
def test_what_happens_elsewhere_changes_nothing(shape: Shapes, seed: int, dense: bool) -> None:
    (cells, scores), (others, other_scores) = maps(shape, seed), maps(shape, seed + 1)
    grid = CellGrid.even(*shape)
    if not dense:
        grid = CellGrid.from_labels(grid.labels(), grid.cells)
    k = seed % int(grid.sizes().numel())
    here = grid.labels() == k
    own = torch.arange(grid.sizes().numel()).view(grid.cells) == k
    fine = usu(cells, scores, grid=grid)
    changed = usu(cells.where(own, others), scores.where(here, other_scores), grid=grid)
    assert torch.equal(fine[:, here], changed[:, here])


@given(shapes(), st.integers(0, 99), st.sampled_from(["tensor", "power", "log-odds"]))
def test_higher_scores_get_no_less_of_positive_mass(
    shape: Shapes, seed: int, potential: str
) -> None:
    cells, scores = maps(shape, seed)
    fine = usu(cells.abs(), scores, potential=potential, temperature=0.5)
    labels = CellGrid.even(*shape).labels()
    for k in range(int(labels.max()) + 1):
        values, phi = fine[0][labels == k], scores[0][labels == k]
        assert bool((values[phi.argsort()].diff() >= 0).all())


@given(shapes(), st.integers(0, 99))
def test_inverted_negatives_make_higher_scores_rank_higher_everywhere(
    shape: Shapes, seed: int
) -> None:
    cells, scores = maps(shape, seed)
    fine = usu(cells, scores, negative="invert")
    labels = CellGrid.even(*shape).labels()
    for k in range(int(labels.max()) + 1):
        values, phi = fine[0][labels == k], scores[0][labels == k]
        assert bool((values[phi.argsort()].diff() >= 0).all())


@given(shapes(), st.integers(0, 99), st.floats(0.0, 0.5))
def test_a_common_shift_of_scores_changes_nothing(shape: Shapes, seed: int, by: float) -> None:
    cells, scores = maps(shape, seed)
    cells, scores = cells.double(), scores.double() / 2
    torch.testing.assert_close(usu(cells, scores), usu(cells, scores + by), rtol=1e-12, atol=1e-12)


def test_the_power_potential_is_not_shift_invariant() -> None:
    cells, scores = torch.ones(1, 1), torch.tensor([[0.1, 0.2]])
    before = usu(cells, scores, potential="power", temperature=1.0)
    after = usu(cells, scores + 0.5, potential="power", temperature=1.0)
    torch.testing.assert_close(before, torch.tensor([[2 / 3, 4 / 3]]))
    torch.testing.assert_close(after, torch.tensor([[12 / 13, 14 / 13]]))


@given(shapes(divisible=True), st.integers(0, 99))
def test_flips_commute_on_divisible_grids(shape: Shapes, seed: int) -> None:
    cells, scores = maps(shape, seed)
    for dim in range(1, cells.dim()):
        flipped = usu(cells.flip(dim), scores.flip(dim))
        torch.testing.assert_close(flipped, usu(cells, scores).flip(dim))


@given(shapes(), st.integers(0, 99))
def test_transposing_and_permuting_the_batch_commute(shape: Shapes, seed: int) -> None:
    cells, scores = maps(shape, seed)
    fine = usu(cells, scores)
    assert torch.equal(usu(cells.flip(0), scores.flip(0)), fine.flip(0))
    turned = usu(cells.transpose(1, -1), scores.transpose(1, -1)).transpose(1, -1)
    torch.testing.assert_close(turned, fine)


@given(shapes(divisible=True), st.integers(0, 99))
def test_permuting_the_pixels_of_cells_permutes_the_map(shape: Shapes, seed: int) -> None:
    cells, scores = maps(shape, seed)
    grid = CellGrid.even(*shape)
    blocks = grid.split(scores, 0.0)
    moved = grid.join(blocks.roll(1, grid.within[-1]))
    fine = grid.join(grid.split(usu(cells, scores), 0.0).roll(1, grid.within[-1]))
    torch.testing.assert_close(usu(cells, moved), fine)


@given(shapes(), st.floats(0.0, 1.0), st.sampled_from(["tensor", "power", "log-odds"]))
def test_constant_scores_give_nearest(shape: Shapes, level: float, potential: str) -> None:
    cells, scores = maps(shape)
    flat = torch.full_like(scores, level)
    fine = usu(cells, flat, potential=potential, temperature=1e-6)
    torch.testing.assert_close(fine, CellGrid.even(*shape).expand(cells), rtol=5e-7, atol=0)


@given(shapes(), st.integers(0, 99))
def test_linear_in_the_cells(shape: Shapes, seed: int) -> None:
    (one, scores), (two, _) = maps(shape, seed), maps(shape, seed + 1)
    one, two, scores = one.double(), two.double(), scores.double()
    both = usu(3 * one - 2 * two, scores)
    apart = 3 * usu(one, scores) - 2 * usu(two, scores)
    torch.testing.assert_close(both, apart, rtol=1e-11, atol=1e-11)


@given(shapes(), st.integers(0, 99))
def test_hot_temperatures_approach_nearest(shape: Shapes, seed: int) -> None:
    cells, scores = maps(shape, seed)
    fine = usu(cells, scores, temperature=1e6)
    torch.testing.assert_close(fine, CellGrid.even(*shape).expand(cells), rtol=3e-6, atol=0)


@given(shapes(), st.integers(0, 99))
def test_cold_temperatures_give_all_mass_to_the_best_pixels(shape: Shapes, seed: int) -> None:
    cells, scores = maps(shape, seed)
    scores = (scores * 8).round() / 8
    fine = usu(cells, scores, temperature=1e-6)
    grid = CellGrid.even(*shape)
    best = scores == grid.expand(grid.max(scores))
    wanted = grid.expand(cells * grid.sizes() / grid.sum(best.float())) * best
    torch.testing.assert_close(fine, wanted, rtol=5e-7, atol=0)


@pytest.mark.parametrize("level", [0.0, 1.0])
@pytest.mark.parametrize("potential", ["power", "log-odds"])
def test_scores_of_zero_and_one_mixed_stay_finite(level: float, potential: str) -> None:
    scores = torch.tensor([[level, level, 1.0 - level, 0.5]])
    fine = usu(torch.ones(1, 1), scores, potential=potential, temperature=1.0)
    assert bool(fine.isfinite().all())
    torch.testing.assert_close(fine.sum(), torch.tensor(4.0))
    assert fine[0].argsort(stable=True).tolist() == scores[0].argsort(stable=True).tolist()


@pytest.mark.parametrize("operator", [usu, iwmr])
def test_gradients_of_tied_scores_are_those_of_the_even_grid(operator: Any) -> None:
    """Scores are one value per segment: that several pixels share the peak is the rule."""
    even = CellGrid.even((1, 2), (2, 4))
    labelled = CellGrid.from_labels(even.labels(), (1, 2))
    found = []
    for grid in (even, labelled):
        cells = torch.tensor([[[2.0, -1.0]]], dtype=torch.float64)
        scores = torch.tensor([[[0.7, 0.7, 0.5, 0.5], [0.1, 0.7, 0.5, 0.5]]], dtype=torch.float64)
        scores.requires_grad_()
        fine = operator(cells, scores, temperature=0.3, grid=grid)
        weights = torch.arange(1.0, 9.0, dtype=torch.float64).view_as(fine).square()
        found.append(torch.autograd.grad((fine * weights).sum(), scores)[0])
    assert bool(found[0].any())
    torch.testing.assert_close(found[1], found[0])


def test_scores_below_a_millionth_count_as_one() -> None:
    from usu_core._potentials import log_odds_potential, power_potential

    scores = torch.tensor([0.0, 1e-7, 1e-6, 2e-6], dtype=torch.float64)
    wanted = torch.tensor([1e-6, 1e-6, 1e-6, 2e-6], dtype=torch.float64)
    torch.testing.assert_close(power_potential(scores), wanted.log())
    torch.testing.assert_close(log_odds_potential(scores), wanted.logit())
