"""Scaling maps to [0, 1]: order, zero and the largest value are kept."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from usu_core import scale_to_unit


@st.composite
def maps(draw: Any) -> Tensor:
    """Signed or positive maps of any scale, with and without a narrow peak."""
    generator = torch.manual_seed(draw(st.integers(0, 999)))
    values = torch.rand(2, 5, 7, generator=generator) - draw(st.sampled_from([0.0, 0.5]))
    values[:, 2, 3] *= draw(st.sampled_from([1.0, 50.0, 1e4]))
    return values * 10.0 ** draw(st.integers(-20, 20))


@given(maps(), st.sampled_from(["robust", "min-max"]))
def test_keeps_order_and_range(values: Tensor, mode: str) -> None:
    scaled = scale_to_unit(values, mode, quantile=0.9)
    assert float(scaled.min()) >= 0
    for image, result in zip(values, scaled, strict=True):
        assert bool((result.flatten()[image.flatten().argsort()].diff() >= 0).all())
        assert float(result.max()) in (0.0, 1.0)
        if mode == "robust":
            assert torch.equal(result > 0, image > 0)


@given(maps(), st.sampled_from([2.0, 1024.0]))
def test_robust_scaling_ignores_scale_and_repeats_itself(values: Tensor, factor: float) -> None:
    scaled = scale_to_unit(values, quantile=0.9)
    torch.testing.assert_close(scale_to_unit(values * factor, quantile=0.9), scaled)
    torch.testing.assert_close(scale_to_unit(scaled, quantile=0.9), scaled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scale_to_unit(values[:1], quantile=0.9), scaled[:1])


def test_the_bend_by_hand() -> None:
    values = torch.tensor([[-3.0, 1.0, 2.0, 6.0, 10.0]])
    found = scale_to_unit(values, quantile=0.5, shoulder=0.6)  # c = 2 < 0.6 * 10
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.3, 0.6, 0.8, 1.0]]))
    flat = scale_to_unit(values, quantile=0.75, shoulder=0.6)  # c = 6: nothing dominates
    torch.testing.assert_close(flat, torch.tensor([[0.0, 0.1, 0.2, 0.6, 1.0]]))
    linear = scale_to_unit(values, "min-max")
    torch.testing.assert_close(linear, torch.tensor([[0.0, 4 / 13, 5 / 13, 9 / 13, 1.0]]))


@pytest.mark.parametrize("mode", ["robust", "min-max"])
def test_maps_without_contrast_become_zero(mode: str) -> None:
    assert scale_to_unit(torch.zeros(1, 3), mode).tolist() == [[0.0] * 3]
    assert scale_to_unit(torch.full((1, 3), -2.0), mode).tolist() == [[0.0] * 3]
    assert scale_to_unit(torch.zeros(0, 3), mode).shape == (0, 3)
    assert scale_to_unit(torch.ones(1, 3).bfloat16(), mode).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"mode": "max"}, ValueError, "mode must be one of robust, min-max"),
        ({"quantile": 1.0}, ValueError, "quantile must lie between 0 and 1, got 1.0"),
        ({"shoulder": 0.0}, ValueError, "shoulder must lie between 0 and 1, got 0.0"),
        ({"attribution": torch.ones(3)}, ValueError, r"must have shape \(batch, pixels\), got"),
        ({"attribution": torch.ones(1, 3).long()}, TypeError, "must be a floating-point tensor"),
        ({"attribution": torch.full((1, 3), torch.nan)}, ValueError, "attribution must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(
    call: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        scale_to_unit(**({"attribution": torch.ones(1, 3)} | call))


def test_the_largest_numbers_there_are() -> None:
    values = torch.tensor([[-3e38, 0.0, 3e38]])
    torch.testing.assert_close(scale_to_unit(values, "min-max"), torch.tensor([[0.0, 0.5, 1.0]]))


@pytest.mark.parametrize("mode", ["robust", "min-max"])
def test_each_map_is_scaled_by_itself(mode: str) -> None:
    values = torch.tensor([[1.0, 2.0, 5.0], [-40.0, 0.0, 60.0], [0.1, 0.2, 0.9]])
    together = scale_to_unit(values, mode)
    for i in range(3):
        torch.testing.assert_close(scale_to_unit(values[i : i + 1], mode)[0], together[i])


def test_next_to_nothing_beside_a_peak_stays_finite() -> None:
    values = torch.tensor([[0.0, 1e-42, 2e-42, 1.0]])  # 0.8 / 2e-42 would be infinite
    scaled = scale_to_unit(values, quantile=0.5)
    assert bool(scaled.isfinite().all())
    assert scaled[0, 0] == 0.0
    assert bool((scaled[0].diff() > 0).all())


def test_the_highest_percent_has_the_upper_fifth_by_default() -> None:
    values = torch.cat([torch.linspace(0.01, 1.0, 198), torch.tensor([50.0, 100.0])])[None]
    assert int((scale_to_unit(values) > 0.8).sum()) == 2  # of 200
