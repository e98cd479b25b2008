"""A tiny classifier, its images, and a network for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from usu_captum import ImageSpace
from usu_captum.ranking import ArrayImages, NetworkConfig, RankingNetwork, build_network

SHAPE = (3, 16, 16)
CLASSES = 4


class TinyNet(nn.Module):
    """Two convolutions, a mean over pixels and a linear head: (B, 3, 16, 16) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor, scale: Tensor | None = None) -> Tensor:
        logits: Tensor = 4 * self.head(self.second(self.first(images)).mean((2, 3)))
        return logits if scale is None else logits * scale.view(-1, 1)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train where these networks are, also on a machine with a GPU, which rounds otherwise."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")


@pytest.fixture
def classifier() -> TinyNet:
    torch.manual_seed(1)
    return TinyNet().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def space() -> ImageSpace:
    return ImageSpace((0.5,), (0.25,))


@pytest.fixture
def config() -> NetworkConfig:
    return NetworkConfig(CLASSES, SHAPE, class_width=8, middle=8, width=8, head=8)


@pytest.fixture
def network(classifier: TinyNet, config: NetworkConfig) -> RankingNetwork:
    torch.manual_seed(3)
    return build_network(config, classifier).eval()


@pytest.fixture
def source(space: ImageSpace) -> ArrayImages:
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    return ArrayImages(pixels, rng.integers(0, CLASSES, 20), SHAPE, space)


@pytest.fixture
def trace() -> Callable[[nn.Module], dict[str, Any]]:
    """Return what a module must have kept: weights, modes, gradient flags, gradients and hooks."""

    def take(module: nn.Module) -> dict[str, Any]:
        return {
            "state": {k: v.clone() for k, v in module.state_dict().items()},
            "modes": [m.training for m in module.modules()],
            "flags": [p.requires_grad for p in module.parameters()],
            "gradients": [p.grad is None for p in module.parameters()],
            "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()],
            "random": torch.get_rng_state(),
        }

    return take


@pytest.fixture
def same_trace() -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def check(before: dict[str, Any], after: dict[str, Any]) -> None:
        for name, value in before["state"].items():
            assert torch.equal(value, after["state"][name]), name
        assert torch.equal(before["random"], after["random"])
        for key in ("modes", "flags", "gradients", "hooks"):
            assert before[key] == after[key], key

    return check
