"""SAMP against its printed algorithm, against results by hand, and for what it promises."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import NoiseTunnel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from usu_captum.paths import SAMP, ManipulationPath, SAMPPlusPlus
from usu_core.metrics import Blur


def printed_path(
    f: Callable[[Tensor], Tensor],
    start: Tensor,
    end: Tensor,
    *,
    size: int,
    share: float | None,
    momentum: float,
    sign: int,
) -> tuple[Tensor, list[Tensor]]:
    """Algorithm 1 for one image (C, H, W) and one direction, literally; the map and the points."""
    x, total, g = start.clone(), torch.zeros_like(start), None
    points = [x]
    bound = None if share is None else share * (end - start).abs().sum()
    while not bool((x == end).all()):
        leaf = x[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(f(leaf).sum(), leaf)
        g = gradient[0] if g is None else momentum * g + (1 - momentum) * gradient[0]
        projection = (g * (end - x)).sum(0).flatten() * sign
        open_pixels = (x != end).any(0).flatten().nonzero().flatten().tolist()
        chosen = sorted(open_pixels, key=lambda i: -float(projection[i]))[:size]
        dx = torch.zeros_like(x)
        dx.flatten(1)[:, chosen] = (end - x).flatten(1)[:, chosen]
        x = x.clone()
        if bound is not None and float(dx.abs().sum()) > float(bound):
            dx = dx * (bound / dx.abs().sum())
            x = x + dx
        else:
            x.flatten(1)[:, chosen] = end.flatten(1)[:, chosen]
        total = total + g * dx
        points.append(x)
    return total * sign, points


def tanh_net(gain: float = 4.0, pixels: int = 64) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(32, pixels, generator=generator, dtype=torch.float64) * gain / pixels**0.5
    second = torch.randn(32, generator=generator, dtype=torch.float64)
    return lambda x: torch.tanh(x.flatten(1).to(first) @ first.T) @ second


@pytest.fixture
def double_net(net: Any) -> nn.Module:
    """Smooth, for dead units make ties, which the paper leaves open."""
    net.relu, net.relu2 = nn.Tanh(), nn.Tanh()
    smooth: nn.Module = net.double()
    return smooth


class Recorded:
    """A model that keeps every point it is asked for."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        self.f, self.points = f, list[Tensor]()

    def __call__(self, x: Tensor) -> Tensor:
        self.points.append(x.detach().clone())
        return self.f(x)


SETTINGS = [(None, 0.0), (None, 0.5), (0.1, 0.0), (0.1, 0.5), (0.03, 0.3)]


@pytest.mark.parametrize(("share", "momentum"), SETTINGS)
def test_the_printed_algorithm(double_net: nn.Module, share: float | None, momentum: float) -> None:
    images = torch.randn(3, 3, 16, 12, dtype=torch.float64)
    blurred = Blur(5.0, 5)(images)
    explainer = SAMP(
        double_net,
        pixels_per_step=15,
        step_bound=share,
        momentum=momentum,
        accumulate="momentum",
    )
    target = torch.tensor([1, 3, 0])
    found = explainer.attribute_directions(images, target=target)
    for i in range(3):
        ends = {"deletion": (images, 0 * images, -1), "insertion": (blurred, images, 1)}
        for name, (start, end, sign) in ends.items():
            expected, points = printed_path(
                lambda x, i=i: double_net(x)[:, target[i]],  # type: ignore[misc]
                start[i],
                end[i],
                size=15,
                share=share,
                momentum=momentum,
                sign=sign,
            )
            path: ManipulationPath = getattr(found, name)
            torch.testing.assert_close(path.attribution[i], expected, rtol=1e-9, atol=1e-11)
            assert int(path.steps[i]) == len(points) - 1
            with torch.no_grad():
                scores = double_net(torch.stack(points))[:, target[i]]
            torch.testing.assert_close(path.scores[: len(points), i], scores)
            assert bool((path.scores[len(points) :, i] == path.scores[len(points) - 1, i]).all())
    total = explainer.attribute(images, target=target)
    both = found.deletion.attribution + found.insertion.attribution  # type: ignore[union-attr]
    assert torch.equal(total, both)


def test_plain_samp_with_left_gradients_is_no_momentum(double_net: nn.Module) -> None:
    images = torch.randn(1, 3, 16, 12, dtype=torch.float64)
    (deletion, _) = SAMP(double_net, accumulate="momentum").attribute_directions(images, target=1)
    assert deletion is not None
    expected, _ = printed_path(
        lambda x: double_net(x)[:, 1],
        images[0],
        0 * images[0],
        size=10,
        share=None,
        momentum=0.0,
        sign=-1,
    )
    torch.testing.assert_close(deletion.attribution[0], expected)


