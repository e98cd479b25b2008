"""Integrated gradients: hand-derived attributions, Captum, the authors' code, and axioms."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum import attr as captum_attr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from usu_captum import IMAGENET, ImageSpace
from usu_captum.paths import QUADRATURES, IntegratedGradients

X = torch.tensor([[3.0, -2.0, 0.5], [1.0, 4.0, -1.0]], dtype=torch.float64)
START = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("method", QUADRATURES)
def test_linear(method: str) -> None:
    slope = torch.tensor([2.0, -1.0, 5.0]).double()
    found = IntegratedGradients(lambda x: x @ slope + 7).attribute(
        X, START, n_steps=3, method=method
    )
    assert torch.allclose(found, slope * (X - START), atol=1e-14)


@pytest.mark.parametrize(
    "method", ["gausslegendre", "riemann_middle", "riemann_trapezoid", "graded_middle"]
)
def test_quadratic(method: str) -> None:
    """f = Σ x²: each feature's part is x² - x'²."""
    found = IntegratedGradients(lambda x: x.square().sum(1)).attribute(
        X, START, n_steps=4, method=method
    )
    assert torch.allclose(found, X**2 - START**2, atol=1e-13)


def test_product() -> None:
    """f = x1 x2: (x1 - x1') times the mean of x2 on the way, and the other way round."""
    found, gap = IntegratedGradients(lambda x: x[:, 0] * x[:, 1]).attribute(
        X, START, n_steps=1, return_convergence_delta=True
    )
    mean = (X + START) / 2
    change = X - START
    expected = torch.stack((change[:, 0] * mean[:, 1], change[:, 1] * mean[:, 0], 0 * X[:, 2]), 1)
    assert torch.allclose(found, expected, atol=1e-14)
    assert torch.allclose(gap, torch.zeros(2).double(), atol=1e-13)


def test_max() -> None:
    """f = max(x1, x2) from (0, 1) to (3, 2): x1 leads from alpha 1/2, so it gets 3/2, x2 1/2."""
    x, start = torch.tensor([[3.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    found = IntegratedGradients(lambda x: x.amax(1)).attribute(
        x, start, n_steps=100, method="riemann_middle"
    )
    assert torch.allclose(found, torch.tensor([[1.5, 0.5]]), atol=1e-5)


@pytest.mark.parametrize("method", ["riemann_left", "riemann_right", "riemann_middle",
                                    "gausslegendre", "riemann_trapezoid"])  # fmt: skip
@pytest.mark.parametrize("target", [1, torch.tensor([0, 3, 2]), [2, 1, 0], torch.tensor([3])])
@pytest.mark.parametrize("size", [None, 4])
def test_equals_captum(
    smooth: Any, images: Tensor, method: str, target: Any, size: int | None
) -> None:
    """To 1e-6, as Captum rounds weights to float32; its trapezoid is ours times (n - 1) / n."""
    smooth, images = smooth.double(), images.double()
    arguments: dict[str, Any] = {
        "baselines": images.flip(0) / 3,
        "target": target,
        "additional_forward_args": (torch.rand(3).double(), 0.5),
        "n_steps": 9,
        "method": method,
        "internal_batch_size": size,
    }
    ours, gap = IntegratedGradients(smooth).attribute(
        images, **arguments, return_convergence_delta=True
    )
    theirs, other_gap = captum_attr.IntegratedGradients(smooth).attribute(
        images, **arguments, return_convergence_delta=True
    )
    scale = 8 / 9 if method == "riemann_trapezoid" else 1.0
    assert torch.allclose(ours * scale, theirs, rtol=1e-6, atol=1e-8)
    if scale == 1:
        assert torch.allclose(gap, other_gap, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("baseline", [None, 0, 0.25, torch.full((1, 3, 12, 10), 0.1).double()])
def test_baselines_as_captum(smooth: Any, images: Tensor, baseline: Any) -> None:
    smooth, images = smooth.double(), images.double()
    arguments: dict[str, Any] = {"baselines": baseline, "target": 2, "n_steps": 5}
    ours = IntegratedGradients(smooth).attribute(images, **arguments, method="gausslegendre")
    theirs = captum_attr.IntegratedGradients(smooth).attribute(images, **arguments)
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-8)


def test_tuples_as_captum() -> None:
    def model(left: Tensor, right: Tensor, power: float) -> Tensor:
        return torch.stack((left.sum(1) * right.square().sum(1), left.prod(1).abs() ** power), 1)

    inputs = (torch.rand(4, 3).double(), torch.rand(4, 2).double())
    arguments: dict[str, Any] = {
        "baselines": (0.1, torch.rand(1, 2).double()),
        "target": [(0,), (1,), (1,), (0,)],
        "additional_forward_args": 1.5,
        "n_steps": 7,
        "method": "gausslegendre",
    }
    ours = IntegratedGradients(model).attribute(inputs, **arguments)
    theirs = captum_attr.IntegratedGradients(model).attribute(inputs, **arguments)
    assert isinstance(ours, tuple)
    for left, right in zip(ours, theirs, strict=True):
        assert torch.allclose(left, right, rtol=1e-6, atol=1e-8)


def test_input_the_model_ignores_gets_zeros() -> None:
    inputs = (torch.rand(2, 3), torch.rand(2, 4))
    found = IntegratedGradients(lambda a, b: a.sum(1)).attribute(inputs)
    assert torch.equal(found[1], torch.zeros(2, 4))
    assert torch.allclose(found[0], inputs[0])


def test_targets_of_many_dimensions_as_captum() -> None:
    def model(x: Tensor) -> Tensor:
        return x[:, :, None] * x.square()[:, None]

    x = torch.rand(2, 3).double()
    arguments: dict[str, Any] = {"target": [(0, 2), (1, 1)], "n_steps": 6, "method": "riemann_left"}
    ours = IntegratedGradients(model).attribute(x, **arguments)
    theirs = captum_attr.IntegratedGradients(model).attribute(x, **arguments)
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-8)


def test_equals_pair(smooth: Any, images: Tensor, pair: Any, pair_call: Any) -> None:
    """PAIR weighs both ends of 0 to 1 as the rest; it sums in float32, hence 1e-6."""
    smooth, images = smooth.double(), images.double()
    nodes = torch.linspace(0, 1, 20).double().view(-1, 1, 1, 1, 1)
    for image in images:
        theirs = pair.IntegratedGradients().GetMask(
            image.permute(1, 2, 0).numpy(), pair_call(smooth, 1), x_steps=20, batch_size=20
        )
        ours = IntegratedGradients(smooth).attribute(
            image[None], target=1, n_steps=20, method="riemann_trapezoid"
        )
        # Its rule is ours of 20 nodes with 19 intervals, plus half a gradient at either end.
        ends = torch.cat([(nodes[k] * image) for k in (0, 19)]).requires_grad_()
        (extra,) = torch.autograd.grad(smooth(ends)[:, 1].sum(), ends)
        expected = (ours[0] * 19 + (extra * image).sum(0) / 2) / 20
        assert np.allclose(theirs, expected.permute(1, 2, 0).numpy(), rtol=1e-5, atol=1e-6)


def cubic(coefficients: list[float]) -> Callable[[Tensor], Tensor]:
    a, b, c = coefficients
    return lambda x: a * x[:, 0] ** 3 + b * x[:, 0] * x[:, 1] + c * x[:, 1] ** 2


NUMBER = st.floats(-3, 3, allow_nan=False, width=32)
THREE = st.lists(NUMBER, min_size=3, max_size=3)


@settings(max_examples=40, deadline=None)
@given(x=THREE, start=THREE, left=THREE, right=THREE, scales=st.tuples(NUMBER, NUMBER))
def test_axioms(
    x: list[float], start: list[float], left: list[float], right: list[float],
    scales: tuple[float, float],
) -> None:  # fmt: skip
    """A feature no model reads gets 0; attributions are linear in the model, and complete."""
    inputs, baseline = torch.tensor([x]).double(), torch.tensor([start]).double()
    f, g = cubic(left), cubic(right)

    def attribute(model: Any) -> Tensor:
        found, gap = IntegratedGradients(model).attribute(
            inputs, baseline, n_steps=4, method="gausslegendre", return_convergence_delta=True
        )
        assert gap.abs().max() < 1e-9
        return found

    def combined(points: Tensor) -> Tensor:
        return scales[0] * f(points) + scales[1] * g(points)

    whole = attribute(combined)
    assert whole[0, 2] == 0
    assert torch.allclose(whole, scales[0] * attribute(f) + scales[1] * attribute(g), atol=1e-9)


def test_named_baselines() -> None:
    """Black is -mean / std in a normalised space; the mean colour is 0 there."""
    space = ImageSpace((0.5, 0.25), (0.5, 0.125))
    explainer = IntegratedGradients(lambda x: x.flatten(1).sum(1), space=space)
    images = torch.ones(1, 2, 4, 4)
    black = explainer.attribute(images, "black")[0, :, 0, 0]
    assert torch.allclose(black, torch.tensor([2.0, 3.0]))
    assert torch.allclose(explainer.attribute(images, "mean"), images)
    assert torch.allclose(explainer.attribute(images, "blur"), 0 * images, atol=1e-6)
    with pytest.raises(ValueError, match="needs to know where the images live"):
        IntegratedGradients(lambda x: x).attribute(images, "black")


@pytest.mark.parametrize("seed", range(4))
def test_default_rule_suits_models_that_bend_early(seed: int) -> None:
    """Gradients that jump within a twentieth of the way, as those of trained networks do."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(50, 2000, generator=generator).double() / 20
    jumps = torch.randn(50, 2000, generator=generator).double()

    def models(x: Tensor) -> Tensor:
        return ((x[:, None] - corners).clamp_min(0) * jumps).sum(2)

    def gap(**arguments: Any) -> float:
        found = [
            IntegratedGradients(models).attribute(
                torch.ones(1, 1).double(), target=i, return_convergence_delta=True, **arguments
            )[1]
            for i in range(50)
        ]
        return float(torch.cat(found).abs().mean())

    assert gap(n_steps=30) < gap(n_steps=30, method="riemann_middle") / 2


def test_defaults() -> None:
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(0)).double()
    explainer = IntegratedGradients(lambda x: torch.tanh(5 * x).sum(1))
    found = explainer.attribute(x)
    assert torch.equal(found, explainer.attribute(x, n_steps=300, method="graded_middle"))
    assert not torch.equal(found, explainer.attribute(x, n_steps=299))


@pytest.mark.data
@pytest.mark.parametrize(("name", "number"), [("mobilenet_v2", 1), ("resnet20", 4)])
def test_complete_on_real_networks(real: Any, name: str, number: int) -> None:
    """At the default steps; benchmarks.path_completeness asks of more images and networks."""
    network, pictures, target = real(name, number)
    found, gap = IntegratedGradients(network).attribute(
        pictures, target=target, return_convergence_delta=True
    )
    change = found.flatten(1).sum(1) - gap
    assert (gap / change).abs().mean() < 0.01


@pytest.mark.parametrize(("name", "shape"), [("blur", (2, 5)), ("black", (2,)), ("mean", (2,))])
def test_names_of_images_need_images(name: str, shape: tuple[int, ...]) -> None:
    explainer = IntegratedGradients(lambda x: x.reshape(len(x), -1).sum(1), space=IMAGENET)
    with pytest.raises(ValueError, match=rf"baselines='{name}' needs images .* Try a number"):
        explainer.attribute(torch.ones(shape), name)


@pytest.mark.parametrize(
    "numbers", [{"mean": ()}, {"mean": (float("nan"),)}, {"mean": 0.5, "std": float("inf")}]
)
def test_a_space_holds_finite_numbers(numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"(mean|std) must hold finite numbers, got"):
        ImageSpace(**numbers)
