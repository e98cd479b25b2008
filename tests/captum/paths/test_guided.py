"""Guided integrated gradients: steps by hand, the straight-line limit, and the authors' code."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from usu_captum.paths import GuidedIG, IntegratedGradients
from usu_captum.paths._guided import GuidedPath


def walk(path: GuidedPath, gradients: list[list[float]]) -> list[list[float]]:
    points = []
    for number, gradient in enumerate(gradients):
        reached = path(number, (), (torch.tensor([gradient]).double(),))
        assert reached is not None
        points.append(reached[0][0].tolist())
    assert path(len(gradients), (), ()) is None
    return points


def row(*values: float) -> tuple[Tensor]:
    return (torch.tensor([values]).double(),)


def test_least_gradients_move_first() -> None:
    """Four features at distance 1, two steps: the two of least gradient arrive at the first."""
    path = GuidedPath(row(0, 0, 0, 0), row(1, -1, 1, 1), 2, 0.5, 1.0)
    points = walk(path, [[9, 0.1, -8, -0.2], [1, 1, 1, 1]])
    assert points == [[0, -1, 0, 1], [1, -1, 1, 1]]


def test_last_selection_moves_part_of_the_way() -> None:
    """Ways of 1, 2 and 5, four steps of 2: the first gets 1 there and the next half of 2."""
    path = GuidedPath(row(0, 0, 0), row(1, 2, 5), 4, 0.1, 1.0)
    points = walk(path, [[1, 2, 3], [1, 2, 3], [3, 2, 1], [1, 1, 1]])
    assert points[0] == [1, 1, 0]
    assert points[1] == [1, 2, 1]
    assert points[2] == pytest.approx([1, 2, 3])
    assert points[3] == [1, 2, 5]


def test_ties_move_together() -> None:
    path = GuidedPath(row(0, 0, 0, 0), row(1, 1, 1, 1), 4, 0.1, 1.0)
    points = walk(path, [[2, 0, 0, 2], [5, 5, 5, 5], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert points[0] == [0, 0.5, 0.5, 0]
    assert points[1] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1 / 3])


def test_stays_near_the_straight_line() -> None:
    steps, distance = 20, 0.06
    path = GuidedPath(row(*[0.0] * 50), row(*range(1, 51)), steps, 0.2, distance)
    generator = torch.Generator().manual_seed(0)
    straight = torch.arange(1, 51).double()
    for number in range(steps):
        gradient = torch.randn(1, 50, generator=generator).double()
        (reached,) = path(number, (), (gradient,)) or ()
        progress = reached[0] / straight
        at = (number + 1) / steps
        assert (progress - at).abs().max() <= distance + 1e-12
        assert float(reached.sum()) == pytest.approx(at * float(straight.sum()))
    assert torch.equal(reached[0], straight)


@pytest.mark.parametrize(("fraction", "distance"), [(1.0, 1.0), (0.25, 0.0), (1.0, 0.02)])
def test_straight_line_limits(
    smooth: Any, images: Tensor, fraction: float, distance: float
) -> None:
    """All features at once, or none off the line: the trapezoid of plain integrated gradients."""
    smooth, images = smooth.double(), images.double()
    guided = GuidedIG(smooth).attribute(
        images, target=1, n_steps=10, fraction=fraction, max_distance=distance
    )
    straight = IntegratedGradients(smooth).attribute(
        images, target=1, n_steps=11, method="riemann_trapezoid"
    )
    assert torch.allclose(guided, straight, rtol=1e-9, atol=1e-12)


def test_is_not_the_straight_line(smooth: Any, images: Tensor) -> None:
    guided = GuidedIG(smooth).attribute(images, target=1, n_steps=20)
    straight = GuidedIG(smooth).attribute(images, target=1, n_steps=20, max_distance=0.0)
    assert (guided - straight).abs().max() > 1e-3 * straight.abs().max()


@pytest.mark.parametrize(
    ("n_steps", "fraction", "distance"),
    [(200, 0.25, 0.02), (50, 0.25, 0.02), (20, 0.1, 1.0), (30, 0.5, 0.0), (25, 0.03, 0.2)],
)
def test_equals_pair(
    smooth: Any, images: Tensor, pair: Any, pair_call: Any,
    n_steps: int, fraction: float, distance: float,
) -> None:  # fmt: skip
    """To 1e-9 relative to the largest value, in float64, with pixels at the baseline and ties."""
    smooth, images = smooth.double(), images.double()
    images[0, :, :3] = 0
    images[1] = images[1].round(decimals=1)
    baseline = torch.zeros_like(images)
    baseline[2] = 0.3
    ours = GuidedIG(smooth).attribute(
        images, baseline, 1, n_steps=n_steps, fraction=fraction, max_distance=distance,
        method="riemann_left",
    )  # fmt: skip
    for image, start, found in zip(images, baseline, ours, strict=True):
        theirs = pair.GuidedIG().GetMask(
            image.permute(1, 2, 0).numpy(), pair_call(smooth, 1), None,
            start.permute(1, 2, 0).numpy(), n_steps, fraction, distance,
        )  # fmt: skip
        difference = np.abs(found.permute(1, 2, 0).numpy() - theirs).max()
        assert difference < 1e-9 * np.abs(theirs).max()


def test_gap_closes_with_steps(smooth: Any, images: Tensor) -> None:
    def gap(n_steps: int) -> float:
        return float(
            GuidedIG(smooth.double())
            .attribute(images.double(), target=1, n_steps=n_steps, return_convergence_delta=True)[1]
            .abs()
            .max()
        )

    assert gap(200) < gap(20) / 8


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=9),
    fraction=st.floats(0.01, 1),
    distance=st.floats(0, 1),
    n_steps=st.integers(1, 8),
)
def test_dummy_and_linear_models(
    values: list[float], fraction: float, distance: float, n_steps: int
) -> None:
    """On any path, a linear model's attribution is slope times change; an ignored feature's 0."""
    x = torch.tensor([values]).double()
    slope = torch.linspace(-1, 2, x.shape[1]).double()
    slope[0] = 0
    found = GuidedIG(lambda p: p @ slope).attribute(
        x, n_steps=n_steps, fraction=fraction, max_distance=distance
    )
    assert torch.allclose(found, slope * x, atol=1e-12)
    assert found[0, 0] == 0


def test_inputs_share_one_distance() -> None:
    """Two inputs behave as one that holds both."""

    def model(left: Tensor, right: Tensor) -> Tensor:
        return (left.square().sum(1) + 1) * right.flatten(1).cos().sum(1)

    left, right = torch.rand(3, 4).double(), torch.rand(3, 2, 3).double()
    together = torch.cat((left, right.flatten(1)), 1)
    apart = GuidedIG(model).attribute((left, right), n_steps=12)
    whole = GuidedIG(lambda x: model(x[:, :4], x[:, 4:])).attribute(together, n_steps=12)
    assert torch.allclose(torch.cat((apart[0], apart[1].flatten(1)), 1), whole, atol=1e-14)


def test_input_at_its_baseline_has_no_attribution(smooth: Any, images: Tensor) -> None:
    found = GuidedIG(smooth).attribute(images, images, target=0, n_steps=4)
    assert torch.equal(found, torch.zeros_like(images))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"fraction": 0}, ValueError, "fraction must be above 0"),
        ({"fraction": 1.5}, ValueError, r"fraction must lie in \[0, 1\], got 1.5"),
        ({"fraction": "all"}, TypeError, "fraction must be a number, got str"),
        ({"max_distance": -0.1}, ValueError, r"max_distance must lie in \[0, 1\]"),
        ({"max_distance": float("nan")}, ValueError, r"max_distance must lie in \[0, 1\]"),
        ({"method": "gausslegendre"}, ValueError, "method must be 'riemann_trapezoid' or"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        GuidedIG(lambda x: x.sum(1)).attribute(torch.ones(1, 2), **arguments)
