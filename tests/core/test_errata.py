"""Where arXiv:2603.16067 says more than is true. Numbers as in the project's list of errata."""

from typing import Any

import pytest
import torch
from torch import Tensor

from usu_core import USU, CellGrid, Refinement, available, heterogeneity, iwmr, resolve, usu
from usu_core._refinement import _merge
from usu_core.metrics import deletion
from usu_core.segments import segment_mean


def voronoi(count: int, size: int, seed: int = 0) -> Tensor:
    """Labels (1, size, size) of the nearest of random points."""
    points = torch.rand(count, 2, generator=torch.manual_seed(seed)) * size
    axis = torch.arange(size) + 0.5
    lattice = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2)
    labels = torch.cdist(lattice, points).argmin(1)
    return torch.unique(labels, return_inverse=True)[1].view(1, size, size)


def test_e1_the_uniform_prior_flattens_a_map_of_equal_importances(rand: Any) -> None:
    cells = rand(1, 7, 7)
    fine = iwmr(cells, torch.full((1, 28, 28), 0.5))
    torch.testing.assert_close(fine, cells.mean().expand(1, 28, 28))
    nearest = usu(cells, torch.full((1, 28, 28), 0.5))
    assert float((fine - nearest).abs().max() / nearest.max()) > 0.3


