"""The engine on closed forms: quadrature, objectives, memory, and gradients that are not finite."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from usu_captum.paths import QUADRATURES, BlurIG, GuidedIG, IntegratedGradients
from usu_captum.paths._engine import follow, integrate
from usu_captum.paths._objective import Objective
from usu_captum.paths._quadrature import nodes_and_edges
from usu_captum.paths._straight import StraightLine


def weights(method: str, n_steps: int) -> tuple[Tensor, Tensor]:
    nodes, edges = nodes_and_edges(method, n_steps)
    return nodes, edges.diff()


@pytest.mark.parametrize("n_steps", [1, 2, 3, 8])
def test_gauss_legendre_is_exact_to_its_degree(n_steps: int) -> None:
    nodes, parts = weights("gausslegendre", n_steps)
    for degree in range(2 * n_steps):
        exact = 1 / (degree + 1)
        assert float((parts * nodes**degree).sum()) == pytest.approx(exact, abs=1e-14)
    inexact = float((parts * nodes ** (2 * n_steps)).sum())
    assert abs(inexact - 1 / (2 * n_steps + 1)) > 1e-14


@pytest.mark.parametrize(
    ("method", "of_line", "of_square"),
    [
        ("riemann_left", -1 / 10, None),
        ("riemann_right", 1 / 10, None),
        ("riemann_middle", 0.0, -1 / 300),
        ("riemann_trapezoid", 0.0, 1 / 96),
        ("graded_middle", 0.0, -(1 + 27 + 125 + 343 + 729) / 25**3 / 12),
    ],
)
def test_error_of_the_other_rules(method: str, of_line: float, of_square: float | None) -> None:
    """The textbook's errors with 5 nodes: h / 2, h² / 12 and h² / 6; of stretches, Σ h³ / 12."""
    nodes, parts = weights(method, 5)
    assert float(parts.sum()) == pytest.approx(1)
    assert float((parts * nodes).sum()) - 1 / 2 == pytest.approx(of_line, abs=1e-15)
    if of_square is not None:
        assert float((parts * nodes**2).sum()) - 1 / 3 == pytest.approx(of_square)


@pytest.mark.parametrize("method", QUADRATURES)
@pytest.mark.parametrize("n_steps", [2, 3, 50, 200])
def test_each_node_lies_in_its_stretch(method: str, n_steps: int) -> None:
    nodes, edges = nodes_and_edges(method, n_steps)
    assert edges[0] == 0
    assert edges[-1] == pytest.approx(1, abs=1e-14)
    assert bool((edges.diff() > 0).all())
    assert bool((edges[:-1] <= nodes).all() and (nodes <= edges[1:]).all())


