"""Upsampled: around any Captum attribution, and inside noise tunnels."""

from typing import Any

import pytest
import torch
from captum import attr as captum_attr
from captum.attr import NoiseTunnel
from torch.utils.data import DataLoader, TensorDataset

from usu_captum import LayerGradCam, Upsampled
from usu_captum._methods import WITH_UPSAMPLER


@pytest.mark.parametrize("name", WITH_UPSAMPLER)
def test_it_equals_the_class(name: str, case: Any, guided: Any, seed: Any) -> None:
    it = case(name)
    target = {"target": 1} if name == "LayerActivation" else {}
    seed()
    ours = it.ours.attribute(it.images, **it.arguments, **target, upsampler=guided)
    seed()
    wrapped = Upsampled(it.captum, guided).attribute(it.images, **it.arguments, **target)
    assert torch.equal(ours, wrapped)


@pytest.mark.parametrize("name", ["LayerGradCam", "LayerConductance", "LayerActivation"])
def test_around_a_noise_tunnel_it_scores_once(name: str, case: Any, guided: Any, seed: Any) -> None:
    it = case(name)
    seed()
    coarse = NoiseTunnel(it.captum).attribute(it.images, nt_samples=3, **it.arguments)
    target = {"target": 1} if name == "LayerActivation" else {}
    seed()
    fine = Upsampled(NoiseTunnel(it.captum), guided).attribute(
        it.images, nt_samples=3, **it.arguments, **target
    )
    cells = torch.nn.functional.avg_pool2d(fine, 2)
    torch.testing.assert_close(cells, coarse.sum(1, keepdim=True), atol=1e-5, rtol=1e-4)


def test_inside_a_noise_tunnel_it_scores_every_sample(case: Any, guided: Any, seed: Any) -> None:
    it = case("LayerGradCam")
    outside = Upsampled(NoiseTunnel(it.captum), guided)
    inside = NoiseTunnel(Upsampled(it.captum, guided))
    class_inside = NoiseTunnel(it.ours)
    results = []
    for method, options in ((outside, {}), (inside, {}), (class_inside, {"upsampler": guided})):
        seed()
        results.append(method.attribute(it.images, nt_samples=3, **it.arguments, **options))
        assert results[-1].shape == (2, 1, 16, 12)
    assert torch.equal(results[1], results[2])
    assert not torch.allclose(results[0], results[1])
    cells = [torch.nn.functional.avg_pool2d(fine, 2) for fine in results[:2]]
    torch.testing.assert_close(*cells, atol=1e-6, rtol=1e-4)  # The same mass, spread otherwise.


@pytest.mark.parametrize("inside", [False, True])
def test_deltas_pass_through_noise_tunnels(inside: bool, case: Any, guided: Any, seed: Any) -> None:
    it = case("LayerIntegratedGradients")
    arguments = dict(it.arguments, nt_samples=2, return_convergence_delta=True, stdevs=0.1)
    seed()
    coarse, delta = NoiseTunnel(it.captum).attribute(it.images, **arguments)
    method: Any = Upsampled(it.captum, guided)
    method = NoiseTunnel(method) if inside else Upsampled(NoiseTunnel(it.captum), guided)
    assert method.has_convergence_delta()
    seed()
    fine, its_delta = method.attribute(it.images, **arguments)
    assert torch.equal(delta, its_delta)
    sums = [part.flatten(1).sum(1) for part in (fine, coarse)]
    torch.testing.assert_close(*sums, atol=1e-5, rtol=1e-4)


def test_it_answers_for_the_wrapped_method(case: Any) -> None:
    gradients = Upsampled(case("LayerIntegratedGradients").captum)
    assert gradients.has_convergence_delta()
    assert gradients.multiplies_by_inputs
    assert gradients.is_gradient_method
    assert not Upsampled(case("LayerGradCam").captum).has_convergence_delta()
    assert not Upsampled(NoiseTunnel(case("FeatureAblation").captum)).is_gradient_method
    assert Upsampled.get_name() == "Upsampled"
    with pytest.raises(NotImplementedError, match="attribute_future"):
        gradients.attribute_future()


def test_what_is_fine_already_comes_back(net: Any) -> None:
    images = torch.rand(2, 3, 16, 12)
    for cls in (captum_attr.Saliency, captum_attr.IntegratedGradients):
        plain = cls(net).attribute(images, target=1)
        assert torch.equal(Upsampled(cls(net), "usu").attribute(images, target=1), plain)


