"""A cell of exactly 0, as most of a map after a ReLU, has the derivative of its mass."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from usu_core import interpolate, iwmr, tilt, usu
from usu_core._operands import by_sign

OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "usu": usu,
    "usu-invert": lambda cells, phi: usu(cells, phi, negative="invert"),
    "iwmr": iwmr,
    "iwmr-invert": lambda cells, phi: iwmr(cells, phi, negative="invert"),
    "iwmr-mass": lambda cells, phi: iwmr(cells, phi, prior="mass"),
    "iwmr-mass-invert": lambda cells, phi: iwmr(cells, phi, prior="mass", negative="invert"),
    "tilt": tilt,
    "bilinear-conserving": lambda cells, phi: interpolate(
        cells[:, None], phi.shape[1:], "bilinear-conserving"
    )[:, 0],
}


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_the_sum_of_the_map_follows_a_cell_of_0(
    operator: Callable[[Tensor, Tensor], Tensor],
) -> None:
    cells = torch.tensor([[[0.0, 2.0], [-1.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    phi = torch.rand(1, 6, 8, generator=torch.manual_seed(0)).double()
    (gradient,) = torch.autograd.grad(operator(cells, phi).sum(), cells)
    torch.testing.assert_close(gradient, torch.full_like(cells, 12.0))


def test_the_parts_are_those_of_a_clamp() -> None:
    cells = torch.tensor([-2.0, -0.0, 0.0, 3.0])
    above, below = by_sign(cells)
    assert above.tolist() == cells.clamp(min=0).tolist()
    assert below.tolist() == (-cells).clamp(min=0).tolist()
    assert by_sign(cells.bfloat16())[1].dtype == torch.bfloat16
