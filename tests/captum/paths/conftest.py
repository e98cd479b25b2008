"""Small models for path methods, and how each class of them is built and called."""

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

FEW = {"n_steps": 6, "path_steps": 6}
"""Arguments that keep classes fast, passed to those that have them."""


class Smooth(nn.Module):
    """Differentiable everywhere and far from linear; (B, 3, 12, 10) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 5, 3, stride=2)
        self.head = nn.Linear(5 * 5 * 4, 4)
        for parameter in self.parameters():
            parameter.data.mul_(2)

    def forward(self, images: Tensor, scale: Tensor | None = None, gain: Any = 1.0) -> Tensor:
        hidden = torch.tanh(self.first(images)) * torch.sigmoid(self.first(images.flip(-1)))
        outputs = self.head(torch.flatten(torch.tanh(self.second(hidden)), 1)).square()
        return outputs * (1 if scale is None else scale.view(-1, 1)) * gain


def _halving() -> Any:
    """The least autoencoder: one that loses nothing."""
    return SimpleNamespace(encode=lambda images: images / 2, decode=lambda latents: latents * 2)


SPECIAL: dict[str, Callable[..., Any]] = {
    "ManifoldGuidedIG": lambda cls, forward, **options: cls(forward, _halving(), **options),
}
"""Classes that need more than a forward function."""


@pytest.fixture
def smooth() -> nn.Module:
    torch.manual_seed(0)
    return Smooth().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 12, 10, generator=torch.Generator().manual_seed(1)) - 0.4


@pytest.fixture
def build() -> Callable[..., Any]:
    """Builds any path method on a forward function."""
    return lambda cls, forward, **options: SPECIAL.get(cls.__name__, lambda c, *a, **k: c(*a, **k))(
        cls, forward, **options
    )


@pytest.fixture
def few() -> Callable[[Any], dict[str, Any]]:
    """Arguments of ``attribute`` that make a class cheap."""

    def arguments(cls: Any) -> dict[str, Any]:
        known = inspect.signature(cls.attribute).parameters
        return {name: value for name, value in FEW.items() if name in known}

    return arguments


@pytest.fixture(scope="session")
def data() -> Path:
    root = Path(__file__).parents[3]
    folder = Path(os.environ.get("USU_DATA", root.parent / "shared" / "data"))
    if not (folder / "load_models.py").is_file():
        pytest.skip(f"no real models and images in {folder}: set USU_DATA")
    return folder


@pytest.fixture(scope="session")
def loaders(data: Path) -> ModuleType:
    """The data folder's module of networks."""
    spec = importlib.util.spec_from_file_location("load_models", data / "load_models.py")
    if spec is None or spec.loader is None:
        raise ImportError(data)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def real(data: Path, loaders: ModuleType) -> Callable[[str, int], tuple[Any, Tensor, Tensor]]:
    """A real network by name, as many of its images, and its predictions."""

    def load(name: str, number: int) -> tuple[Any, Tensor, Tensor]:
        if name.startswith("resnet") and name != "resnet18":
            stored = np.load(data / "cifar10" / "test-100-lossless.npz")["images"][:number]
            network, prepare = loaders.cifar(name)
        else:
            files = sorted((data / "imagenet" / "images").glob("*.jpg"))[::150][:number]
            stored = np.stack([np.array(Image.open(f).convert("RGB")) for f in files])
            stored = stored[:, 16:240, 16:240]
            network, prepare = loaders.imagenet(name)
        pictures = prepare(torch.from_numpy(stored).permute(0, 3, 1, 2))
        with torch.no_grad():
            return network, pictures, network(pictures).argmax(1)

    return load


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The authors' ``saliency``, whose call of ``np.quantile`` NumPy 2 refuses."""
    module = pytest.importorskip("saliency.core")
    quantile = np.quantile

    def lower(values: Any, part: float, interpolation: str) -> Any:
        return quantile(values, part, method=interpolation)

    monkeypatch.setattr(sys.modules["saliency.core.guided_ig"].np, "quantile", lower)
    return module


@pytest.fixture
def pair_call() -> Callable[..., Any]:
    """A model as ``saliency`` calls it: channels last, gradients of one output."""

    def wrap(model: Any, target: int) -> Callable[..., Any]:
        def call(values: Any, call_model_args: Any = None, expected_keys: Any = None) -> Any:
            points = torch.from_numpy(np.asarray(values)).permute(0, 3, 1, 2).requires_grad_()
            (found,) = torch.autograd.grad(model(points)[:, target].sum(), points)
            return {"INPUT_OUTPUT_GRADIENTS": found.permute(0, 2, 3, 1).numpy()}

        return call

    return wrap