@pytest.mark.parametrize(
    ("method", "n_steps", "kind", "message"),
    [
        ("simpson", 5, ValueError, "method must be one of .*got 'simpson'"),
        ("riemann_left", 0, ValueError, "n_steps must be at least 1, got 0"),
        ("riemann_middle", -3, ValueError, "n_steps must be at least 1, got -3"),
        ("riemann_trapezoid", 1, ValueError, "n_steps must be at least 2, got 1"),
        ("gausslegendre", 5.0, TypeError, "n_steps must be an integer, got float"),
        ("gausslegendre", True, TypeError, "n_steps must be an integer, got bool"),
    ],
)
def test_bad_rules(method: str, n_steps: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        nodes_and_edges(method, n_steps)


def objective(function: Any, examples: int, target: Any = None) -> Objective:
    return Objective(function, target, None, "logit", examples)


class Parabola:
    """x = alpha, y = alpha squared: a path that is no straight line."""

    def at(self, alphas: Tensor) -> tuple[Tensor, ...]:
        return (torch.stack((alphas, alphas**2), 1)[:, None],)


@pytest.mark.parametrize("method", ["riemann_middle", "riemann_trapezoid", "gausslegendre"])
def test_integral_along_a_curve(method: str) -> None:
    """For f = x y on y = x²: ∫ y dx = 1/3 and ∫ x dy = 2/3."""
    found = integrate(
        Parabola(),
        objective(lambda p: p[:, 0] * p[:, 1], 1),
        torch.tensor([0]),
        n_steps=400,
        method=method,
        batch_size=7,
    )
    assert torch.allclose(found[0], torch.tensor([[1 / 3, 2 / 3]]).double(), atol=1e-5)


def test_changes_replace_those_between_edges() -> None:
    found = integrate(
        Parabola(),
        objective(lambda p: p.sum(1), 1),
        torch.tensor([0]),
        n_steps=4,
        method="riemann_left",
        batch_size=3,
        changes=lambda nodes, edges: (
            torch.stack((edges.diff(), 2 * nodes * edges.diff()), 1)[:, None],
        ),
    )
    assert found[0].flatten().tolist() == pytest.approx([1, 0.75])  # 2 (0 + 1 + 2 + 3) / 16


@pytest.mark.parametrize("method", ["riemann_left", "riemann_trapezoid"])
def test_follow_weighs_steps_by_hand(method: str) -> None:
    """f = x y, gradients (y, x), along (1, 3), (2, 3), (2, 10), (3, 10).

    x gets 3 and 10, y 2 times 7, under both rules, as no step moves both.
    """
    corners = [(2.0, 3.0), (2.0, 10.0), (3.0, 10.0)]

    def step(number: int, points: Any, gradients: Any) -> Any:
        assert torch.equal(gradients[0], points[0].flip(1))
        return (torch.tensor([corners[number]]),) if number < 3 else None

    found = follow(
        (torch.tensor([[1.0, 3.0]]),),
        step,
        objective(lambda p: p[:, 0] * p[:, 1], 1),
        torch.tensor([0]),
        method=method,
        batch_size=4,
    )
    assert found[0].tolist() == [[13, 14]]


def test_follow_takes_the_mean_of_both_ends() -> None:
    """f = x²: 2 at 1, 6 at 3; from 1 to 3 left is 4, the mean is 8 = 9 - 1."""
    start = (torch.tensor([[1.0]]),)

    def step(number: int, points: Any, gradients: Any) -> Any:
        return (torch.tensor([[3.0]]),) if number == 0 else None

    def run(method: str) -> float:
        square = objective(lambda p: p.square().sum(1), 1)
        row = torch.tensor([0])
        return float(follow(start, step, square, row, method=method, batch_size=1)[0])

    assert (run("riemann_left"), run("riemann_trapezoid")) == (4, 8)
    with pytest.raises(ValueError, match=r"method must be .* got 'gausslegendre'"):
        run("gausslegendre")


def test_objectives() -> None:
    """The gradient of log p is that of the logit minus its mean under p; of p, p times that."""
    logits = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    rows = torch.tensor([0])
    p = logits.softmax(1)
    one = torch.tensor([[0.0, 1.0, 0.0]])
    expected = {"logit": one, "log-probability": one - p, "probability": p[0, 1] * (one - p)}
    for name, gradient in expected.items():
        found = Objective(lambda x: x, 1, None, name, 1).gradients((logits,), rows, 1)[0]
        assert torch.allclose(found, gradient.double())
    squared = Objective(lambda x: x, 1, None, torch.square, 1).gradients((logits,), rows, 1)[0]
    assert torch.equal(squared, -2 * one.double())


@pytest.mark.parametrize("name", ["log-probability", "probability"])
def test_probabilities_need_classes(name: str) -> None:
    explainer = IntegratedGradients(lambda x: x.sum(1), objective=name)
    with pytest.raises(ValueError, match="outputs of several classes"):
        explainer.attribute(torch.ones(2, 3))


@pytest.mark.parametrize("step", [0, 2, 3])
def test_names_the_step_of_a_gradient_that_is_not_finite(step: int) -> None:
    """The root has no finite gradient at 0, which the midpoint rule visits at one step only."""
    at = (step + 0.5) / 4
    explainer = IntegratedGradients(lambda x: (x - at).abs().sqrt().sum(1))
    with pytest.raises(ValueError, match=f"NaN or infinity at step {step}"):
        explainer.attribute(torch.ones(2, 1).double(), n_steps=4, method="riemann_middle")


@pytest.mark.parametrize("n_steps", [4, 64])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("size", [1, 3, 8, None])
def test_rows_per_call_are_bounded(n_steps: int, batch: int, size: int | None) -> None:
    rows: list[int] = []

    def model(x: Tensor) -> Tensor:
        rows.append(len(x))
        return x.square().sum(1)

    explainer = IntegratedGradients(model)
    explainer.attribute(torch.ones(batch, 2), n_steps=n_steps, internal_batch_size=size)
    assert max(rows) <= (size or 32)
    assert sum(rows) == batch * n_steps


def test_path_is_asked_for_few_points_at_once() -> None:
    """What a path is asked for bounds memory, as it holds all images at each position."""
    asked: list[int] = []

    class Counting(StraightLine):
        def at(self, alphas: Tensor) -> tuple[Tensor, ...]:
            asked.append(len(alphas))
            return super().at(alphas)

    images = torch.ones(4, 2)
    path = Counting((torch.zeros_like(images),), (images,))
    square = objective(lambda p: p.square().sum(1), 4)
    integrate(path, square, torch.arange(4), n_steps=100, method="riemann_left", batch_size=8)
    assert max(asked) == 3  # Two nodes for four images, and three edges.


def test_half_precision_sums_wide() -> None:
    images = torch.ones(1, 3, dtype=torch.bfloat16)
    found = IntegratedGradients(lambda x: 3 * x.sum(1)).attribute(images, n_steps=300)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), torch.full((1, 3), 3.0), rtol=0.02)


