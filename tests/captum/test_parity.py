"""Without an upsampler every class is Captum's, bit for bit."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum import attr as captum_attr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import usu_captum
from usu_captum import GuidedGradCam, Upsampled
from usu_captum._methods import WITH_UPSAMPLER

DELTAS = (
    "LayerConductance", "LayerIntegratedGradients", "LayerDeepLift", "LayerDeepLiftShap",
    "LayerGradientShap", "LayerLRP",
)  # fmt: skip


@pytest.mark.parametrize("name", WITH_UPSAMPLER)
@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_upsampler_is_captum(
    name: str, case: Any, same: Any, run_seeded: Any, data: st.DataObject
) -> None:
    torch.manual_seed(data.draw(st.integers(0, 1000), label="model"))
    it = case(name)
    arguments = dict(it.arguments)
    accepted = inspect.signature(it.captum.attribute).parameters
    if "target" in arguments:
        targets: list[Any] = [1, [0, 2], torch.tensor([3, 1]), torch.tensor([2])]
        arguments["target"] = data.draw(st.sampled_from(targets), label="target")
    for flag in ("attribute_to_layer_input", "relu_attributions", "return_convergence_delta"):
        if flag in accepted and data.draw(st.booleans(), label=flag):
            arguments[flag] = True
    if "attr_dim_summation" in accepted:
        arguments["attr_dim_summation"] = data.draw(st.booleans(), label="summation")
    if "additional_forward_args" in accepted and name != "LayerFeaturePermutation":
        args = data.draw(st.sampled_from([None, (torch.rand(2), 0.5)]), label="args")
        arguments["additional_forward_args"] = args
    images: Any = (it.images,) if data.draw(st.booleans(), label="tuple") else it.images
    theirs = run_seeded(lambda: it.captum.attribute(images, **arguments))
    ours = run_seeded(lambda: it.ours.attribute(images, **arguments, upsampler=None))
    assert same(theirs, ours)


@pytest.mark.parametrize("name", WITH_UPSAMPLER)
def test_signature_is_captums_and_the_keywords(name: str, case: Any) -> None:
    theirs = list(inspect.signature(getattr(captum_attr, name).attribute).parameters)
    ours = inspect.signature(WITH_UPSAMPLER[name].attribute).parameters
    assert [p for p in ours if p in theirs] == theirs
    added = {p for p in ours if p not in theirs} - {"target"}
    assert {"upsampler", "convention", "grid"} <= added
    assert all(ours[p].kind is inspect.Parameter.KEYWORD_ONLY for p in added)
    assert "upsampler:" in (WITH_UPSAMPLER[name].attribute.__doc__ or "")
    if "kwargs" in ours:  # Captum's own catch-all takes anything.
        return
    it = case(name)
    with pytest.raises(TypeError, match="unexpected keyword argument 'upsampeler'"):
        it.ours.attribute(it.images, **it.arguments, upsampeler="usu")


@pytest.mark.parametrize("name", WITH_UPSAMPLER)
def test_classes_are_captums_and_listed(name: str) -> None:
    cls = WITH_UPSAMPLER[name]
    assert cls is getattr(usu_captum, name)
    assert cls.__mro__[1] is getattr(captum_attr, name)
    assert cls.get_name() == getattr(captum_attr, name).get_name()
    # Noise tunnels and other Captum classes call the function inside the usage log.
    assert callable(cls.attribute.__wrapped__)


@pytest.mark.parametrize("name", WITH_UPSAMPLER)
def test_positional_arguments_are_captums(name: str, case: Any, same: Any, run_seeded: Any) -> None:
    it = case(name)
    accepted = list(inspect.signature(it.captum.attribute).parameters)
    if name == "LayerActivation":
        positional: tuple[Any, ...] = ()
    elif accepted[1] == "sliding_window_shapes":
        positional = ((3, 4, 4), (3, 4, 4), 0, 2)
    elif accepted[1] in ("baselines", "layer_baselines"):
        positional = (it.arguments.get("baselines"), 2)
    else:
        positional = (None if name == "LayerFeaturePermutation" else 2,)
    rest = {k: v for k, v in it.arguments.items() if k not in accepted[: len(positional) + 1]}
    theirs = run_seeded(lambda: it.captum.attribute(it.images, *positional, **rest))
    ours = run_seeded(lambda: it.ours.attribute(it.images, *positional, **rest))
    assert same(theirs, ours)


@pytest.mark.parametrize("name", WITH_UPSAMPLER)
def test_nearest_gives_the_size_of_the_input(name: str, case: Any) -> None:
    it = case(name)
    target = {"target": 1} if name == "LayerActivation" else {}
    fine = it.ours.attribute(it.images, **it.arguments, **target, upsampler="nearest")
    assert fine.shape == ((2, 3, 16, 12) if name == "GuidedGradCam" else (2, 1, 16, 12))


@pytest.mark.parametrize("name", [n for n in WITH_UPSAMPLER if n.startswith(("Layer", "Internal"))])
def test_guided_keeps_the_mass_of_every_cell(name: str, case: Any, guided: Any, seed: Any) -> None:
    it = case(name)
    seed(3)
    coarse = it.captum.attribute(it.images, **it.arguments)
    if "layer_mask" in it.arguments:  # Captum repeats a group's effect at its 4 x C members.
        coarse = coarse / (4 * coarse.shape[1])
    coarse = coarse.sum(1, keepdim=True)
    seed(3)
    target = {"target": 1} if name == "LayerActivation" else {}
    fine = it.ours.attribute(it.images, **it.arguments, **target, upsampler=guided)
    cells = torch.nn.functional.avg_pool2d(fine, 2)
    torch.testing.assert_close(cells, coarse, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(fine, coarse.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize("name", DELTAS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_deltas_stay_true(
    name: str, wrapped: bool, case: Any, guided: Any, same: Any, seed: Any
) -> None:
    it = case(name)
    seed(3)
    coarse, delta = it.captum.attribute(it.images, **it.arguments, return_convergence_delta=True)
    seed(3)
    if wrapped:
        assert Upsampled(it.captum).has_convergence_delta()
        fine, its_delta = Upsampled(it.captum, guided).attribute(
            it.images, **it.arguments, return_convergence_delta=True
        )
    else:
        fine, its_delta = it.ours.attribute(
            it.images, **it.arguments, return_convergence_delta=True, upsampler=guided
        )
    assert same(delta, its_delta)
    sums = [part.flatten(1).sum(1) for part in (fine, coarse)]
    torch.testing.assert_close(*sums, atol=1e-5, rtol=1e-4)


def test_interpolating_upsamplers_keep_deltas_true(case: Any) -> None:
    it = case("LayerIntegratedGradients")
    for name in ("nearest", "bilinear-conserving"):
        fine, delta = it.ours.attribute(
            it.images, **it.arguments, return_convergence_delta=True, upsampler=name
        )
        again = it.ours.compute_convergence_delta(
            fine, torch.zeros_like(it.images), it.images, target=it.arguments["target"]
        )
        torch.testing.assert_close(delta, again, atol=1e-5, rtol=1e-4)


def test_conventions_differ_by_the_size_of_a_cell(case: Any, guided: Any) -> None:
    it = case("LayerGradCam")
    run: Callable[..., Any] = lambda c: it.ours.attribute(  # noqa: E731
        it.images, **it.arguments, upsampler=guided, convention=c
    )
    torch.testing.assert_close(run("density"), run(None))
    torch.testing.assert_close(run("total") * 4, run("density"))


def test_channels_are_added_up_or_kept(case: Any, guided: Any) -> None:
    it = case("LayerGradientXActivation")
    added = it.ours.attribute(it.images, **it.arguments, upsampler=guided)
    kept = it.ours.attribute(it.images, **it.arguments, upsampler=guided, reduce=None)
    assert kept.shape == (2, 5, 16, 12)
    torch.testing.assert_close(kept.sum(1, keepdim=True), added, atol=1e-6, rtol=1e-4)


def test_guided_grad_cam_multiplies_what_captum_multiplies(case: Any, guided: Any) -> None:
    it = case("GuidedGradCam")
    grad_cam = case("LayerGradCam", it.model).captum
    signs, seen = set(), False
    for target in range(4):  # The negative part of Grad-CAM must be gone, so there must be one.
        signs |= set(grad_cam.attribute(it.images, target=target).sign().unique().tolist())
        theirs = it.captum.attribute(it.images, target=target)
        ours = it.ours.attribute(it.images, target=target, upsampler="nearest")
        seen |= bool(theirs.any())
        torch.testing.assert_close(ours, theirs, atol=0.0, rtol=1e-5)
    assert seen
    assert {-1.0, 1.0} <= signs
    theirs = it.captum.attribute(it.images, **it.arguments)
    fine = it.ours.attribute(it.images, **it.arguments, upsampler=guided)
    assert fine.shape == theirs.shape
    assert not torch.allclose(fine, theirs)


def test_guided_grad_cam_raises_instead_of_an_empty_tensor(net: Any) -> None:
    images = torch.rand(2, 3, 16, 12)
    method = GuidedGradCam(net, net.head)
    with pytest.warns(UserWarning, match="Couldn't appropriately interpolate"):
        assert method.attribute(images, target=1).numel() == 0
    with pytest.raises(ValueError, match="layer must give one spatial map"):
        method.attribute(images, target=1, upsampler="usu")