def test_momentum_is_the_share_of_the_old_gradient() -> None:
    # f = a·b + 2b + 3c from 0 to (1, 1, 1), one pixel per step. c goes first (3), then b (2); the
    # gradients of a are 0, 0, 1. With momentum 0.75 the last selecting gradient of a is 0.25, of
    # which nothing goes into the default attribution: the trapezoid gives a = (1 + 1) / 2.
    def f(x: Tensor) -> Tensor:
        a, b, c = x[:, 0].unbind(-1)
        return a * b + 2 * b + 3 * c

    image = torch.ones(1, 1, 3)
    arguments: dict[str, Any] = {"insertion_baselines": 0.0, "directions": "insertion"}
    build = {"pixels_per_step": 1, "momentum": 0.75}
    true = SAMP(f, **build).attribute(image, **arguments)  # type: ignore[arg-type]
    torch.testing.assert_close(true, torch.tensor([[[1.0, 2.0, 3.0]]]))
    printed = SAMP(f, accumulate="momentum", **build)  # type: ignore[arg-type]
    smoothed = printed.attribute(image, **arguments)
    torch.testing.assert_close(smoothed, torch.tensor([[[0.25, 2.0, 3.0]]]))


def test_momentum_steers_the_selection() -> None:
    # Gradients on the way from 0: (4, 1, 0) at first; taking the first pixel raises the third's
    # to 2. The second follows with momentum 0.75 (1 against 0.5), the third without.
    def f(x: Tensor) -> Tensor:
        a, b, c = x[:, 0].unbind(-1)
        return 4 * a + b + 2 * a * c

    image = torch.ones(1, 1, 3)
    for momentum, expected in ((0.75, [0, 4, 5, 7]), (0.0, [0, 4, 6, 7])):
        found = SAMP(f, pixels_per_step=1, momentum=momentum).attribute_directions(
            image, insertion_baselines=0.0, directions="insertion"
        )
        assert found.insertion is not None
        assert found.insertion.scores.flatten().tolist() == expected


def test_a_quadratic_by_hand() -> None:
    # f = (a + b)^2 at (2, 1). Deletion takes a first, 9 to 1, then b, 1 to 0; insertion from 0
    # sees no gradient, takes a (the tie's first), 0 to 4, then b, 4 to 9. The trapezoid is exact.
    f = lambda x: x.sum((1, 2)) ** 2  # noqa: E731
    image = torch.tensor([[[2.0, 1.0]]])
    found = SAMP(f, pixels_per_step=1).attribute_directions(image, insertion_baselines=0.0)
    assert found.deletion is not None
    assert found.insertion is not None
    assert found.deletion.attribution.tolist() == [[[8.0, 1.0]]]
    assert found.deletion.scores.flatten().tolist() == [9.0, 1.0, 0.0]
    assert sorted(found.insertion.attribution.flatten().tolist()) == [4.0, 5.0]
    assert found.deletion.gap.item() == found.insertion.gap.item() == 0


def test_all_channels_of_a_pixel_move_together() -> None:
    # Pixel 0 projects to 3 - 2 = 1, pixel 1 to 0 + 2 = 2, so pixel 1 moves first.
    weights = torch.tensor([[[3.0, 0.0], [-2.0, 2.0]]])
    model = Recorded(lambda x: (x * weights).sum((1, 2)))
    SAMP(model, pixels_per_step=1).attribute(
        torch.ones(1, 2, 2), insertion_baselines=0.0, directions="insertion"
    )
    assert [p[0].tolist() for p in model.points] == [
        [[0, 0], [0, 0]],
        [[0, 1], [0, 1]],
        [[1, 1], [1, 1]],
    ]


def test_every_pixel_arrives_once_and_exactly() -> None:
    image = torch.randn(1, 2, 9, 7)
    image[0, 0, 4] = 0.3  # one channel of these pixels is there already, the other is not
    model = Recorded(tanh_net(pixels=126))
    SAMP(model, pixels_per_step=10).attribute(
        image, baselines=0.3, insertion_baselines=-0.7, directions="both"
    )
    for row, (start, end) in enumerate(
        ((image, torch.full_like(image, 0.3)), (torch.full_like(image, -0.7), image))
    ):
        points = [p[row] for p in model.points]
        assert torch.equal(points[0], start[0])
        assert torch.equal(points[-1], end[0])
        moves = torch.stack([(b != a).any(0) for a, b in itertools.pairwise(points)])
        assert moves.sum(0).eq(1).all()
        assert moves.flatten(1).sum(1).tolist() == [10] * 6 + [3]