@pytest.mark.parametrize("cls", [IntegratedGradients, GuidedIG, BlurIG])
def test_half_precision_multiplies_wide(cls: Any) -> None:
    """A gradient times a step lies below what half precision can tell from 0."""
    images = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)).half()
    found = cls(lambda x: (x * 1e-4).flatten(1).sum(1)).attribute(images, n_steps=200)
    start = cls(lambda x: x).start(images) if cls is BlurIG else torch.zeros_like(images)
    change = (images.float() - start.float()).flatten()
    assert found.dtype == torch.float16
    assert (found.float().flatten() - 1e-4 * change).abs().max() < 1e-6


@pytest.mark.parametrize("cls", [IntegratedGradients, GuidedIG])
def test_examples_of_one_number(cls: Any) -> None:
    values = torch.tensor([1.0, -2.0, 3.0])
    found, gap = cls(lambda x: 2 * x).attribute(values, n_steps=5, return_convergence_delta=True)
    torch.testing.assert_close(found, 2 * values)
    torch.testing.assert_close(gap, torch.zeros(3))


def test_gauss_and_legendre_agree_with_numpy() -> None:
    nodes, parts = weights("gausslegendre", 5)
    at, expected = np.polynomial.legendre.leggauss(5)
    assert np.allclose(nodes.numpy(), (at + 1) / 2, atol=1e-15)
    assert np.allclose(parts.numpy(), expected / 2, atol=1e-15)
    assert math.isclose(float(parts.sum()), 1, abs_tol=1e-15)


def test_the_step_without_a_finite_gradient_is_counted_one_by_one() -> None:
    """Several steps are taken in one batch."""
    from usu_captum.paths import IntegratedGradients

    def broken(x: torch.Tensor) -> torch.Tensor:
        total = x.sum((1, 2, 3))
        return total * torch.where(total > 0.76, torch.nan, 1.0)

    method = IntegratedGradients(broken)
    with pytest.raises(ValueError, match="got NaN or infinity at step 15"):
        method.attribute(
            torch.full((1, 1, 1, 1), 1.0), n_steps=20, method="riemann_right",
            internal_batch_size=6,
        )  # fmt: skip


@pytest.mark.parametrize("objective", ["probability", "log-probability"])
def test_probabilities_of_half_precision_are_in_single(objective: str) -> None:
    from usu_captum.paths._objective import Objective

    half = Objective(lambda x: x.flatten(1).bfloat16(), 1, None, objective, 1)
    points = torch.tensor([[[0.5, 3.0, 1.0]]])
    found = half((points,), torch.tensor([0]))
    wanted = points.flatten(1).log_softmax(1)[:, 1]
    torch.testing.assert_close(found, wanted.exp() if objective == "probability" else wanted)


@pytest.mark.parametrize("name", ["IntegratedGradients", "GuidedIG"])
def test_many_steps_in_half_precision_add_up(name: str) -> None:
    from usu_captum import paths

    images = torch.ones(1, 1, 2, 2, dtype=torch.bfloat16)
    found = getattr(paths, name)(lambda x: 0.3 * x.sum((1, 2, 3))).attribute(images, n_steps=2000)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, 0.3 * images, atol=0, rtol=0.02)
