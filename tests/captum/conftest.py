"""One small case for every attribution class: a model, a layer, images and arguments."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from captum import attr as captum_attr
from torch import Tensor, nn

import usu_captum
from usu_core import USU, MaskedPerturbation, Quadtree

_ANNOUNCEMENTS = (
    "Setting .* hooks",
    "Input Tensor",
    "You are providing multiple inputs",
    "Internal batch size cannot be less",
    "Multiple layers provided",
    "This method computes finite differences",
)


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small lose more to waiting threads than they gain from them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Captum announces hooks, gradients and slow sampling; nothing here depends on it."""
    seed(0)
    with warnings.catch_warnings():
        for message in _ANNOUNCEMENTS:
            warnings.filterwarnings("ignore", message=message)
        yield


class Net(nn.Module):
    """Two convolutions with modules that every Captum method knows; (B, 3, 16, 12) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.second = nn.Conv2d(4, 5, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d((2, 2))
        self.head = nn.Linear(20, 4)

    def forward(self, images: Tensor, scale: Tensor | None = None, shift: float = 0.0) -> Tensor:
        x = self.relu(self.norm(self.first(images)))
        x = self.head(torch.flatten(self.pool(self.relu2(self.second(x))), 1))
        x = x if scale is None else x * scale.view(-1, 1)
        return x + shift


@dataclass
class Case:
    """What a class is built from and called with."""

    name: str
    model: Any
    build: Callable[[Any], Any]
    images: Tensor
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> Any:
        return self.build(usu_captum.METHODS[self.name])

    @property
    def captum(self) -> Any:
        return self.build(getattr(captum_attr, self.name))

    @property
    def is_layer(self) -> bool:
        return self.name.startswith(("Layer", "Internal"))


def grid_mask(rows: int, columns: int, height: int, width: int) -> Tensor:
    """A feature mask of rows x columns patches."""
    mask = torch.arange(rows * columns).reshape(1, 1, rows, columns)
    return mask.repeat_interleave(height // rows, 2).repeat_interleave(width // columns, 3)


def make_case(name: str, model: nn.Module | None = None) -> Case:
    net = model or Net().eval()
    images = torch.rand(2, 3, 16, 12)
    layer = getattr(net, "first" if name == "LayerLRP" else "relu2", None)
    target: Any = torch.tensor([1, 3])
    arguments: dict[str, Any] = {"target": target}
    baselines = torch.zeros(2, 3, 16, 12)
    forward: Any = net
    if name in ("LayerConductance", "LayerIntegratedGradients", "InternalInfluence"):
        arguments["n_steps"] = 4
    if name in ("LayerDeepLiftShap", "LayerGradientShap"):
        arguments["baselines"] = baselines + torch.rand(2, 1, 1, 1) / 10
    if name == "LayerGradientShap":
        arguments["n_samples"] = 2
    if name == "LayerFeatureAblation":
        arguments["layer_mask"] = torch.arange(48).reshape(1, 1, 8, 6) // 4
    if name == "LayerActivation":
        arguments = {}
    if name == "LayerFeaturePermutation":
        arguments = {"layer_mask": torch.arange(48).reshape(1, 1, 8, 6) // 4}
        forward = lambda images: net(images)[:, 1]  # noqa: E731
    if name in ("FeatureAblation", "FeaturePermutation", "ShapleyValueSampling", "ShapleyValues",
                "Lime", "KernelShap"):  # fmt: skip
        arguments["feature_mask"] = grid_mask(2, 2, 16, 12)
    if name in ("Lime", "KernelShap", "ShapleyValueSampling"):
        arguments["n_samples"] = 6
    if name == "Occlusion":
        arguments |= {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)}

    def build(cls: Any) -> Any:
        layered = name.startswith(("Layer", "Internal", "Guided"))
        return cls(forward, layer) if layered else cls(forward)

    return Case(name, net, build, images, arguments)


@pytest.fixture
def case() -> Callable[..., Case]:
    return make_case


@pytest.fixture
def mask() -> Callable[..., Tensor]:
    return grid_mask


@pytest.fixture
def net() -> nn.Module:
    return Net().eval()


@pytest.fixture
def guided() -> USU:
    """A guided upsampler that costs a few evaluations."""
    return USU(segmenter=Quadtree((2, 4)), scorer=MaskedPerturbation(mode="drop", fill="zero"))


@pytest.fixture
def hooks() -> Callable[[nn.Module], int]:
    """Counts the hooks on all modules of a model."""

    def count(model: nn.Module) -> int:
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)

    return count


def seed(value: int = 7) -> None:
    """Seed every generator that Captum draws from; GradientShap uses numpy's old one."""
    torch.manual_seed(value)
    np.random.seed(value)  # noqa: NPY002


@pytest.fixture(name="seed")
def _seed() -> Callable[..., None]:
    return seed


def seeded(call: Callable[[], Any]) -> Any:
    seed()
    return call()


@pytest.fixture
def run_seeded() -> Callable[[Callable[[], Any]], Any]:
    return seeded


def identical(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    return (
        type(left) is type(right)
        and len(left) == len(right)
        and all(identical(a, b) for a, b in zip(left, right, strict=True))
    )


@pytest.fixture
def same() -> Callable[[Any, Any], bool]:
    """Bit for bit, nested as Captum nests."""
    return identical