def test_the_step_bound_is_respected_and_used() -> None:
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    model = Recorded(tanh_net(pixels=192))
    SAMPPlusPlus(model, step_bound=0.05, pixels_per_step=8).attribute(image, directions="deletion")
    points = torch.cat(model.points)
    lengths = points.diff(dim=0).abs().flatten(1).sum(1) / image.abs().sum()
    assert bool((lengths <= 0.05 * (1 + 1e-12)).all())
    assert int((lengths > 0.05 * (1 - 1e-9)).sum()) >= 12
    assert torch.equal(points[-1], torch.zeros(3, 8, 8, dtype=torch.float64))


def test_completeness_needs_small_steps_and_true_gradients() -> None:
    # The left rule of the printed form overshoots; momentum does not mend it. The trapezoid at
    # the same points and the same cost is right.
    f, image = tanh_net(), torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    image = image.double()

    def ratio(bound: float | None, **options: Any) -> float:
        found = SAMP(f, pixels_per_step=6, step_bound=bound, **options).attribute_directions(
            image, directions="insertion", insertion_baselines=0.0
        )
        assert found.insertion is not None
        scores = found.insertion.scores[:, 0]
        return float(found.insertion.attribution.sum() / (scores[-1] - scores[0]))

    printed = [ratio(b, accumulate="momentum") for b in (None, 0.1, 0.02, 0.005)]
    smoothed = [ratio(b, accumulate="momentum", momentum=0.5) for b in (None, 0.1, 0.02, 0.005)]
    true = [ratio(b, momentum=m) for m in (0.0, 0.5) for b in (0.02, 0.005)]
    for ratios in (printed, smoothed):
        assert min(ratios[:2]) > 3
        assert ratios[0] > ratios[2] > ratios[3] > 1.15
    assert all(abs(r - 1) < 0.01 for r in true)


def test_the_gap_is_that_of_both_directions(double_net: nn.Module) -> None:
    images = torch.randn(2, 3, 16, 12, dtype=torch.float64)
    for directions in ("both", "deletion", "insertion"):
        explainer = SAMPPlusPlus(double_net)
        attribution, delta = explainer.attribute(
            images, baselines=0.5, target=2, directions=directions, return_convergence_delta=True
        )
        with torch.no_grad():
            at = {
                name: double_net(x)[:, 2]
                for name, x in (("x", images), ("0", 0 * images + 0.5), ("b", Blur(5.0, 5)(images)))
            }
        wanted = {"deletion": at["x"] - at["0"], "insertion": at["x"] - at["b"]}
        wanted["both"] = wanted["deletion"] + wanted["insertion"]
        expected = attribution.flatten(1).sum(1) - wanted[directions]
        torch.testing.assert_close(delta, expected)
        computed = explainer.compute_convergence_delta(
            attribution, 0.5, images, target=2, directions=directions
        )
        torch.testing.assert_close(computed, expected)


def test_different_path_lengths_in_one_batch(double_net: nn.Module) -> None:
    # Half of the second image is at the baseline already, the third arrives before it starts.
    images = torch.randn(3, 3, 16, 12, dtype=torch.float64)
    images[1, :, 8:] = 0
    images[2] = 0
    calls = Recorded(lambda x: double_net(x)[:, 1])
    for explainer in (SAMP(calls), SAMPPlusPlus(calls, pixels_per_step=40)):
        batch = explainer.attribute_directions(images)
        rows = sum(len(p) for p in calls.points)
        assert batch.deletion is not None
        assert len(set(batch.deletion.steps.tolist())) > 1
        assert rows == 6 + sum(int(p.steps.sum()) for p in batch if p is not None)
        for i in range(3):
            single = explainer.attribute_directions(images[i : i + 1])
            for many, one in zip(batch, single, strict=True):
                assert many is not None
                assert one is not None
                torch.testing.assert_close(many.attribution[i], one.attribution[0])
                assert int(many.steps[i]) == int(one.steps[0])
        calls.points.clear()
    assert bool((batch.deletion.attribution[2] == 0).all())


