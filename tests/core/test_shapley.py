"""Shapley regression against exact enumeration and Captum."""

from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from usu_core import ShapleyRegression
from usu_core.scoring import model_score


def game(images: Tensor) -> Tensor:
    """A nonlinear game of five players: products, a threshold, a dummy."""
    a, b, c, d, _ = images[:, 0].unbind(1)
    return a * b + torch.relu(c + d - 1.5) * 2 + a * c * d + 0.5 * d


def exact(values: Tensor) -> Tensor:
    """Average marginal contributions over all orders of arrival."""
    total = torch.zeros(5, dtype=torch.float64)
    orders = list(permutations(range(5)))
    cache = {}
    for code in range(32):
        present = torch.tensor([bool(code >> i & 1) for i in range(5)])
        cache[code] = float(game((values * present).view(1, 1, 5)))
    for order in orders:
        code = 0
        for player in order:
            total[player] += cache[code | 1 << player] - cache[code]
            code |= 1 << player
    return total / len(orders)


IMAGE = torch.tensor([[[1.0, 2.0, 1.2, 0.8, 3.0]]])
LABELS = torch.arange(5).view(1, 5)
EVERYONE = torch.ones(1, 5, dtype=torch.bool)


def estimate(**options: Any) -> Tensor:
    scorer = ShapleyRegression(fill="zero", **options)
    return scorer(IMAGE, model_score(game))(LABELS, EVERYONE)[0].double()


def test_approaches_the_exact_values() -> None:
    truth = exact(IMAGE.flatten())
    assert float(truth[4]) == 0.0
    torch.testing.assert_close(estimate(samples=20_000, chunk_size=5_000), truth, atol=0.02, rtol=0)


def test_agrees_with_captum() -> None:
    from captum.attr import ShapleyValues

    wanted = ShapleyValues(game).attribute(IMAGE, baselines=0, perturbations_per_eval=1)
    torch.testing.assert_close(exact(IMAGE.flatten()), wanted[0, 0].double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("samples", [2, 16, 17, 256])
def test_values_sum_to_the_gap_between_all_and_none(samples: int) -> None:
    scorer = ShapleyRegression(fill="zero", samples=samples)
    shifted = model_score(lambda x: game(x) + 100 * x[:, 0].sum(1))  # Keeps all values positive.
    values = scorer(IMAGE, shifted)(LABELS, EVERYONE)
    gap = shifted.evaluate(IMAGE, torch.zeros(1), "") - shifted.evaluate(
        0 * IMAGE, torch.zeros(1), ""
    )
    torch.testing.assert_close(values.sum(1), gap, rtol=1e-5, atol=0)


def test_additive_models_are_exact_and_inactive_segments_stay(linear: Any, rand: Any) -> None:
    images, weights = rand(2, 1, 6), rand(2, 1, 6)
    labels = torch.tensor([[0, 0, 1, 2, 3, 3], [0, 1, 1, 1, 2, 2]])
    active = torch.tensor([[True, False, True, True], [True, True, True, False]])
    model = linear(weights)
    values = ShapleyRegression(samples=32, fill="zero")(images, model)(labels, active)
    effect = torch.zeros(2, 4).scatter_add(1, labels, (images * weights)[:, 0])
    torch.testing.assert_close(values, effect * active, atol=1e-4, rtol=0)
    assert sum(model.asked) == 2 * (32 + 2)


def test_a_lone_segment_gets_the_whole_gap(linear: Any, rand: Any) -> None:
    images, model = rand(1, 1, 4), linear(torch.ones(1, 1, 4))
    values = ShapleyRegression(fill="zero")(images, model)(
        torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 1).bool()
    )
    torch.testing.assert_close(values, images.sum().view(1, 1))
    assert sum(model.asked) == 2


def test_one_seed_gives_one_answer_and_chunks_do_not_matter() -> None:
    assert torch.equal(estimate(samples=64), estimate(samples=64))
    torch.testing.assert_close(estimate(samples=64), estimate(samples=64, chunk_size=7))
    assert not torch.equal(estimate(samples=64), estimate(samples=64, seed=1))


def test_inactive_segments_stay_in_the_image_and_negative_values_are_clipped() -> None:
    scorer = ShapleyRegression(samples=64, fill="zero")
    image, labels = torch.tensor([[[2.0, 3.0, 4.0]]]), torch.tensor([[0, 1, 2]])
    active = torch.tensor([[True, True, False]])
    product = model_score(lambda x: x[:, 0, 0] * x[:, 0, 2] - x[:, 0, 1])
    values = scorer(image, product)(labels, active)  # without the third the first is worth nothing
    torch.testing.assert_close(values, torch.tensor([[8.0, 0.0, 0.0]]), atol=1e-3, rtol=0)
