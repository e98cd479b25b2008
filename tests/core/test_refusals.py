"""What the operators refuse, by name and with the value that was given."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from usu_core import (
    IWMR,
    USU,
    CellGrid,
    Interpolation,
    Quadtree,
    ScoreMapOnly,
    Slic,
    Tilted,
    conditioning_strength,
    heterogeneity,
    interpolate,
    iwmr,
    tilt,
    usu,
)

CELLS = torch.ones(1, 2, 2)
SCORES = torch.full((1, 4, 4), 0.5)
BAD = {"NaN": torch.nan, "inf": torch.inf, "-inf": -torch.inf}


def only(cells: Tensor, scores: Tensor) -> Tensor:
    """The score-map control, called as the operators are."""
    return ScoreMapOnly()(cells.unsqueeze(1), score_map=scores)


@pytest.fixture(params=[usu, iwmr, only], ids=["usu", "iwmr", "score-map"])
def operator(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    """Everything that turns cells and scores into a map."""
    result: Callable[..., Tensor] = request.param
    return result


def spoiled(tensor: Tensor, value: float) -> Tensor:
    result = tensor.clone()
    result.view(-1)[1] = value
    return result


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_cells_that_are_not_finite(operator: Callable[..., Tensor], value: float) -> None:
    with pytest.raises(ValueError, match="cells must be finite, got 1 NaN or infinite of 4"):
        operator(spoiled(CELLS, value), SCORES)


@pytest.mark.parametrize("value", [*BAD.values(), -1e-6, 1.0 + 1e-6, -5.0, 2.0])
def test_scores_outside_the_unit_interval(operator: Callable[..., Tensor], value: float) -> None:
    name = "score_map" if operator is only else "scores"
    with pytest.raises(ValueError, match=rf"^{name} must lie in \[0, 1\] and be finite, got value"):
        operator(CELLS, spoiled(SCORES, value))


def test_an_excess_by_rounding_is_seen() -> None:
    with pytest.raises(ValueError, match=r"got values from 0 to 1\.0000012"):
        usu(torch.ones(1, 1), torch.tensor([[0.0, 1 + 1.2e-6]]))


@pytest.mark.parametrize("call", [usu, iwmr])
@pytest.mark.parametrize(
    ("cells", "scores", "error", "message"),
    [
        (CELLS.long(), SCORES, TypeError, r"cells must be a floating-point .* got torch.int64"),
        (CELLS, SCORES.bool(), TypeError, r"scores must be a floating-point .* got torch.bool"),
        (CELLS.to(torch.complex64), SCORES, TypeError, "cells must be a floating-point tensor"),
        (CELLS.tolist(), SCORES, TypeError, "cells must be a torch.Tensor, got list"),
        (CELLS, None, TypeError, "scores must be a torch.Tensor, got NoneType"),
        (CELLS.repeat(2, 1, 1), SCORES, ValueError, "the same batch size, got 2 and 1"),
        (CELLS[0, 0], SCORES[0, 0], ValueError, "rank|batch dimension"),
        (CELLS[..., None], SCORES, ValueError, "must both have a batch dimension"),
        (torch.ones(1, 0, 2), SCORES, ValueError, r"cells must not be empty, got \(0, 2\)"),
        (CELLS, torch.ones(1, 4, 0), ValueError, r"pixels must not be empty, got \(4, 0\)"),
        (torch.ones(1, 5, 2), SCORES, ValueError, "cells must not be larger than pixels"),
        (torch.ones((1,) * 5), torch.ones((1,) * 5), ValueError, "1, 2 or 3 dimensions"),
        (torch.ones(1), torch.ones(1), ValueError, "must both have a batch dimension"),
    ],
)
def test_tensors_that_do_not_fit(
    call: Callable[..., Tensor], cells: Any, scores: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(cells, scores)


def test_tensors_that_do_not_fit_an_explicit_grid() -> None:
    grid = CellGrid.even((2, 2), (4, 4))
    with pytest.raises(ValueError, match=r"cells must have shape \(batch, 2, 2\), got \(1, 3, 2\)"):
        usu(torch.ones(1, 3, 2), SCORES, grid=grid)
    with pytest.raises(ValueError, match=r"scores must have shape \(batch, 4, 4\), got \(4, 4\)"):
        usu(CELLS, SCORES[0], grid=grid)


@pytest.mark.parametrize("call", [usu, iwmr])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be finite and above 0, got 0.0"),
        ({"temperature": -1.0}, "temperature must be finite and above 0, got -1.0"),
        ({"temperature": torch.nan}, "temperature must be finite and above 0, got nan"),
        ({"temperature": torch.inf}, "temperature must be finite and above 0, got inf"),
        ({"temperature": 1e-46}, "temperature must lie between 1e-30 and 1e30, got 1e-46"),
        ({"temperature": 1e39}, r"temperature must lie between 1e-30 and 1e30, got 1e\+39"),
        ({"convention": "sum"}, "convention must be one of density, total, got 'sum'"),
        ({"potential": "tensr"}, "potential must be one of .*'tensr'. Did you mean 'tensor'"),
        ({"negative": "inverse"}, "negative must be one of .* Did you mean 'invert'"),
    ],
)
def test_unknown_options(
    call: Callable[..., Tensor], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(CELLS, SCORES, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "flat"}, "prior must be one of uniform, mass, got 'flat'"),
        ({"importance": "median"}, "importance must be one of max, mean, got 'median'"),
        ({"importance_temperature": 0.0}, "importance_temperature must be finite and above 0"),
        ({"importance_temperature": torch.nan}, "importance_temperature must be finite and"),
        ({"importance_temperature": 1e-46}, "importance_temperature must lie between 1e-30 and"),
        ({"temperature": 1e39}, "temperature must lie between 1e-30 and 1e30"),
    ],
)
def test_unknown_options_of_iwmr(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        iwmr(CELLS, SCORES, **options)
    with pytest.raises(ValueError, match=message):
        IWMR(**options)


@pytest.mark.parametrize("temperature", [1e-30, 1e30])
@pytest.mark.parametrize("potential", ["tensor", "power", "log-odds"])
def test_the_most_extreme_temperatures_give_numbers(temperature: float, potential: str) -> None:
    cells = torch.tensor([[[1.0, -2.0], [0.0, 3.0]]])
    scores = torch.linspace(0, 1, 16).view(1, 4, 4)
    options: dict[str, Any] = {"temperature": temperature, "potential": potential}
    for run in (usu, tilt):
        assert bool(run(cells, scores, **options).isfinite().all())
    for prior in ("uniform", "mass"):
        fine = iwmr(cells, scores, prior=prior, importance_temperature=temperature, **options)
        assert bool(fine.isfinite().all())


@pytest.mark.parametrize("temperature", ["0.1", None, True, np.float32(0.1)])
def test_temperatures_that_are_no_number(temperature: Any) -> None:
    with pytest.raises(TypeError, match="temperature must be a number, got"):
        usu(CELLS, SCORES, temperature=temperature)
    with pytest.raises(TypeError, match=r"must be a number, got .* own is needed. Try float\(va"):
        USU(temperature=temperature)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(torch.float32, 3e37), (torch.float32, -3e37), (torch.float64, 1e308), (torch.bfloat16, 3e38)],
)
def test_mass_that_would_overflow(
    operator: Callable[..., Tensor], dtype: torch.dtype, value: float
) -> None:
    with pytest.raises(ValueError, match=r"cells must not exceed .* total mass might overflow"):
        operator(torch.full((1, 2, 2), value, dtype=dtype), SCORES.to(dtype))


@pytest.mark.parametrize("convention", ["density", "total"])
def test_the_largest_cells_that_are_taken_stay_finite(convention: str) -> None:
    limit = torch.finfo(torch.float32).max / (16 if convention == "density" else 4)
    cells = torch.full((1, 2, 2), limit * 0.999)
    for run in (usu, iwmr):
        assert bool(run(cells, SCORES, convention=convention).isfinite().all())
    with pytest.raises(ValueError, match="total mass might overflow"):
        iwmr(cells * 1.01, SCORES, convention=convention)


def test_totals_whose_cell_lies_outside_the_image() -> None:
    grid = CellGrid.box((2,), (4,), (-4, 4))
    scores = SCORES[:, 0]
    with pytest.raises(ValueError, match="grid must give every cell a pixel under convention"):
        usu(torch.ones(1, 2), scores, convention="total", grid=grid)


@pytest.mark.parametrize(
    ("potential", "message"),
    [
        (lambda s: s[..., :1], r"potential must return log φ as a tensor of shape \(1, 4, 4\)"),
        (lambda s: 1.0, "potential must return log φ as a tensor .* got float"),
        (lambda s: s * 0 - torch.inf, r"potential\(scores\) must be finite, got 16 NaN or inf"),
    ],
)
def test_potentials_that_return_something_else(potential: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        usu(CELLS, SCORES, potential=potential)


def test_an_own_potential_is_used() -> None:
    scores = torch.tensor([[0.0, 1.0]])
    fine = usu(torch.ones(1, 1), scores, temperature=1.0, potential=lambda s: 2 * s)
    torch.testing.assert_close(fine, 2 * torch.softmax(2 * scores, 1))


def test_conditioning_strength_is_constant_for_the_exponential_potential_alone() -> None:
    scores = torch.linspace(0.05, 0.85, 9)
    strength = conditioning_strength(scores, 0.1, temperature=0.1)
    torch.testing.assert_close(strength, torch.full((9,), torch.e), rtol=1e-5, atol=0)
    for name in ("power", "log-odds"):
        assert float(conditioning_strength(scores, 0.1, potential=name).std()) > 1e-2


@pytest.mark.parametrize(
    ("cells", "size", "mode", "error", "message"),
    [
        (CELLS[None], (4, 4), "cubic", ValueError, "mode must be one of .* Did you mean 'bicubic'"),
        (CELLS[None].long(), (4, 4), "nearest", TypeError, "cells must be a floating-point"),
        (CELLS, (4, 4), "nearest", ValueError, r"cells must have shape \(batch, channels, 2 sp"),
        (CELLS[None], (1, 4), "nearest", ValueError, "cells must not be larger than pixels"),
        (CELLS[None] * torch.nan, (4, 4), "nearest", ValueError, "cells must be finite, got 4"),
        (CELLS, (4,), "bicubic", ValueError, "mode 'bicubic' needs two spatial dimensions, got 1"),
    ],
)
def test_interpolation(
    cells: Tensor, size: tuple[int, ...], mode: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        interpolate(cells, size, mode)


@pytest.mark.parametrize("size", [8, (8.0, 8.0), "88", torch.ones(2)])
def test_sizes_that_are_no_tuple_of_integers(size: Any) -> None:
    for call in (
        lambda: interpolate(CELLS[None], size),
        lambda: Interpolation()(CELLS[None], size=size),
    ):
        with pytest.raises(
            TypeError, match=r"size must be a tuple of integers, got .* Try size=\(8"
        ):
            call()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: heterogeneity(SCORES, "square"), ValueError, "kernel must be one of range, d"),
        (lambda: heterogeneity(SCORES, padding="none"), ValueError, "padding must be one of edge"),
        (lambda: USU(potential=None), TypeError, "potential must be a name or a function"),
        (lambda: Tilted(potential=3), TypeError, "potential must be a name or a function"),
        (lambda: Tilted(temperature=1e39), ValueError, "temperature must lie between 1e-30 and"),
        (lambda: tilt(CELLS, SCORES, temperature=1e39), ValueError, "temperature must lie betw"),
        (lambda: Slic(36), TypeError, r"segments must be a tuple, got 36. Try"),
        (lambda: Slic([4, 16]), TypeError, r"segments must be a tuple, got \[4, 16\]"),
        (lambda: Slic((np.int64(4),)), TypeError, r"an integer, got int64: .* Try int\(value\)"),
        (lambda: Quadtree([4]), TypeError, r"blocks must be a tuple, got \[4\]"),
        (
            lambda: Interpolation()(CELLS[None], size=(4, 4), grid=CellGrid.even((4, 4), (4, 4))),
            ValueError,
            r"grid must have cells \(2, 2\), got \(4, 4\)",
        ),
    ],
)
def test_options_that_would_fail_later(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_conditioning_strength_needs_a_temperature(temperature: float) -> None:
    from usu_core import conditioning_strength

    with pytest.raises(ValueError, match="temperature must be finite and above 0"):
        conditioning_strength(torch.tensor([0.5]), 0.1, temperature=temperature)