def test_internal_batch_size_bounds_calls_and_changes_nothing(double_net: nn.Module) -> None:
    images = torch.randn(3, 3, 16, 12, dtype=torch.float64)
    calls = Recorded(lambda x: double_net(x)[:, 1])
    whole = SAMPPlusPlus(calls).attribute(images)
    calls.points.clear()
    split = SAMPPlusPlus(calls).attribute(images, internal_batch_size=2)
    assert max(len(p) for p in calls.points) == 2
    torch.testing.assert_close(whole, split)


def test_combining_by_norm_is_the_sum_of_unit_maps(double_net: nn.Module) -> None:
    images = torch.randn(2, 3, 16, 12, dtype=torch.float64)
    explainer = SAMP(double_net)
    found = explainer.attribute_directions(images, target=1)
    expected = torch.zeros(2, 16, 12, dtype=torch.float64)
    for path in found:
        assert path is not None
        pixels = path.attribution.sum(1)
        low, high = pixels.amin((1, 2), keepdim=True), pixels.amax((1, 2), keepdim=True)
        expected += (pixels - low) / (high - low)
    ranking = explainer.attribute(images, target=1, combine="norm")
    torch.testing.assert_close(ranking.sum(1), expected)
    flat = SAMP(lambda x: 0 * x.sum((1, 2, 3))).attribute(images, combine="norm")
    assert bool((flat == 0).all())


def test_default_ends_are_zero_and_the_papers_blur() -> None:
    model = Recorded(lambda x: x.sum((1, 2, 3)))
    small, large = torch.randn(1, 1, 28, 28), torch.randn(1, 1, 64, 70)
    for image, blur in ((small, Blur(5.0, 5)), (large, Blur(5.0, 15))):
        model.points.clear()
        SAMP(model).attribute(image)
        torch.testing.assert_close(model.points[0][1:], blur(image))
        assert torch.equal(model.points[-1][0], torch.zeros_like(image)[0])