def test_it_refuses_what_it_cannot_wrap(net: Any) -> None:
    with pytest.raises(TypeError, match="attribution_method must be a Captum attribution, got Net"):
        Upsampled(net)
    with pytest.raises(ValueError, match="upsampler must be one of"):
        Upsampled(captum_attr.Saliency(net), "uso")
    tunnel = NoiseTunnel(captum_attr.GuidedGradCam(net, net.relu2))
    with pytest.raises(ValueError, match=r"Try NoiseTunnel\(Upsampled\(GuidedGradCam"):
        Upsampled(tunnel).attribute(torch.rand(1, 3, 16, 12), target=1)
    turned = NoiseTunnel(Upsampled(captum_attr.GuidedGradCam(net, net.relu2), "nearest"))
    assert turned.attribute(torch.rand(1, 3, 16, 12), target=1, nt_samples=2).shape[2:] == (16, 12)


def test_a_data_set_takes_upsamplers_that_see_no_image(net: Any, mask: Any) -> None:
    data = DataLoader(TensorDataset(torch.rand(6, 3, 16, 12)), batch_size=2)
    method = captum_attr.DataLoaderAttribution(captum_attr.FeatureAblation(lambda x: net(x)[:, 1]))
    arguments = {"feature_mask": mask(4, 4, 16, 12), "reduce": add_up}
    (coarse,) = method.attribute(data, **arguments)
    (fine,) = Upsampled(method, "bilinear-conserving").attribute(data, **arguments)
    assert fine.shape == (1, 1, 16, 12)
    patches = torch.nn.functional.avg_pool2d(fine, (4, 3)) * 12
    torch.testing.assert_close(patches, coarse[:, :1, ::4, ::3], atol=1e-6, rtol=1e-4)
    with pytest.raises(ValueError, match="image must be given"):
        Upsampled(method, "usu").attribute(data, **arguments)


def add_up(total: Any, output: Any, inputs: Any) -> Any:
    return output.sum(0, keepdim=True) + (0 if total is None else total)


def test_lists_of_layers_are_scored_once(net: Any, guided: Any, monkeypatch: Any) -> None:
    images = torch.rand(2, 3, 16, 12)
    calls = []
    score_map = type(guided).score_map
    monkeypatch.setattr(
        type(guided), "score_map", lambda *args: calls.append(1) or score_map(*args)
    )
    method = WITH_UPSAMPLER["LayerGradientXActivation"](net, [net.relu, net.relu2])
    maps = method.attribute(images, target=1, upsampler=guided)
    assert isinstance(maps, list)
    assert [tuple(fine.shape) for fine in maps] == [(2, 1, 16, 12)] * 2
    assert len(calls) == 1
    for layer, fine in zip((net.relu, net.relu2), maps, strict=True):
        alone = WITH_UPSAMPLER["LayerGradientXActivation"](net, layer)
        expected = alone.attribute(images, target=1, upsampler=guided)
        torch.testing.assert_close(fine, expected)
    activations = WITH_UPSAMPLER["LayerActivation"](net, [net.relu, net.relu2])
    assert len(activations.attribute(images, target=1, upsampler="nearest")) == 2


def test_a_list_that_captum_cannot_take_is_named(net: Any) -> None:
    method = LayerGradCam(net, [net.relu, net.relu2])
    with pytest.raises(ValueError, match="layer must be one layer for LayerGradCam, got a list of"):
        method.attribute(torch.rand(1, 3, 16, 12), target=1, upsampler="usu")


def test_outputs_beside_a_map_are_left_alone() -> None:
    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x[:, :, ::2, ::2] * 1, x.mean((2, 3))

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = Two()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            cells, means = self.two(x)
            return cells.sum((2, 3)) * means

    model = Model()
    method = WITH_UPSAMPLER["LayerGradientXActivation"](model, model.two)
    coarse = method.attribute(torch.ones(1, 3, 8, 8), target=1)
    fine = method.attribute(torch.ones(1, 3, 8, 8), target=1, upsampler="nearest")
    assert fine[0].shape == (1, 1, 8, 8)
    assert torch.equal(fine[1], coarse[1])


def test_attributing_to_a_layers_input_takes_its_grid(net: Any, guided: Any) -> None:
    images = torch.rand(1, 3, 16, 12)
    coarse = captum_attr.LayerGradCam(net, net.pool).attribute(
        images, target=1, attribute_to_layer_input=True
    )
    assert coarse.shape[2:] == (8, 6)
    fine = LayerGradCam(net, net.pool).attribute(
        images, target=1, attribute_to_layer_input=True, upsampler=guided
    )
    cells = torch.nn.functional.avg_pool2d(fine, 2)
    torch.testing.assert_close(cells, coarse, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["LayerGradCam", "LayerActivation", "FeatureAblation"])
def test_no_upsampler_is_captums_result(name: str, case: Any) -> None:
    it = case(name)
    plain = it.captum.attribute(it.images, **it.arguments)
    target = {"target": 1} if name == "LayerActivation" else {}
    assert torch.equal(
        Upsampled(it.captum, None).attribute(it.images, **it.arguments, **target), plain
    )
