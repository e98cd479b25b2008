"""Half precision cannot hold the sums of an image: they are taken in single precision."""

from typing import Any

import pytest
import torch
from torch import Tensor

from usu_core import CellGrid, GradientScorer, heterogeneity, interpolate
from usu_core.metrics import Blur, concentration, diffid, road
from usu_core.scoring import gaussian_blur, model_score
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
    [
        lambda x: gaussian_blur(x, 2.0),
        lambda x: interpolate(x, (32, 32), "lanczos"),
        lambda x: heterogeneity(x[:, 0], "diagonal"),
    ],
    ids=["blur", "lanczos", "heterogeneity"],
)
def test_autocast_does_not_round_what_is_in_single_precision(run: Any) -> None:
    values = maps()[:, None, :16, :16]
    with torch.autocast("cpu", torch.bfloat16):
        found = run(values)
    assert found.dtype == torch.float32
    assert torch.equal(found, run(values))


@pytest.mark.parametrize("factor", [1e-5, 3e4])
def test_effects_neither_vanish_nor_overflow(factor: float) -> None:
    """Gradients of 1e-5 times differences of 1e-3, and sums of a hundred thousand."""
    images = torch.rand(1, 64, 4, 4, generator=torch.Generator().manual_seed(0))
    images = (images * (1e-3 if factor < 1 else 1.0)).half()
    score = model_score(lambda x: (x * factor).sum((1, 2, 3)))
    labels, active = torch.arange(16).view(1, 4, 4), torch.ones(1, 16, dtype=torch.bool)
    scorer = GradientScorer(fill="zero")
    wanted = scorer(images.float(), score)(labels, active)
    assert wanted.min() > 0
    torch.testing.assert_close(scorer(images, score)(labels, active), wanted, rtol=0.02, atol=0)
