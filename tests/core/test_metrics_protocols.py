"""Named protocols of deletion and insertion, against loops written from their descriptions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import correlate1d
from torch import Tensor

from usu_core.metrics import (
    AHA,
    RISE,
    SAMP,
    Blur,
    CurveProtocol,
    deletion,
    insertion,
    reference_images,
)

IMAGES = torch.tensor([[[4.0, 3.0, 2.0, 1.0]], [[1.0, 1.0, 5.0, 3.0]]])


def total(images: Tensor) -> Tensor:
    return images.flatten(1).sum(1)


def loop(start: Tensor, end: Tensor, attribution: Tensor, step: int, score: Any) -> list[float]:
    """One image: step pixels at a time, highest first, scored after every step."""
    current, scores = start.clone(), [float(score(start[None]))]
    order = np.argsort(-attribution.flatten().numpy(), kind="stable")
    for first in range(0, len(order), step):
        for place in order[first : first + step]:
            y, x = divmod(int(place), attribution.shape[1])
            current[:, y, x] = end[:, y, x]
        scores.append(float(score(current[None])))
    return scores


def test_named_protocols_say_what_their_papers_say() -> None:
    assert RISE.output == "probability"
    assert len(RISE.counts(224 * 224)) == 225
    assert SAMP.output == "normalised-logit"
    assert len(SAMP.counts(224 * 224)) == 29
    assert AHA.output == "probability"
    assert len(AHA.counts(224 * 224)) == 21
    assert AHA.deletion == AHA.insertion == ("black", 0.0, Blur(37.0, 18))


def test_rise_equals_a_loop(rand: Any) -> None:
    images, maps, weights = rand(2, 3, 8, 9) - 0.5, rand(2, 8, 9), rand(1, 3, 8, 9)
    rise = replace(RISE, pixels_per_step=10)

    def score(x: Tensor) -> Tensor:
        return (x * weights).flatten(1).sum(1).sigmoid()

    gone = deletion(score, images, maps, protocol=rise)
    back = insertion(score, images, maps, protocol=rise)
    blurred = Blur(5.0, 5)(images)
    for i in range(2):
        for found, start, end in (
            (gone, images[i], torch.zeros_like(images[i])),
            (back, blurred[i], images[i]),
        ):
            wanted = loop(start, end, maps[i], 10, score)
            np.testing.assert_allclose(found.scores[i].numpy(), wanted, rtol=1e-5)
            area = (sum(wanted) - wanted[0] / 2 - wanted[-1] / 2) / (len(wanted) - 1)
            assert float(found.auc[i]) == pytest.approx(area, rel=1e-5)


def test_samp_by_hand() -> None:
    samp = replace(SAMP, pixels_per_step=3)
    gone = deletion(total, IMAGES, IMAGES[:, 0], protocol=samp)
    torch.testing.assert_close(gone.scores, torch.tensor([[1.0, 0.1, 0.0], [1.0, 0.1, 0.0]]))
    torch.testing.assert_close(gone.auc, torch.tensor([1.1 / 3, 1.1 / 3]))
    start = Blur(5.0, 15)(IMAGES)
    back = insertion(total, IMAGES, IMAGES[:, 0], protocol=samp)
    torch.testing.assert_close(back.scores[:, 0], total(start) / 10)
    torch.testing.assert_close(back.scores[:, -1], torch.ones(2))
    torch.testing.assert_close(back.auc, back.scores.mean(1))


def test_samp_asks_for_logits(rand: Any, linear: Any) -> None:
    model = linear(rand(2, 1, 4, 4))
    deletion(model, rand(2, 1, 4, 4), rand(2, 4, 4), protocol=replace(SAMP, pixels_per_step=4))
    assert set(model.outputs) == {"logit"}
    assert sum(model.asked) == 2 * 5


@pytest.mark.parametrize("curve", [deletion, insertion])
def test_a_whole_image_without_a_positive_score_is_refused(curve: Any) -> None:
    images = torch.stack([IMAGES[0], -IMAGES[0]])
    message = r"above 0 to divide by it, got -10 for example 1 \(1 of 2 examples\)"
    with pytest.raises(ValueError, match=message):
        curve(total, images, images[:, 0], reference=0.0, output="normalised-logit")
    with pytest.raises(ValueError, match="above 0 to divide by it, got 0 for example 0"):
        curve(total, 0 * images, images[:, 0], output="normalised-logit")


def test_aha_averages_over_its_references(rand: Any, linear: Any) -> None:
    images, maps = rand(2, 3, 6, 7), rand(2, 6, 7)
    model, black = linear(rand(2, 3, 6, 7)), torch.tensor([-2.1, -2.0, -1.8]).view(3, 1, 1)
    for curve in (deletion, insertion):
        model.asked.clear()
        found = curve(model, images, maps, protocol=AHA, black=black)
        assert sum(model.asked) == 3 * 2 * 21
        single = [
            curve(model, images, maps, reference=reference, steps=20)
            for reference in (black, 0.0, Blur(37.0, 18))
        ]
        torch.testing.assert_close(found.scores, sum(c.scores for c in single) / 3)
        torch.testing.assert_close(found.auc, sum(c.auc for c in single) / 3)


@given(st.integers(1, 40), st.integers(1, 50))
def test_counts_run_from_none_to_all(pixels: int, step: int) -> None:
    for protocol in (
        CurveProtocol((0.0,), (0.0,), pixels_per_step=step),
        CurveProtocol((0.0,), (0.0,), steps=step),
    ):
        counts = protocol.counts(pixels)
        assert counts[0] == 0
        assert counts[-1] == pixels
        assert counts == sorted(counts)
    assert len(counts) == step + 1
    assert max(np.diff(CurveProtocol((0.0,), (0.0,), pixels_per_step=step).counts(pixels))) <= step


@given(st.floats(0.1, 9.0), st.integers(1, 9), st.integers(1, 12), st.integers(1, 5))
def test_blur_equals_scipy(sigma: float, radius: int, height: int, width: int) -> None:
    images = torch.randn(1, 2, height, width, generator=torch.manual_seed(0)).double()
    wanted = images.numpy()
    for axis in (2, 3):
        reach = min(radius, wanted.shape[axis] - 1)
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        wanted = correlate1d(wanted, kernel / kernel.sum(), axis=axis, mode="mirror")
    np.testing.assert_allclose(Blur(sigma, radius)(images).numpy(), wanted, atol=1e-12)
    torch.testing.assert_close(
        Blur(sigma, radius)(torch.ones_like(images)), torch.ones_like(images)
    )


def test_numbers_and_blurs_are_references(rand: Any) -> None:
    images = rand(2, 3, 5, 6)
    assert bool((reference_images(images, -0.5, 0.0) == -0.5).all())
    assert torch.equal(reference_images(images, Blur(2.0, 3), 0.0), Blur(2.0, 3)(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of steps and pixels_per_step must be given, got steps=None"),
        ({"steps": 3, "pixels_per_step": 3}, "exactly one of steps and pixels_per_step"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"pixels_per_step": 0}, "pixels_per_step must be at least 1, got 0"),
        ({"steps": 3, "output": "logits"}, "output must be one of .*Did you mean 'logit'"),
        ({"steps": 3, "area": "median"}, "area must be one of trapezoid, mean, got 'median'"),
        ({"steps": 3, "insertion": ()}, "insertion must hold at least one reference, got none"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CurveProtocol(**({"deletion": (0.0,), "insertion": (0.0,)} | options))
    with pytest.raises(ValueError, match="sigma must be finite and above 0"):
        Blur(0.0, 3)


@pytest.mark.parametrize("black", [0.5, torch.tensor(0.5), torch.full((3, 1, 1), 0.5)])
def test_black_is_a_number_or_a_colour(black: Any) -> None:
    images = torch.zeros(2, 3, 4, 3)
    assert torch.equal(reference_images(images, "black", black), images + 0.5)
    per_image = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    assert torch.equal(reference_images(images, "black", per_image), per_image.expand_as(images))


@pytest.mark.parametrize("shape", [(3,), (3, 1), (4, 1, 1), (1, 2, 3, 4, 3)])
def test_black_that_would_lie_along_another_axis_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"black must be a number .* Try a tensor of shape \(C, 1"):
        reference_images(torch.zeros(2, 3, 4, 3), "black", torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3,), (3, 1), (4, 3), (4, 1, 1)])
def test_references_that_would_lie_along_another_axis_are_refused(shape: tuple[int, ...]) -> None:
    """Three colours are as many as this image has columns."""
    images, maps = torch.zeros(2, 3, 4, 3), torch.zeros(2, 4, 3)
    with pytest.raises(ValueError, match=r"reference must be .* Try a tensor of shape \(C, 1, 1\)"):
        deletion(total, images, maps, reference=torch.zeros(shape))
    colour = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    assert torch.equal(reference_images(images, colour, 0.0), colour.expand_as(images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_blurred_in_single(rand: Any, dtype: torch.dtype) -> None:
    images = rand(1, 1, 40, 40).to(dtype)
    assert torch.equal(Blur(5.0, 15)(images), Blur(5.0, 15)(images.float()).to(dtype))
