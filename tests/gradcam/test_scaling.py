"""The scaling of usu_core that the default output of every CAM goes through."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from usu_core import scale_to_unit


def spiky(pixels: int = 10_000) -> torch.Tensor:
    """A smooth map with one hot spot 400 times as dense."""
    values = torch.linspace(0.2, 1.0, pixels).repeat(2, 1)
    values[:, :16] = 400.0
    return values


def test_peak_does_not_turn_the_map_black() -> None:
    unit, plain = scale_to_unit(spiky()), scale_to_unit(spiky(), "min-max")
    assert float((plain > 0.01).float().mean()) < 0.01
    assert float((unit > 0.1).float().mean()) > 0.9
    assert float(unit.max()) == 1.0


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=60))
@settings(max_examples=60, deadline=None)
def test_order_range_zero_and_top(values: list[float]) -> None:
    maps = torch.tensor([values])
    unit = scale_to_unit(maps)
    assert float(unit.min()) >= 0.0
    assert float(unit.max()) <= 1.0
    assert bool((unit[maps <= 0] == 0).all())
    order = maps.clamp(min=0)[0].argsort(stable=True)
    assert bool((unit[0, order].diff() >= 0).all())
    assert float(unit.max()) == (1.0 if max(values) > 0 else 0.0)


def test_scale_free_and_idempotent() -> None:
    maps = torch.rand(3, 40, 50) ** 8
    unit = scale_to_unit(maps)
    torch.testing.assert_close(scale_to_unit(maps * 1e-12), unit)
    torch.testing.assert_close(scale_to_unit(unit), unit, rtol=1e-4, atol=1e-5)


def test_even_maps_are_divided_by_their_largest_value() -> None:
    maps = torch.linspace(0, 3, 100).view(1, 10, 10)
    torch.testing.assert_close(scale_to_unit(maps), maps / 3)


def test_continuous_where_the_bend_sets_in() -> None:
    base = torch.linspace(0, 0.8, 1000)
    below, above = (torch.cat([base, torch.tensor([top])])[None] for top in (0.9999, 1.0001))
    torch.testing.assert_close(
        scale_to_unit(below)[:, :-1], scale_to_unit(above)[:, :-1], rtol=0.02, atol=0.01
    )


def test_each_map_by_itself_and_zero_maps_stay_zero() -> None:
    maps = torch.stack([torch.zeros(4, 4), torch.rand(4, 4), -torch.rand(4, 4)])
    unit = scale_to_unit(maps)
    assert not unit[0].any()
    assert not unit[2].any()
    torch.testing.assert_close(unit[1:2], scale_to_unit(maps[1:2]))
    assert not scale_to_unit(torch.full((1, 4), 3.0), "min-max").any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    unit = scale_to_unit(torch.rand(1, 8, 8).to(dtype))
    assert unit.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_subnormal_maps() -> None:
    unit = scale_to_unit(torch.tensor([[1e-42, 2e-42, 3e-42, 1e-30]]), quantile=0.5)
    assert bool(torch.isfinite(unit).all())
    assert float(unit.max()) == 1.0


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((torch.ones(2, 2).long(),), TypeError, "attribution must be a floating-point"),
        ((torch.full((1, 2), torch.nan),), ValueError, "attribution must be finite"),
        ((torch.ones(2),), ValueError, "attribution must have shape"),
        ((torch.ones(1, 2), "rebust"), ValueError, "mode must be one of.*robust"),
    ],
)
def test_refusals(arguments: tuple[object, ...], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        scale_to_unit(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["quantile", "shoulder"])
def test_shares_lie_between_0_and_1(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must lie between 0 and 1"):
        scale_to_unit(torch.ones(1, 2), **{name: 1.0})  # type: ignore[arg-type]