def test_defaults_of_the_two() -> None:
    plain, plus = SAMP(len).search, SAMPPlusPlus(len).search
    assert (plain.step_bound, plain.momentum) == (None, 0.0)
    assert (plus.step_bound, plus.momentum) == (0.1, 0.5)
    assert SAMPPlusPlus(len).accumulate == "gradient"


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 40),
    bound=st.one_of(st.none(), st.floats(0.02, 1.0)),
    momentum=st.floats(0.0, 0.9),
    printed=st.booleans(),
)
def test_linear_models_are_exact_and_dummies_get_nothing(
    seed: int, size: int, bound: float | None, momentum: float, printed: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights, images = (
        torch.randn(n, 2, 5, 6, generator=generator, dtype=torch.float64) for n in (1, 2)
    )
    weights[0, :, 1, 2:] = 0
    explainer = SAMP(
        lambda x: (x * weights).sum((1, 2, 3)),
        pixels_per_step=size,
        step_bound=bound,
        momentum=momentum,
        accumulate="momentum" if printed else "gradient",
    )
    attribution, delta = explainer.attribute(
        images, insertion_baselines=0.5, return_convergence_delta=True
    )
    # Each direction of a linear model gives weight times change, whatever the path.
    torch.testing.assert_close(attribution, weights * images + weights * (images - 0.5))
    assert float(delta.abs().max()) < 1e-10
    assert bool((attribution[:, :, 1, 2:] == 0).all())


@pytest.mark.parametrize("bound", [None, 1e-2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_it_ends_on_gradients_that_are_not_finite(bad: float, bound: float | None) -> None:
    weights = torch.ones(3, 3)
    weights[2, 1] = bad
    explainer = SAMP(lambda x: (x * weights).sum((1, 2, 3)), pixels_per_step=1, step_bound=bound)
    with pytest.raises(ValueError, match=r"finite gradients along the path, .* step 0"):
        explainer.attribute(torch.rand(1, 1, 3, 3) + 1, insertion_baselines=0.5)


@pytest.mark.parametrize("pixel", [0, 4, 8])
def test_it_ends_where_a_projection_overflows(pixel: int) -> None:
    weights = torch.ones(9)
    weights[pixel] = -3e38
    explainer = SAMP(lambda x: (x * weights).sum((1, 2)), pixels_per_step=1)
    path = explainer.attribute_directions(torch.full((1, 1, 9), 2.0), directions="deletion")
    assert path.deletion is not None
    assert int(path.deletion.steps[0]) == 9


def test_it_ends_where_rounding_swallows_the_steps() -> None:
    # A step of 1e-3 per pixel is lost on values of 1e5 in single precision.
    image = torch.full((1, 1, 4, 4), 1e5) + torch.arange(16.0).view(4, 4) / 64
    explainer = SAMP(lambda x: x.sum((1, 2, 3)), pixels_per_step=16, step_bound=1e-2)
    path = explainer.attribute_directions(image, baselines=1e5, directions="deletion").deletion
    assert path is not None
    assert int(path.steps[0]) == 102


def test_noise_tunnel_and_a_tuple_of_one(net: nn.Module) -> None:
    images = torch.rand(2, 3, 16, 12)
    tunnel = NoiseTunnel(SAMPPlusPlus(net))
    smooth = tunnel.attribute(images, nt_samples=2, stdevs=0.1, target=torch.tensor([1, 3]))
    assert smooth.shape == images.shape
    tunnel = NoiseTunnel(SAMP(net))
    arguments = {"nt_samples": 2, "target": 1}
    with pytest.raises(ValueError, match=r"insertion_baselines must have .* Try shape \(1, "):
        tunnel.attribute(images, **arguments, insertion_baselines=torch.zeros_like(images))
    for fits in (torch.zeros_like(images[:1]), "blur"):
        assert tunnel.attribute(images, **arguments, insertion_baselines=fits).shape == images.shape
    (alone,) = SAMP(net).attribute((images,), target=1)
    assert torch.equal(alone, SAMP(net).attribute(images, target=1))


@pytest.mark.parametrize(
    ("build", "call", "error", "message"),
    [
        ({"pixels_per_step": 0}, {}, ValueError, "pixels_per_step must be at least 1, got 0"),
        ({"pixels_per_step": 1.5}, {}, TypeError, "pixels_per_step must be an integer"),
        ({"step_bound": 0.0}, {}, ValueError, "step_bound must be a share"),
        ({"step_bound": 2}, {}, ValueError, "at most 1, got 2"),
        ({"step_bound": "no"}, {}, TypeError, "step_bound must be a number, got str"),
        ({"momentum": 1.0}, {}, ValueError, "momentum must be at least 0 and below 1, got 1.0"),
        ({"momentum": None}, {}, TypeError, "momentum must be a number, got NoneType"),
        ({"accumulate": "left"}, {}, ValueError, "accumulate must be one of gradient, momentum"),
        ({}, {"directions": "up"}, ValueError, "directions must be one of both, deletion"),
        ({}, {"combine": "max"}, ValueError, "combine must be one of sum, norm, got 'max'"),
        (
            {},
            {"combine": "norm", "return_convergence_delta": True},
            ValueError,
            "a ranking, which has no completeness gap",
        ),
        ({}, {"baselines": float("nan")}, ValueError, "baselines must be finite"),
        (
            {},
            {"insertion_baselines": float("nan")},
            ValueError,
            "insertion_baselines must be finite",
        ),
        (
            {},
            {"insertion_baselines": torch.zeros(4, 1, 4, 4)},  # As in a noise tunnel.
            ValueError,
            r"insertion_baselines must have the shape .* Try shape \(1, 1, 4, 4\) or a name",
        ),
        ({}, {"insertion_baselines": "white"}, ValueError, "insertion_baselines must be one of"),
        ({}, {"insertion_baselines": [0]}, TypeError, "insertion_baselines must be a name"),
        ({}, {"insertion_baselines": "black"}, ValueError, "needs to know where the images live"),
        ({}, {"inputs": torch.zeros(2, 5)}, ValueError, "one tensor of images"),
        ({}, {"inputs": (torch.zeros(2, 1, 5),) * 2}, ValueError, "one tensor of images"),
    ],
)
def test_clear_errors(
    build: dict[str, Any], call: dict[str, Any], error: type[Exception], message: str
) -> None:
    def run() -> None:
        explainer = SAMP(lambda *x: x[0].flatten(1).sum(1), **build)
        explainer.attribute(**({"inputs": torch.rand(2, 1, 4, 4)} | call))

    with pytest.raises(error, match=message):
        run()


def test_the_papers_blur_goes_by_the_shorter_side() -> None:
    from usu_captum.paths._directions import paper_blur

    images = torch.rand(1, 1, 20, 80)
    assert torch.equal(paper_blur(images), Blur(5.0, 5)(images))
    large = torch.rand(1, 1, 64, 80)
    assert torch.equal(paper_blur(large), Blur(5.0, 15)(large))
