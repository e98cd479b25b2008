"""The Quantus library as an oracle, where it is installed."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from usu_core.metrics import (
    Curve,
    complexity,
    concentration,
    irof,
    pixel_flipping,
    pointing_game,
    quantus_infidelity,
    road,
    sparseness,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    quantus = pytest.importorskip("quantus")

pytestmark = pytest.mark.filterwarnings("ignore")

B, SIDE = 3, 12
LABELS = torch.tensor([2, 0, 1])


class Net(nn.Module):
    """A small smooth classifier."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.hidden = nn.Parameter(torch.randn(SIDE * SIDE, 16, generator=generator) / SIDE)
        self.out = nn.Parameter(torch.randn(16, 3, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return 3 + (x.mean(1).flatten(1) @ self.hidden).tanh() @ self.out


class Logit:
    """The label's logit of each example, and whether it is the largest."""

    def __init__(self, net: Net, hit: bool = False) -> None:
        self.net, self.hit = net, hit

    def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
        logits, wanted = self.net(images), LABELS[example]
        if self.hit:
            return (logits.argmax(1) == wanted).float()
        return logits.gather(1, wanted[:, None]).squeeze(1)


@pytest.fixture(scope="module")
def data() -> tuple[Net, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(B, 1, SIDE, SIDE, generator=generator)
    return Net().eval(), images, torch.rand(B, SIDE, SIDE, generator=generator)


def theirs(metric: Any, data: tuple[Net, Tensor, Tensor], **options: Any) -> np.ndarray:
    net, images, maps = data
    scores = metric(
        model=net,
        x_batch=images.numpy(),
        y_batch=LABELS.numpy(),
        a_batch=maps[:, None].numpy().copy(),
        device="cpu",
        softmax=False,
        **options,
    )
    return np.asarray(scores)


QUIET: dict[str, Any] = {"disable_warnings": True, "normalise": False}


@pytest.mark.parametrize("patch", [2, 4])
def test_infidelity(data: Any, patch: int) -> None:
    net, images, maps = data
    metric = quantus.Infidelity(
        perturb_patch_sizes=[patch], n_perturb_samples=1, abs=False, **QUIET
    )
    found = quantus_infidelity(Logit(net), images, maps, patch=patch)
    np.testing.assert_allclose(found.numpy(), theirs(metric, data), rtol=1e-4)


@pytest.mark.parametrize("step", [1, 6])
def test_pixel_flipping(data: Any, step: int) -> None:
    net, images, maps = data
    metric = quantus.PixelFlipping(
        features_in_step=step, perturb_baseline="black", abs=False, **QUIET
    )
    found = pixel_flipping(
        Logit(net), images, maps, pixels_per_step=step, black=images.amin((1, 2, 3), keepdim=True)
    )
    assert isinstance(found, Curve)
    wanted = theirs(metric, data)
    np.testing.assert_allclose(found.scores[:, 1:].numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_irof(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, images, maps = data
    labels = torch.arange(SIDE) // 3
    segments = labels[:, None] * 4 + labels
    monkeypatch.setattr(
        "quantus.helpers.utils.get_superpixel_segments", lambda **_: segments.numpy()
    )
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # gone from recent NumPy
    metric = quantus.IROF(perturb_baseline="black", abs=False, return_aggregate=False, **QUIET)
    found = irof(
        Logit(net),
        images,
        maps,
        segments.expand(B, SIDE, SIDE),
        reference=float(images.min()),  # theirs takes the least value of the batch
    )
    # Theirs leaves the whole image out and does not divide by the number of segments.
    scores = found.scores[:, 1:].numpy()
    wanted = theirs(metric, data)
    np.testing.assert_allclose(16 - np.trapezoid(scores, axis=1), wanted, rtol=1e-4)


def test_road(data: Any) -> None:
    net, images, maps = data
    percentages = [10, 30, 50, 70, 90]
    metric = quantus.ROAD(percentages=percentages, noise=0.0, abs=False, **QUIET)
    found = road(
        Logit(net, hit=True), images, maps, shares=[p / 100 for p in percentages], noise=0.0
    )
    wanted = theirs(metric, data).item()
    np.testing.assert_allclose(found.mean(0).numpy(), list(wanted.values()), atol=1e-6)


def test_metrics_of_maps(data: Any) -> None:
    _, _, maps = data
    pairs = ((sparseness, quantus.Sparseness), (complexity, quantus.Complexity))
    for ours, metric in pairs:
        np.testing.assert_allclose(
            ours(maps).numpy(), theirs(metric(abs=True, **QUIET), data), rtol=1e-5
        )
    mask = torch.zeros(B, SIDE, SIDE, dtype=torch.bool)
    mask[:, 2:9, 1:7] = True
    masks = mask[:, None].numpy()
    found = theirs(quantus.PointingGame(abs=False, **QUIET), data, s_batch=masks)
    np.testing.assert_allclose(pointing_game(maps, mask).numpy(), found)
    metric = quantus.RelevanceMassAccuracy(abs=False, **QUIET)
    found = theirs(metric, data, s_batch=masks)
    np.testing.assert_allclose(concentration(maps, mask).numpy(), found, rtol=1e-5)
