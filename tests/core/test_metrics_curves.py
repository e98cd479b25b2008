"""Deletion and insertion on a model that adds pixels, by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from usu_core.metrics import (
    REFERENCES,
    box_effects,
    deletion,
    diffid,
    insertion,
    irof,
    monotonicity,
    monotonicity_correlation,
    mu_fidelity,
    pixel_flipping,
    quantus_infidelity,
    random_boxes,
    reference_images,
    road,
    sensitivity_n,
)
from usu_core.scoring import fill_images

IMAGES = torch.tensor([[[4.0, 3.0, 2.0, 1.0]], [[1.0, 1.0, 5.0, 3.0]]])


def total(images: Tensor) -> Tensor:
    return images.flatten(1).sum(1)


def test_both_curves_by_hand() -> None:
    maps = IMAGES[:, 0]
    gone = deletion(total, IMAGES, maps, reference="black", steps=4)
    assert gone.scores.tolist() == [[10, 6, 3, 1, 0], [10, 5, 2, 1, 0]]
    assert gone.auc.tolist() == [15 / 4, 13 / 4]
    back = insertion(total, IMAGES, maps, reference="black", steps=4)
    assert back.scores.tolist() == [[0, 4, 7, 9, 10], [0, 5, 8, 9, 10]]
    assert back.auc.tolist() == [25 / 4, 27 / 4]


@pytest.mark.parametrize("curve", [deletion, insertion])
@pytest.mark.parametrize("steps", [1, 3, 5, 16])
@pytest.mark.parametrize("chunk_size", [1, 7, 64])
def test_curves_equal_a_loop(rand: Any, curve: Any, steps: int, chunk_size: int) -> None:
    images, maps = rand(2, 3, 4, 5), rand(2, 4, 5)
    found = curve(total, images, maps, reference="mean", steps=steps, chunk_size=chunk_size)
    fill = fill_images(images, "mean")
    start, end = (images, fill) if curve is deletion else (fill, images)
    for i in range(2):
        order = maps[i].flatten().argsort(descending=True)
        scores = []
        for k in range(steps + 1):
            mixed = start[i].flatten(1).clone()
            count = int(np.ceil(k * 20 / steps))
            mixed[:, order[:count]] = end[i].flatten(1)[:, order[:count]]
            scores.append(float(mixed.sum()))
        np.testing.assert_allclose(found.scores[i].numpy(), scores, rtol=1e-5)
        assert float(found.auc[i]) == pytest.approx(np.trapezoid(scores, dx=1 / steps), rel=1e-5)


def test_ties_are_broken_by_the_map_given_and_else_by_place() -> None:
    flat = torch.zeros(2, 4)
    assert deletion(total, IMAGES, flat, reference="black", steps=4).scores[0].tolist() == [
        10, 6, 3, 1, 0
    ]  # fmt: skip
    ties = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 1.0]])
    broken = deletion(total, IMAGES, flat, reference="black", steps=4, ties=ties)
    assert broken.scores.tolist() == [[10, 9, 7, 4, 0], [10, 7, 6, 5, 0]]
    # The map itself comes first, whatever the ties say.
    first = torch.tensor([[0.0, 1.0, 0.0, 0.0]]).expand(2, 4)
    broken = deletion(total, IMAGES, first, reference="black", steps=4, ties=ties)
    assert broken.scores[0].tolist() == [10, 7, 6, 4, 0]


def test_only_the_ranking_counts(rand: Any) -> None:
    images, maps = rand(2, 1, 4, 4), rand(2, 4, 4)
    one = deletion(total, images, maps)
    two = deletion(total, images, 5 * maps**3 - 1)
    assert torch.equal(one.scores, two.scores)


def test_the_model_is_asked_as_often_as_promised(rand: Any, linear: Any) -> None:
    model = linear(rand(3, 1, 4, 4))
    curve = deletion(model, rand(3, 1, 4, 4), rand(3, 4, 4), steps=5, chunk_size=4, output="logit")
    assert sum(model.asked) == 3 * 6
    assert max(model.asked) == 4
    assert set(model.outputs) == {"logit"}
    assert torch.cat(model.examples).tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert not curve.scores.requires_grad


def test_references(rand: Any) -> None:
    images = rand(2, 3, 8, 8)
    assert REFERENCES == ("black", "mean", "blur")
    black = torch.tensor([-2.1, -2.0, -1.8]).view(3, 1, 1)
    assert torch.equal(reference_images(images, "black", black), black.expand_as(images))
    assert bool((reference_images(images, "black", 0.5) == 0.5).all())
    for name in ("mean", "blur"):
        assert torch.equal(reference_images(images, name, 0.0), fill_images(images, name))
    assert torch.equal(reference_images(images, images[:1], 0.0)[1], images[0])
    with pytest.raises(ValueError, match="reference must be one of black, mean, blur, got 'zero'"):
        reference_images(images, "zero", 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attribution": torch.zeros(2, 3)}, r"attribution must have shape \(2, 4\), got \(2, 3\)"),
        ({"ties": torch.zeros(4)}, r"ties must have shape \(2, 4\), got \(4,\)"),
        ({"attribution": torch.full((2, 4), torch.nan)}, "attribution must be finite"),
        ({"ties": torch.full((2, 4), torch.inf)}, "ties must be finite, got 8"),
        ({"reference": torch.nan}, "reference must be finite, got 1"),
        ({"black": torch.full((1, 1), torch.inf)}, "black must be finite, got 1"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    arguments = {"attribution": torch.zeros(2, 4), "reference": "black"} | options
    for curve in (deletion, insertion):
        with pytest.raises(ValueError, match=message):
            curve(total, IMAGES, **arguments)


PLANES, MAPS = torch.ones(2, 1, 4, 4), torch.ones(2, 4, 4)
LABELS = (torch.arange(16).view(4, 4) // 4).expand(2, 4, 4)

METRICS: dict[str, Any] = {
    "deletion": lambda score, maps: deletion(score, PLANES, maps),
    "insertion": lambda score, maps: insertion(score, PLANES, maps),
    "pixel_flipping": lambda score, maps: pixel_flipping(score, PLANES, maps),
    "irof": lambda score, maps: irof(score, PLANES, maps, LABELS),
    "road": lambda score, maps: road(score, PLANES, maps),
    "quantus_infidelity": lambda score, maps: quantus_infidelity(score, PLANES, maps),
    "monotonicity": lambda score, maps: monotonicity(score, PLANES, maps),
    "monotonicity_correlation": lambda score, maps: monotonicity_correlation(score, PLANES, maps),
    "sensitivity_n": lambda score, maps: sensitivity_n(score, PLANES, maps, [2]),
    "mu_fidelity": lambda score, maps: mu_fidelity(score, PLANES, maps, LABELS),
}


class Broken:
    """A score without a value for the second example."""

    def __init__(self, value: float) -> None:
        self.value = value

    def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
        return (total(images) + 1).where(example == 0, self.value)


def effects(score: Any, maps: Tensor) -> Tensor:
    return box_effects(score, PLANES, random_boxes(3, (4, 4)))


@pytest.mark.parametrize("call", [*METRICS.values(), effects], ids=[*METRICS, "box_effects"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_no_metric_judges_by_scores_that_are_not_finite(call: Any, value: float) -> None:
    message = r"score must return finite numbers, got NaN or inf.* example 1 \(1 of 2 examples\)"
    with pytest.raises(ValueError, match=message):
        call(Broken(value), MAPS)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("measure", ["accuracy", "retention"])
def test_no_class_is_right_among_outputs_that_are_not_finite(value: float, measure: str) -> None:
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="score must return finite numbers"):
        diffid(lambda x: x.flatten(1)[:, :2] * value, PLANES, MAPS, labels, measure=measure)
    # A class that is ruled out has a value, the lowest.
    masked = torch.tensor([1.0, -torch.inf])
    found = diffid(lambda x: x.flatten(1)[:, :2] * masked, PLANES, MAPS, labels, measure=measure)
    assert found.deletion.mean(1).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("call", METRICS.values(), ids=METRICS)
def test_maps_of_integers_are_refused(call: Any) -> None:
    """Negated, as for the least important first, they would wrap."""
    with pytest.raises(TypeError, match=r"attribution must be a floating-point .* Try .float\(\)"):
        call(total, MAPS.byte())


def test_images_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="images must be finite, got 8 NaN or infinite of 8"):
        deletion(total, IMAGES / 0, IMAGES[:, 0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("call", METRICS.values(), ids=METRICS)
def test_maps_follow_the_images_to_their_device(
    call: Any, rand: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of a plain image and its blur, rounding alone would say which step rises.
    maps, images = rand(2, 4, 4), rand(2, 1, 4, 4)
    monkeypatch.setitem(globals(), "PLANES", images)
    expected = call(total, maps)
    monkeypatch.setitem(globals(), "PLANES", images.cuda())
    found = call(total, maps)
    for name in ("scores", "auc"):
        expected, found = getattr(expected, name, expected), getattr(found, name, found)
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("curve", [deletion, insertion])
def test_sixteen_steps_and_a_blur_by_default(rand: Any, curve: Any) -> None:
    images, maps = rand(2, 1, 8, 8), rand(2, 8, 8)
    found = curve(total, images, maps)
    assert found.scores.shape == (2, 17)
    assert torch.equal(found.scores, curve(total, images, maps, reference="blur", steps=16).scores)


def test_no_graph_is_made(rand: Any) -> None:
    flags: list[bool] = []
    images = rand(1, 1, 4, 4).requires_grad_()

    def score(x: Tensor) -> Tensor:
        flags.append(x.requires_grad or torch.is_grad_enabled())
        return total(x)

    deletion(score, images, rand(1, 4, 4), steps=2)
    assert flags
    assert not any(flags)
