"""Half precision cannot hold the sums of an image: they are taken in single precision."""

from typing import Any

import pytest
import torch
from torch import Tensor

from usu_core import CellGrid, interpolate
from usu_core.metrics import Blur, concentration, diffid, road
from usu_core.scoring import gaussian_blur
from usu_core.segments import segment_mean

SIZE = (224, 224)


def maps() -> Tensor:
    return torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(0)) * 4


def cell_means(values: Tensor) -> Tensor:
    return CellGrid.even((7, 7), SIZE).mean(values + 100)


def conserved(values: Tensor) -> Tensor:
    cells = 500 * values[:, None, :7, :7]
    return CellGrid.even((7, 7), SIZE).mean(interpolate(cells, SIZE, "bilinear-conserving"))


def share_inside(values: Tensor) -> Tensor:
    return concentration(values, torch.arange(SIZE[1]).expand(1, *SIZE) < 100)


def imputed(values: Tensor) -> Tensor:
    images = values[:, None].expand(-1, 3, -1, -1) * 8
    return road(lambda x: x.float().mean((1, 2, 3)), images, values, shares=[0.3, 0.5])


def replaced(values: Tensor) -> Tensor:
    images = values[:, None].expand(-1, 3, -1, -1)

    def model(x: Tensor) -> Tensor:
        mean = x.float().mean((1, 2, 3))
        return torch.stack([mean, -mean], 1)

    found = diffid(model, images, images, torch.tensor([0]), measure="retention")
    return torch.cat([found.insertion, found.deletion])


def segment_means(values: Tensor) -> Tensor:
    labels = (torch.arange(SIZE[1]) > 20).long().expand(1, *SIZE)
    return segment_mean(values, labels, 2)


def blurred(values: Tensor) -> Tensor:
    return 40 * Blur(37.0, 18)(torch.ones_like(values[:, None, :40, :40]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "measure", [cell_means, conserved, share_inside, imputed, replaced, segment_means, blurred]
)
def test_equals_single_precision(measure: Any, dtype: torch.dtype) -> None:
    values = maps().to(dtype)
    wanted = measure(values.float())
    torch.testing.assert_close(measure(values).float(), wanted.float(), rtol=0.03, atol=0.01)


@pytest.mark.parametrize(
    "run",
    [lambda x: gaussian_blur(x, 2.0), lambda x: interpolate(x, (32, 32), "lanczos")],
    ids=["blur", "lanczos"],
)
def test_autocast_does_not_round_what_is_in_single_precision(run: Any) -> None:
    values = maps()[:, None, :16, :16]
    with torch.autocast("cpu", torch.bfloat16):
        found = run(values)
    assert torch.equal(found, run(values))