def test_e2_the_uniform_prior_sees_the_map_through_its_total_alone(rand: Any) -> None:
    cells, scores = rand(1, 7, 7).double(), rand(1, 28, 28).double()
    mixed = cells.flatten()[torch.randperm(49, generator=torch.manual_seed(0))].view(1, 7, 7)
    torch.testing.assert_close(iwmr(mixed, scores), iwmr(cells, scores), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(iwmr(mixed, scores, prior="mass"), iwmr(cells, scores, prior="mass"))
    zero_sum = cells - cells.mean()
    assert float(iwmr(zero_sum, scores).abs().max()) < 1e-12
    assert float(iwmr(zero_sum, scores, prior="mass").abs().max()) > 0.1
    torch.testing.assert_close(iwmr(-cells, scores), -iwmr(cells, scores))


def test_e3_the_diagonal_kernel_is_blind_to_straight_edges_and_the_range_kernel_is_not() -> None:
    for dim in (1, 2):
        steps = (torch.arange(8.0) >= 4).float()
        edge = steps.view(1, -1, 1).expand(1, 8, 8) if dim == 1 else steps.expand(1, 8, 8)
        assert bool((heterogeneity(edge, "diagonal") == 0).all())
        assert heterogeneity(edge, "range").movedim(dim, 1)[0, :, 3].tolist() == [
            0, 0, 0, 1, 1, 0, 0, 0
        ]  # fmt: skip
    corner = torch.zeros(1, 8, 8)
    corner[:, 4:, 4:] = 1.0
    assert int((heterogeneity(corner, "diagonal") > 0).sum()) == 4


def test_e3_the_diagonal_kernel_is_the_papers() -> None:
    scores = torch.arange(9.0).view(1, 3, 3).square() / 64
    s = scores[0]
    wanted = (-s[0, 0] + s[0, 2] + s[2, 0] - s[2, 2]).abs()
    torch.testing.assert_close(heterogeneity(scores, "diagonal")[0, 1, 1], wanted)


def test_e3_zero_padding_invents_borders_on_a_constant_map() -> None:
    flat = torch.ones(1, 6, 6)
    invented = heterogeneity(flat, "diagonal", "zero")
    assert invented.nonzero().tolist() == [[0, 0, 0], [0, 0, 5], [0, 5, 0], [0, 5, 5]]
    for kernel in ("diagonal", "range"):
        assert bool((heterogeneity(flat, kernel, "edge") == 0).all())


def test_e4_a_blend_per_pixel_hardly_reaches_the_interior_of_segments(rand: Any) -> None:
    labels = voronoi(100, 128)
    coarse, fine = rand(1, 100)[:, labels[0]], torch.zeros(1, 128, 128)
    shares = {}
    for mixing in ("pixel", "segment"):
        merged = _merge([coarse, fine], [labels, labels], Refinement(mixing=mixing))
        shares[mixing] = float((merged < coarse / 2).float().mean())
    assert shares["pixel"] < 0.5
    assert shares["segment"] > 0.9


def test_e5_merging_scores_conserves_and_merging_maps_does_not(rand: Any) -> None:
    cells, grid = rand(1, 4, 4).double(), CellGrid.even((4, 4), (32, 32))
    coarse, fine, alpha = (rand(1, 32, 32).double() for _ in range(3))

    def error(result: Tensor) -> float:
        return float(((grid.mean(result) - cells) / cells).abs().max())

    scores = alpha * coarse + (1 - alpha) * fine
    assert error(usu(cells, scores)) < 1e-13
    assert error(alpha * usu(cells, coarse) + (1 - alpha) * usu(cells, fine)) > 1e-2


def test_e6_cells_that_are_the_segments_ignore_the_scores(rand: Any) -> None:
    segments = voronoi(12, 32)
    count = int(segments.max()) + 1
    grid, density = CellGrid.from_labels(segments[0]), rand(1, 32, 32).double()
    cells = segment_mean(density, segments, count)
    scores = rand(1, count).double()[:, segments[0]]
    torch.testing.assert_close(
        usu(cells, scores, grid=grid), grid.expand(cells), rtol=1e-13, atol=0
    )


def test_e7_a_rule_that_is_no_ratio_satisfies_d1_d2_and_d4() -> None:
    """The paper's uniqueness theorem needs independence of irrelevant alternatives besides."""
    grid = CellGrid.even((2,), (8,))
    scores = torch.tensor([[0.8, 0.2, 0.6, 0.5, 0.8, 0.2, 0.1, 0.0]]).double()

    def weigh(phi: Tensor) -> Tensor:
        return (1 + 0.5 * (phi - grid.expand(grid.mean(phi)))) / 4

    weight = weigh(scores)
    torch.testing.assert_close(grid.sum(weight), torch.ones(1, 2).double())
    assert bool((weight > 0).all())
    for cell in (slice(0, 4), slice(4, 8)):
        assert weight[0, cell].argsort().tolist() == scores[0, cell].argsort().tolist()
    elsewhere = torch.cat([scores[:, :4], scores[:, 4:].flip(1)], 1)
    assert torch.equal(weigh(elsewhere)[:, :4], weight[:, :4])
    # One pair of scores, two ratios; a softmax has one.
    assert float(weight[0, 0] / weight[0, 1]) > float(weight[0, 4] / weight[0, 5]) + 1e-2
    softmax = usu(torch.ones(1, 2).double(), scores)[0]
    torch.testing.assert_close(softmax[0] / softmax[1], softmax[4] / softmax[5])


def sliver() -> Tensor:
    scores = torch.zeros(1, 64, 32)
    scores[0, 5, 7] = 1.0
    scores[0, 32:] = 1.0
    return scores


def test_e12_a_single_hot_pixel_takes_nearly_all_of_its_cell() -> None:
    fine = usu(torch.ones(1, 2, 1), sliver(), temperature=0.1)
    assert float(fine[0, 5, 7] / 1024) == pytest.approx(0.956, abs=5e-4)
    assert float(fine[0, 5, 7] / fine[0, 40, 0]) == pytest.approx(979, abs=1)


@pytest.mark.parametrize("name", [n for n in available() if isinstance(resolve(n), USU)])
def test_e12_the_default_upsamplers_bound_the_gain_of_a_sliver(name: str) -> None:
    upsampler: USU = resolve(name)
    bound = float(torch.tensor(1 / upsampler.temperature).exp())
    assert bound < 100, "a documented bound that bounds nothing"
    fine = USU(temperature=upsampler.temperature)(torch.ones(1, 1, 2, 1), score_map=sliver())
    assert float(fine.max()) <= bound * (1 + 1e-6)


def test_e13_importance_as_log_mean_exp_would_be_one_global_softmax(rand: Any) -> None:
    cells, scores = rand(1, 3, 3).double(), rand(1, 12, 12).double()
    grid, t = CellGrid.even((3, 3), (12, 12)), 0.3
    level = t * grid.mean((scores / t).exp()).log()
    gain = torch.softmax(level.flatten() / t, 0).view(1, 3, 3)
    inside = usu(torch.ones(1, 3, 3).double(), scores, temperature=t, convention="total")
    moved = cells.sum() * 16 * grid.expand(gain) * inside
    everywhere = cells.sum() * 16 * torch.softmax(scores.flatten() / t, 0).view(1, 12, 12)
    torch.testing.assert_close(moved, everywhere)


def test_e14_zero_cells_stay_zero_and_ties_are_broken_by_the_scores() -> None:
    cells = torch.tensor([[0.0, 0.0]])
    scores = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    fine = usu(cells, scores)
    assert bool((fine == 0).all())
    images = torch.tensor([[[1.0, 10.0, 100.0, 1000.0]]])

    def left(ties: Tensor | None) -> list[float]:
        curve = deletion(
            lambda x: x.sum((1, 2)), images, fine, reference="black", steps=4, ties=ties
        )
        return curve.scores[0].tolist()

    assert left(None) == [1111, 1110, 1100, 1000, 0]
    assert left(scores) == [1111, 1101, 101, 1, 0]


def test_e15_negative_mass_goes_to_the_highest_scores_unless_inverted() -> None:
    cells, scores = torch.tensor([[-0.5]]), torch.tensor([[0.9, 0.1]])
    same, inverted = usu(cells, scores), usu(cells, scores, negative="invert")
    torch.testing.assert_close(same, torch.tensor([[-0.99966, -0.00034]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(inverted, same.flip(1), atol=1e-5, rtol=0)
