"""Settings and builders that the tests of usu_core share."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

settings.register_profile(
    "core",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("core")

BruteLabels = Callable[[tuple[int, ...], tuple[int, ...]], np.ndarray]
Randoms = Callable[..., Tensor]


@pytest.fixture(scope="session")
def brute_labels() -> BruteLabels:
    """Cell number of every pixel by the definition, floor(p * h / H) along each axis."""

    def labels(cells: tuple[int, ...], pixels: tuple[int, ...]) -> np.ndarray:
        axes = [[p * c // n for p in range(n)] for c, n in zip(cells, pixels, strict=True)]
        return np.ravel_multi_index(np.meshgrid(*axes, indexing="ij"), cells)

    return labels


@pytest.fixture
def rand() -> Randoms:
    """Uniform random tensors from a generator of their own."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=dtype)

    return draw


class Linear:
    """A model whose score is a weighted sum of pixels, so that every effect is known."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights
        self.asked: list[int] = []
        self.outputs: list[str] = []
        self.examples: list[Tensor] = []

    def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
        self.asked.append(len(images))
        self.outputs.append(output)
        self.examples.append(example)
        return (images * self.weights[example]).flatten(1).sum(1)


@pytest.fixture(scope="session")
def linear() -> type[Linear]:
    """The additive model: one weight per example, channel and pixel."""
    return Linear
