"""Tilting against its formula, and the total it keeps."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from usu_core import CellGrid, Tilted, tilt


def signs(cells: Tensor) -> tuple[Tensor, Tensor]:
    return cells.clamp(min=0), (-cells).clamp(min=0)


def oracle(cells: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Bilinear times exp(score / T), rescaled to the mass of each sign, in float64."""
    sizes = CellGrid.even(cells.shape[1:], scores.shape[1:]).sizes()
    parts = []
    for part in signs(cells.double()):
        smooth = F.interpolate(part[:, None], scores.shape[1:], mode="bilinear")[:, 0]
        tilted = smooth * (scores.double() / temperature).exp()
        share = tilted / tilted.sum((1, 2), keepdim=True).clamp(min=1e-300)
        parts.append((part * sizes).sum((1, 2)).view(-1, 1, 1) * share)
    return parts[0] - parts[1]


@given(st.integers(0, 99), st.sampled_from([(8, 8), (9, 11)]), st.sampled_from([0.05, 0.5, 9.0]))
def test_equals_the_formula(seed: int, pixels: tuple[int, ...], temperature: float) -> None:
    generator = torch.manual_seed(seed)
    cells = torch.randn(2, 3, 4, generator=generator).double()
    scores = torch.rand(2, *pixels, generator=generator).double()
    torch.testing.assert_close(
        tilt(cells, scores, temperature=temperature), oracle(cells, scores, temperature)
    )


@given(
    st.integers(0, 99),
    st.sampled_from([1e-6, 1e-3, 0.5, 1e6]),
    st.sampled_from(["tensor", "power", "log-odds"]),
    st.sampled_from(["density", "total"]),
    st.integers(1, 3),
)
def test_keeps_the_total_at_any_temperature(
    seed: int, temperature: float, potential: str, convention: str, rank: int
) -> None:
    generator = torch.manual_seed(seed)
    cells = torch.rand(2, *[3] * rank, generator=generator)
    cells = cells * (torch.rand(cells.shape, generator=generator) > 0.6)
    scores = torch.rand(2, *[10] * rank, generator=generator)
    fine = tilt(
        cells, scores, temperature=temperature, potential=potential, convention=convention
    ).double()
    sizes = CellGrid.even(cells.shape[1:], scores.shape[1:]).sizes()
    mass = cells.double() * (sizes if convention == "density" else 1)
    torch.testing.assert_close(fine.flatten(1).sum(1), mass.flatten(1).sum(1), rtol=1e-6, atol=0)


def test_the_best_score_may_lie_where_there_is_no_mass() -> None:
    cells, scores = torch.tensor([[0.0, 4.0, -4.0, 0.0]]), torch.zeros(1, 16)
    scores[0, 0] = 1.0
    fine = tilt(cells, scores, temperature=1e-3)
    torch.testing.assert_close(fine.clamp(min=0).sum(), torch.tensor(16.0), atol=4.0, rtol=0)
    assert float(fine[0, 8:].sum()) < -10
    assert float(fine[0, 0]) == 0.0


def test_next_to_no_mass_at_the_best_scores_does_not_overflow() -> None:
    cells, scores = torch.tensor([[1e-41, 0.0, 0.0, 1.0]]), torch.zeros(1, 8)
    scores[0, :2] = 1.0
    fine = tilt(cells, scores, temperature=0.005)
    torch.testing.assert_close(fine[0, :2].sum(), torch.tensor(2.0))
    assert not bool(fine[0, 2:].any())


def test_constant_scores_give_bilinear_at_the_maps_total(rand: Any) -> None:
    cells = rand(2, 3, 3)
    fine = tilt(cells, torch.full((2, 9, 9), 0.4), temperature=1e-6)
    smooth = F.interpolate(cells[:, None], (9, 9), mode="bilinear")[:, 0]
    scale = 9 * cells.sum((1, 2), keepdim=True) / smooth.sum((1, 2), keepdim=True)
    torch.testing.assert_close(fine, smooth * scale)


def test_gradients_and_zero_maps(rand: Any) -> None:
    cells, scores = rand(2, 2, 2).double() - 0.3, rand(2, 5, 5).double()
    assert torch.autograd.gradcheck(
        lambda a, phi: tilt(a, phi),
        (cells.requires_grad_(), scores.requires_grad_()),
        fast_mode=True,
    )
    zero = torch.zeros(1, 2, 2, requires_grad=True)
    fine = tilt(zero, torch.rand(1, 5, 5))
    assert bool((fine == 0).all())
    (gradient,) = torch.autograd.grad(fine.sum(), zero)
    assert bool(gradient.isfinite().all())


def test_what_does_not_fit_is_refused(rand: Any) -> None:
    grid = CellGrid.box((2, 2), (8, 8), (2, 2, 6, 6))
    with pytest.raises(ValueError, match="grid must be even to be interpolated"):
        tilt(rand(1, 2, 2), rand(1, 8, 8), grid=grid)
    for options in ({"temperature": 0.0}, {"convention": "sum"}, {"potential": "exp"}):
        with pytest.raises(ValueError, match="must be"):
            tilt(rand(1, 2, 2), rand(1, 8, 8), **options)
    for bad in ({"temperature": -1.0}, {"potential": "exp"}, {"convention": "sum"}):
        with pytest.raises(ValueError, match="must be"):
            Tilted(**bad)


def test_the_upsampler_passes_its_options_on(rand: Any) -> None:
    cells, phi = rand(2, 1, 3, 3) - 0.5, rand(2, 10, 11)
    options: dict[str, Any] = {"temperature": 0.7, "potential": "power", "convention": "total"}
    assert torch.equal(
        Tilted(**options)(cells, score_map=phi)[:, 0], tilt(cells[:, 0], phi, **options)
    )
