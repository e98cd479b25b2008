"""Tiny random networks, and an upsampler that costs a few forward passes."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from usu_core import USU, MaskedPerturbation, Quadtree


class TinyNet(nn.Module):
    """Two convolutions, batch norm, five classes."""

    def __init__(self, channels: int = 3, rank: int = 2, classes: int = 5) -> None:
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[rank - 2]
        self.first = conv(channels, 6, 3, stride=2, padding=1)
        self.norm = (nn.BatchNorm2d, nn.BatchNorm3d)[rank - 2](6)
        self.last = conv(6, 8, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.norm(self.first(images)))
        hidden = torch.nn.functional.silu(self.last(hidden))
        return self.head(self.drop(hidden).flatten(2).mean(2))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Handing tiny tensors to several threads costs more than computing with them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 # RandomCAM draws from the global generator
    yield
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the progress bars of ScoreCAM and AblationCAM."""
    for module in ("ablation_cam", "score_cam"):
        monkeypatch.setattr(
            f"pytorch_grad_cam.{module}.tqdm", SimpleNamespace(tqdm=lambda items: items)
        )


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(1)
    return TinyNet().eval()


@pytest.fixture
def make_net() -> Callable[..., nn.Module]:
    return TinyNet


@pytest.fixture
def images() -> torch.Tensor:
    """Two images of 24 by 32, whose last layer has 6 by 8 cells."""
    return torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def quick() -> USU:
    return USU(segmenter=Quadtree((2, 4)), scorer=MaskedPerturbation(mode="drop", fill="mean"))


@pytest.fixture
def counted(net: nn.Module) -> Iterator[SimpleNamespace]:
    """Count the images the model is run on."""
    counter = SimpleNamespace(images=0)

    def count(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        counter.images += len(args[0])

    handle = net.register_forward_pre_hook(count)
    yield counter
    handle.remove()
