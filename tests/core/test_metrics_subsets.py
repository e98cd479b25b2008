"""Sensitivity-n, µFidelity and monotonicity: exact maps of linear models, and loops."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from usu_core.metrics import monotonicity, monotonicity_correlation, mu_fidelity, sensitivity_n


def exact(images: Tensor, weights: Tensor, fill: float) -> Tensor:
    return ((images - fill) * weights).sum(1)


def quarters(batch: int, size: int) -> Tensor:
    row = torch.arange(size) * 2 // size
    return (row[:, None] * 2 + row).expand(batch, size, size)


def square(images: Tensor) -> Tensor:
    return images.flatten(1).square().cumsum(1).mean(1)


@given(st.integers(0, 99), st.floats(0.1, 50.0))
def test_exact_maps_of_linear_models_score_one(seed: int, scale: float) -> None:
    generator = torch.manual_seed(seed)
    images, weights = torch.randn(2, 2, 3, 6, 6, generator=generator).double()
    maps = exact(images, weights, 0.5)
    segments = quarters(2, 6)

    class Score:
        def evaluate(self, x: Tensor, example: Tensor, output: str) -> Tensor:
            return (x * weights[example]).flatten(1).sum(1)

    for metric, extra in ((sensitivity_n, [1, 5, 20]), (mu_fidelity, segments)):
        found = metric(Score(), images, scale * maps, extra, samples=12, reference=0.5)
        np.testing.assert_allclose(found.numpy(), 1.0, atol=1e-9)
        opposite = metric(Score(), images, -maps, extra, samples=12, reference=0.5)
        np.testing.assert_allclose(opposite.numpy(), -1.0, atol=1e-9)


def test_sensitivity_n_equals_a_loop(rand: Any) -> None:
    images, maps = rand(2, 3, 4, 5), rand(2, 4, 5)
    found = sensitivity_n(square, images, maps, [2, 9], samples=15, reference=0.0, seed=3)
    draw = torch.rand(15, 20, generator=torch.Generator().manual_seed(3))
    for i in range(2):
        for j, n in enumerate([2, 9]):
            sums, drops = [], []
            for row in draw:
                hidden = row.argsort()[:n]
                mixed = images[i].flatten(1).clone()
                mixed[:, hidden] = 0.0
                sums.append(float(maps[i].flatten()[hidden].sum()))
                drops.append(float(square(images[i][None]) - square(mixed[None])))
            assert float(found[i, j]) == pytest.approx(pearsonr(sums, drops)[0], abs=1e-4)


def test_mu_fidelity_equals_a_loop(rand: Any) -> None:
    images, maps = rand(2, 3, 4, 4), rand(2, 4, 4)
    # The second image has fewer labels, with a gap.
    segments = torch.arange(16).view(4, 4).repeat(2, 1, 1)
    segments[1] = segments[1] // 4 * 2
    found = mu_fidelity(square, images, maps, segments, share=0.5, samples=20, reference=0.0)
    draw = torch.rand(16, 20, generator=torch.Generator().manual_seed(0)).T
    for i, (labels, size) in enumerate([(list(range(16)), 8), ([0, 2, 4, 6], 2)]):
        sums, drops = [], []
        for row in draw:
            hidden = sorted(labels, key=lambda label: float(row[label]))[:size]
            inside = torch.isin(segments[i], torch.tensor(hidden))
            sums.append(float(maps[i][inside].sum()))
            mixed = images[i].masked_fill(inside, 0.0)
            drops.append(float(square(images[i][None]) - square(mixed[None])))
        assert float(found[i]) == pytest.approx(pearsonr(sums, drops)[0], abs=1e-4)


def test_results_depend_on_the_seed_alone(rand: Any) -> None:
    images, maps, segments = rand(3, 2, 6, 6), rand(3, 6, 6), quarters(3, 6) * 2
    segments[0] = segments[0] // 4  # an image with fewer labels than the others
    state = torch.get_rng_state()
    for metric, extra in (
        (sensitivity_n, ([3, 7],)),
        (mu_fidelity, (segments,)),
        (monotonicity_correlation, ()),
    ):
        options: dict[str, Any] = {"samples": 6}
        found = metric(square, images, maps, *extra, **options)
        assert torch.equal(found, metric(square, images, maps, *extra, chunk_size=5, **options))
        assert not torch.equal(found, metric(square, images, maps, *extra, seed=1, **options))
        for i in range(3):
            one = [e[i : i + 1] if isinstance(e, Tensor) else e for e in extra]
            alone = metric(square, images[i : i + 1], maps[i : i + 1], *one, **options)
            torch.testing.assert_close(alone[0], found[i], atol=1e-4, rtol=1e-4)
    assert torch.equal(torch.get_rng_state(), state)


def test_constant_maps_and_scores_give_zero(rand: Any) -> None:
    images, maps = rand(1, 1, 6, 6), rand(1, 6, 6)
    flat, segments = torch.full((1, 6, 6), 0.1).double() / 3, torch.arange(36).view(1, 6, 6)
    for score, attribution in ((square, flat), (lambda x: x.new_ones(len(x)), maps)):
        zero = sensitivity_n(score, images, attribution, [4, 17, 36], samples=50)
        assert zero.tolist() == [[0.0, 0.0, 0.0]]
        assert float(monotonicity_correlation(score, images, attribution, samples=2)) == 0.0
        assert float(mu_fidelity(score, images, attribution, segments, samples=50)) == 0.0


def test_evaluations_are_those_promised(rand: Any, linear: Any) -> None:
    images, maps, model = rand(2, 1, 4, 4), rand(2, 4, 4), linear(rand(2, 1, 4, 4))
    for wanted, call in (
        (2 * (1 + 3 * 7), lambda: sensitivity_n(model, images, maps, [1, 2, 3], samples=7)),
        (2 * 8, lambda: mu_fidelity(model, images, maps, quarters(2, 4), samples=7)),
        (2 * 6, lambda: monotonicity(model, images, maps, steps=5)),
        (
            2 * (1 + 4 * 3),
            lambda: monotonicity_correlation(model, images, maps, groups=4, samples=3),
        ),
    ):
        model.asked.clear()
        call()
        assert sum(model.asked) == wanted


def test_monotonicity_by_hand() -> None:
    images = torch.tensor([[[4.0, 3.0, 2.0, 1.0]], [[4.0, -3.0, 2.0, -1.0]]])
    total = lambda x: x.flatten(1).sum(1)  # noqa: E731
    found = monotonicity(total, images, images[:, 0], reference=0.0, steps=4)
    assert found.tolist() == [1.0, 0.5]
    assert monotonicity(total, images, -images[:, 0], reference=0.0, steps=1).tolist() == [1.0, 1.0]
    # Least important first, the sum goes 0, 1, 4 and the score 1, 0, 9; most important first,
    # 0, 3, 4 and 1, 4, 9.
    image = torch.tensor([[[1.0, 3.0]]])
    bowl = lambda x: (total(x) - 1).square()  # noqa: E731
    assert float(monotonicity(bowl, image, image[:, 0], reference=0.0, steps=2)) == 0.5
    assert float(monotonicity(bowl, image, -image[:, 0], reference=0.0, steps=2)) == 1.0
    constant = lambda x: x.new_ones(len(x))  # noqa: E731
    assert float(monotonicity(constant, image, image[:, 0])) == 1.0


@pytest.mark.parametrize("groups", [4, 12])
def test_monotonicity_correlation_equals_a_loop(rand: Any, groups: int) -> None:
    images, maps = rand(2, 2, 3, 4) * 3 - 1, rand(2, 3, 4) - 0.5
    found = monotonicity_correlation(square, images, maps, groups=groups, samples=5, seed=2)
    draw = torch.rand(5, 2, 3, 4, generator=torch.Generator().manual_seed(2))
    for i in range(2):
        low = images[i].amin((1, 2))[:, None, None]
        noise = low + (images[i].amax((1, 2))[:, None, None] - low) * draw
        order = maps[i].abs().flatten().argsort()
        sizes, changes = [], []
        for group in order.split(12 // groups):
            change = 0.0
            for row in noise:
                mixed = images[i].flatten(1).clone()
                mixed[:, group] = row.flatten(1)[:, group]
                change += float(square(mixed[None]) - square(images[i][None])) ** 2 / 5
            sizes.append(float(maps[i].abs().flatten()[group].mean()))
            changes.append(change)
        assert float(found[i]) == pytest.approx(spearmanr(sizes, changes)[0])


IMAGE = torch.zeros(1, 1, 2, 2)
MAP = torch.zeros(1, 2, 2)
LABELS = torch.zeros(1, 2, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sensitivity_n(square, IMAGE, MAP, []), ValueError, r"between 1 and 4.*got \[\]"),
        (lambda: sensitivity_n(square, IMAGE, MAP, [5]), ValueError, r"sizes must lie.*got \[5\]"),
        (lambda: sensitivity_n(square, IMAGE, MAP, [0]), ValueError, "at least 1, got 0"),
        (lambda: sensitivity_n(square, IMAGE, MAP, [1], samples=1), ValueError, "at least 2"),
        (lambda: sensitivity_n(square, IMAGE, MAP / 0, [1]), ValueError, "must be finite, got 4"),
        (lambda: mu_fidelity(square, IMAGE, MAP, MAP), TypeError, "segments must be an integer"),
        (lambda: mu_fidelity(square, IMAGE, MAP, LABELS[0]), ValueError, r"segments must have sh"),
        (lambda: mu_fidelity(square, IMAGE, MAP, LABELS - 1), ValueError, "negative, got -1"),
        (lambda: mu_fidelity(square, IMAGE, MAP, LABELS, share=1.0), ValueError, "share must lie"),
        (lambda: monotonicity(square, IMAGE, MAP, steps=0), ValueError, "steps must be at least 1"),
        (lambda: monotonicity_correlation(square, IMAGE, MAP), ValueError, "at most 4, the pixels"),
        (lambda: monotonicity(square, IMAGE[0, 0], MAP), ValueError, "images must have shape"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_steps_without_a_pixel_are_no_steps(rand: Any) -> None:
    """Every pixel lowers this score, so that no step may count as a rise."""
    images = rand(1, 1, 6, 6) + 1
    for steps in (36, 50, 100):
        found = monotonicity(
            lambda x: -x.sum((1, 2, 3)), images, images[:, 0], reference=0.0, steps=steps
        )
        assert float(found) == 0.0


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7])
def test_a_flat_map_correlates_with_nothing(rand: Any, value: float) -> None:
    images = rand(1, 1, 7, 7).double()
    flat = torch.full((1, 7, 7), value, dtype=torch.float64)
    found = monotonicity_correlation(lambda x: x.square().sum((1, 2, 3)), images, flat)
    assert float(found) == 0.0


def test_rounding_is_no_effect(rand: Any) -> None:
    images, maps = rand(2, 1, 6, 6), rand(2, 6, 6)
    eps = torch.finfo(torch.float32).eps
    steady = lambda x: 3 + 8 * eps * (x.sum((1, 2, 3)) * 1e4).sin()  # noqa: E731
    assert len(steady(rand(50, 1, 6, 6)).unique()) > 2
    assert sensitivity_n(steady, images, maps, [3, 9]).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert mu_fidelity(steady, images, maps, quarters(2, 6)).tolist() == [0.0, 0.0]
    assert monotonicity_correlation(steady, images, maps).tolist() == [0.0, 0.0]


def test_a_share_below_one_segment_hides_one(rand: Any) -> None:
    images, maps = rand(1, 1, 6, 6).double(), rand(1, 6, 6).double()
    options: dict[str, Any] = {"samples": 30, "reference": 0.0}
    few, one = (
        mu_fidelity(square, images, maps, quarters(1, 6), share=share, **options)
        for share in (0.01, 0.25)
    )
    assert float(few) == float(one) != 0.0
