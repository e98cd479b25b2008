"""The attribution: targets, wrappers, refinement, and no trace."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from captum.attr import GradientAttribution, NoiseTunnel
from torch import Tensor

from usu_captum import Upsampled
from usu_captum.ranking import (
    GumbelSinkhorn,
    NetworkConfig,
    RankingExplainer,
    RankingNetwork,
    RankingObjective,
    build_network,
    refine,
)

OBJECTIVE = RankingObjective(GumbelSinkhorn(), n_percentiles=5, smoothing=0.0)
REFINEMENT: dict[str, Any] = {
    "references": ("black", "blur"), "grids": (4,), "objective": OBJECTIVE, "learning_rate": 0.2
}  # fmt: skip


@pytest.fixture(params=[False, True], ids=["features", "gradients"])
def network(
    classifier: Any, config: NetworkConfig, request: pytest.FixtureRequest
) -> RankingNetwork:
    torch.manual_seed(3)
    return build_network(replace(config, gradients=request.param), classifier).eval()


@pytest.fixture
def explainer(classifier: Any, network: RankingNetwork, space: Any) -> RankingExplainer:
    return RankingExplainer(classifier, network, space=space)


def test_one_pass_is_the_networks(
    explainer: RankingExplainer, network: RankingNetwork, images: Tensor
) -> None:
    maps = explainer.attribute(images, target=[0, 1, 2])
    assert maps.shape == (3, 1, 16, 16)
    assert not maps.requires_grad
    assert torch.equal(maps, network(images, torch.tensor([0, 1, 2])))


@pytest.mark.parametrize("target", [1, [1, 1, 1], torch.tensor(1), torch.tensor([1, 1, 1])])
def test_targets_as_in_captum(explainer: RankingExplainer, images: Tensor, target: Any) -> None:
    assert torch.equal(
        explainer.attribute(images, target=target), explainer.attribute(images, target=[1, 1, 1])
    )


def test_a_tuple_comes_back_as_a_tuple(explainer: RankingExplainer, images: Tensor) -> None:
    (maps,) = explainer.attribute((images,), target=1)
    assert torch.equal(maps, explainer.attribute(images, target=1))


def test_it_says_what_it_is(explainer: RankingExplainer) -> None:
    assert not isinstance(explainer, GradientAttribution)
    assert explainer.is_gradient_method == explainer.network.config.gradients
    assert not explainer.multiplies_by_inputs
    assert not explainer.has_convergence_delta()


def test_noise_tunnel(explainer: RankingExplainer, images: Tensor) -> None:
    tunnel = NoiseTunnel(explainer)
    quiet = tunnel.attribute(images, target=[0, 1, 2], nt_samples=2, stdevs=0.0)
    torch.testing.assert_close(quiet, explainer.attribute(images, target=[0, 1, 2]))
    assert tunnel.attribute(images, target=1, nt_samples=2).shape == (3, 1, 16, 16)


def test_upsampled_leaves_fine_maps_alone(explainer: RankingExplainer, images: Tensor) -> None:
    maps = explainer.attribute(images, target=1)
    assert torch.equal(Upsampled(explainer).attribute(images, target=1), maps)
    inside = Upsampled(NoiseTunnel(explainer))
    assert inside.attribute(images, target=1, nt_samples=2).shape == maps.shape
    assert Upsampled(explainer).is_gradient_method == explainer.is_gradient_method


def test_pixel_refinement_is_refine_from_the_pass(
    explainer: RankingExplainer, classifier: Any, images: Tensor, space: Any
) -> None:
    start = explainer.attribute(images, target=2)
    refined = explainer.attribute(images, target=2, refinement_steps=3, **REFINEMENT)
    expected = refine(classifier, images, start, target=2, n_steps=3, space=space, **REFINEMENT)
    assert torch.equal(refined, expected.maps)
    assert not torch.equal(refined, start)


def test_decoder_refinement_lowers_the_objective(
    explainer: RankingExplainer, classifier: Any, images: Tensor, space: Any
) -> None:
    options = {**REFINEMENT, "learning_rate": 1e-2}
    start = explainer.attribute(images, target=2)
    refined = explainer.attribute(images, target=2, refinement_steps=4, refine="decoder", **options)

    def losses(maps: Tensor) -> Tensor:
        return refine(classifier, images, maps, target=2, n_steps=0, space=space, **options).losses

    assert bool((losses(refined) <= losses(start) + 1e-6).all())
    assert bool((losses(refined) < losses(start)).any())


def test_decoder_refinement_explains_images_one_by_one(
    explainer: RankingExplainer, images: Tensor
) -> None:
    options = {**REFINEMENT, "learning_rate": 1e-2, "refinement_steps": 2, "refine": "decoder"}
    together = explainer.attribute(images, target=[0, 1, 2], **options)
    alone = explainer.attribute(images[1:2], target=[1], **options)
    torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize("how", ["pixels", "decoder"])
def test_no_trace(
    explainer: RankingExplainer,
    classifier: Any,
    network: RankingNetwork,
    images: Tensor,
    how: str,
    trace: Callable[..., Any],
    same_trace: Callable[..., None],
) -> None:
    classifier.train()
    network.train()
    kept = images.clone()
    before = [trace(part) for part in (classifier, network)]
    explainer.attribute(images, target=1, refinement_steps=2, refine=how, **REFINEMENT)
    explainer.attribute(images, target=1)
    with pytest.raises(ValueError, match="references"):
        explainer.attribute(images, target=1, refinement_steps=2, refine=how, references=())
    for part, was in zip((classifier, network), before, strict=True):
        same_trace(was, trace(part))
    assert torch.equal(images, kept)
    assert images.grad is None


@pytest.mark.parametrize("how", ["pixels", "decoder"])
def test_refinement_in_inference_mode(
    explainer: RankingExplainer, images: Tensor, how: str
) -> None:
    options = {**REFINEMENT, "refinement_steps": 2, "refine": how}
    expected = explainer.attribute(images, 1, **options)
    with torch.inference_mode():
        assert torch.equal(explainer.attribute(images, 1, **options), expected)
        assert torch.equal(explainer.attribute(images.clone(), 1, **options), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_images_of_another_dtype(
    explainer: RankingExplainer, images: Tensor, dtype: torch.dtype
) -> None:
    images = images.to(dtype)
    for steps in (0, 1):
        options = {**REFINEMENT, "refinement_steps": steps}
        expected = explainer.attribute(images.float(), 1, **options)
        assert torch.equal(explainer.attribute(images, 1, **options), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("gradients", [False, True])
def test_classifiers_of_another_dtype(
    classifier: Any, config: NetworkConfig, images: Tensor, space: Any, dtype: Any, gradients: bool
) -> None:
    settings = replace(config, gradients=gradients)
    torch.manual_seed(3)
    network = build_network(settings, copy.deepcopy(classifier)).eval()
    expected = RankingExplainer(classifier, network).attribute(images, 1)
    other = classifier.to(dtype)
    torch.manual_seed(3)
    network = build_network(settings, other).eval()
    explainer = RankingExplainer(other, network, space=space)
    found = explainer.attribute(images, 1)
    assert found.dtype == torch.float32
    rough = dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=0.2 if rough else 1e-3, rtol=0)
    refined = explainer.attribute(images, 1, refinement_steps=1, **REFINEMENT)
    assert bool(refined.isfinite().all())


def test_arguments_reach_the_classifier(explainer: RankingExplainer, images: Tensor) -> None:
    scale = torch.tensor([0.1, 1.0, 4.0])
    for how in ("pixels", "decoder"):
        options = {**REFINEMENT, "refinement_steps": 2, "refine": how}
        scaled = explainer.attribute(images, 1, scale, **options)
        assert not torch.equal(scaled, explainer.attribute(images, 1, **options))


def test_a_changed_classifier_can_be_explained(
    explainer: RankingExplainer, network: RankingNetwork, classifier: Any, images: Tensor
) -> None:
    other = copy.deepcopy(classifier)
    other.head.weight.data.neg_()
    changed = RankingExplainer(other, network, space=explainer.space)
    assert torch.equal(changed.attribute(images, 1), explainer.attribute(images, 1))
    refined = [
        e.attribute(images, 1, refinement_steps=3, **REFINEMENT) for e in (explainer, changed)
    ]
    assert not torch.equal(*refined)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "target must name the class"),
        ({"target": 4}, "target must lie in \\[0, 3\\]"),
        ({"target": -1}, "target must lie"),
        ({"target": [0, 1]}, "for each of 3 images"),
        ({"target": 1, "refinement_steps": -1}, "refinement_steps must be at least 0"),
        ({"target": 1, "refine": "pixel"}, "Did you mean 'pixels'"),
    ],
)
def test_bad_arguments(
    explainer: RankingExplainer, images: Tensor, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        explainer.attribute(images, **arguments)


def test_bad_inputs(explainer: RankingExplainer, images: Tensor, classifier: Any) -> None:
    with pytest.raises(ValueError, match="shape \\(B, 3, 16, 16\\)"):
        explainer.attribute(images[..., :8], target=1)
    with pytest.raises(ValueError, match="inputs must be finite, got 1 NaN"):
        explainer.attribute(images.where(images < images.max(), torch.nan), target=1)
    with pytest.raises(ValueError, match="got 2 inputs"):
        explainer.attribute((images, images), target=1)
    with pytest.raises(TypeError, match="floating-point"):
        explainer.attribute(images.byte(), target=1)
    with pytest.raises(TypeError, match="target"):
        explainer.attribute(images, target="cat")
    with pytest.raises(TypeError, match="RankingNetwork"):
        RankingExplainer(classifier, classifier)
