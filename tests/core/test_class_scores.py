"""Probabilities, logits and log-odds of a classifier's outputs; fills."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from usu_core.scoring import class_scores, fill_images, gaussian_blur, model_score
from usu_core.scoring._model import ClassScores, CountedScore


@given(st.integers(0, 99), st.floats(0.1, 30.0))
def test_logits_become_softmax_and_its_log_odds(seed: int, scale: float) -> None:
    logits = torch.randn(4, 5, generator=torch.manual_seed(seed)).double() * scale
    p = torch.softmax(logits, 1)
    torch.testing.assert_close(class_scores(logits), p)
    assert torch.equal(class_scores(logits, "logit"), logits)
    # log p - log(1 - p) with 1 - p as the sum of the others: z_c - logsumexp of the others.
    wanted = torch.stack(
        [
            logits[:, c] - torch.cat([logits[:, :c], logits[:, c + 1 :]], 1).logsumexp(1)
            for c in range(5)
        ],
        1,
    )
    torch.testing.assert_close(class_scores(logits, "log-odds"), wanted, rtol=1e-9, atol=1e-9)


def test_log_odds_of_saturated_rows_stay_finite_and_ordered() -> None:
    logits = torch.tensor([[100.0, 0.0, -3.0], [200.0, 0.0, -3.0]], requires_grad=True)
    odds = class_scores(logits, "log-odds")
    assert bool(odds.isfinite().all())
    assert float((odds[1, 0] - odds[0, 0]).detach()) == pytest.approx(100.0, rel=1e-5)
    (gradient,) = torch.autograd.grad(odds[:, 0].sum(), logits)
    assert bool(gradient.isfinite().all())
    torch.testing.assert_close(gradient[:, 0], torch.ones(2))


def test_rows_that_are_probabilities_are_recognised() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(class_scores(p), p, atol=1e-6, rtol=0)
    odds = class_scores(p, "log-odds")
    torch.testing.assert_close(odds[0], p[0].logit())
    assert bool(odds.isfinite().all())
    # The softmax of half precision adds up to one within that precision only.
    rounded = torch.randn(64, 10, generator=torch.manual_seed(0)).softmax(1).bfloat16()
    assert float((rounded.float().sum(1) - 1).abs().max()) > 1e-3
    torch.testing.assert_close(class_scores(rounded), rounded.float(), atol=1e-6, rtol=0)
    # So it does where a caller has widened it since, in whatever chunks it comes.
    for rows in rounded.float().split(5):
        torch.testing.assert_close(class_scores(rows), rows, atol=1e-6, rtol=0)
    not_quite = torch.tensor([[0.7, 0.2, 0.2], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(class_scores(not_quite), not_quite.softmax(1))


@pytest.mark.parametrize("output", ["probability", "logit", "log-odds"])
@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 3, 4)])
def test_outputs_without_competing_classes_are_unchanged(output: str, shape: Any) -> None:
    values = torch.randn(shape, generator=torch.manual_seed(0))
    assert torch.equal(class_scores(values, output), values)


def test_half_precision_is_widened_and_unknown_outputs_refused() -> None:
    assert class_scores(torch.zeros(1, 2).bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match=r"output must be one of .* Did you mean 'logit'"):
        class_scores(torch.zeros(1, 2), "logits")


def test_a_score_is_a_function_or_a_model_score() -> None:
    wrapped = model_score(lambda images: images.sum((1, 2)))
    assert model_score(wrapped) is wrapped
    assert wrapped.evaluate(torch.ones(2, 1, 3), torch.arange(2), "logit").tolist() == [3, 3]
    with pytest.raises(TypeError, match=r"score must be a function from images .* got int"):
        model_score(3)  # type: ignore[arg-type]


def test_a_module_is_called_whatever_methods_it_has() -> None:
    class Trained(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.sum((1, 2))

        def evaluate(self, loader: Any) -> float:
            raise AssertionError("this measures accuracy")

    score = model_score(Trained())
    assert score.evaluate(torch.ones(2, 1, 3), torch.arange(2), "logit").tolist() == [3, 3]


@pytest.mark.parametrize("size", [(40,), (40, 50), (24, 30, 26)])
def test_the_blur_equals_scipys_with_reflection(rand: Any, size: tuple[int, ...]) -> None:
    images = rand(1, 2, *size, dtype=torch.float64)
    blurred = gaussian_blur(images, 2.0)
    wanted = gaussian_filter(images[0, 1].numpy(), 2.0, mode="mirror", radius=6)
    np.testing.assert_allclose(blurred[0, 1].numpy(), wanted, atol=1e-12)


def test_the_blur_leaves_constants_tiny_axes_and_width_zero(rand: Any) -> None:
    for dtype, tolerance in ((torch.float32, 5e-7), (torch.float64, 1e-15)):
        ones = torch.ones(1, 1, 5, 9, dtype=dtype)
        torch.testing.assert_close(gaussian_blur(ones, 3.0), ones, rtol=tolerance, atol=0)
    assert gaussian_blur(torch.ones(1, 1, 1, 4), 3.0).isfinite().all()
    images = rand(1, 1, 6)
    assert torch.equal(gaussian_blur(images, 0.0), images)


def test_fills(rand: Any) -> None:
    images = rand(2, 3, 8, 40)
    assert bool((fill_images(images, "zero") == 0).all())
    mean = fill_images(images, "mean")
    assert mean.shape == images.shape
    torch.testing.assert_close(mean[1, 2, 0, 0], images[1, 2].mean())
    torch.testing.assert_close(fill_images(images, "blur"), gaussian_blur(images, 8 / 20))
    colour = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    assert torch.equal(fill_images(images, colour), colour.expand_as(images))
    with pytest.raises(ValueError, match=r"fill must broadcast to the images' shape \(2, 3, 8, 40"):
        fill_images(images, torch.zeros(4))
    with pytest.raises(ValueError, match=r"fill must be one of blur, mean, zero, got 'black'"):
        fill_images(images, "black")


def test_a_model_gives_probabilities_or_not_once_and_for_all() -> None:
    """Labels that do not compete may add up to one in one batch, and not in another."""
    labels = torch.tensor([[0.25, 0.75], [0.25, 0.25]])
    scores = ClassScores()
    torch.testing.assert_close(scores(labels), labels.softmax(1))
    torch.testing.assert_close(scores(labels[:1]), labels[:1].softmax(1))
    scores = ClassScores()
    torch.testing.assert_close(scores(labels[:1]), labels[:1])
    torch.testing.assert_close(scores(labels), labels)


def test_scores_come_to_the_images() -> None:
    """From a service, or from the last device of a model that is spread over several."""
    score = CountedScore(lambda images: torch.zeros(len(images)))
    images = torch.empty(2, 1, 3, device="meta")
    assert score.evaluate(images, torch.arange(2), "logit").device == images.device


@pytest.mark.parametrize("sigma", [0.5, 0.4, 1.1])
def test_the_blur_is_cut_at_three_deviations_rounded_up(sigma: float) -> None:
    image = torch.zeros(1, 1, 41)
    image[0, 0, 20] = 1.0
    reached = int((gaussian_blur(image, sigma) > 0).sum())
    assert reached == 2 * int(np.ceil(3 * sigma)) + 1


def test_logits_that_add_up_to_one_are_no_probabilities() -> None:
    logits = torch.tensor([[1.5, -0.5, 0.0], [0.6, 0.6, -0.2]])
    torch.testing.assert_close(class_scores(logits), logits.softmax(1))


def test_the_blur_is_made_where_the_images_are() -> None:
    for dtype in (torch.float16, torch.float32):
        images = torch.empty(1, 1, 5, 9, dtype=dtype, device="meta")
        blurred = gaussian_blur(images, 3.0)
        assert (blurred.device, blurred.dtype) == (images.device, dtype)
