"""patch(), unpatch() and patched(): Captum's own classes, here and nowhere else."""

import asyncio
import contextvars
import threading
import warnings
from typing import Any

import pytest
import torch
from captum import attr as captum_attr
from captum.attr import LayerAttribution, LayerGradCam, NoiseTunnel

import usu_captum
from usu_captum import patch, patched, unpatch
from usu_captum._methods import WITH_UPSAMPLER


def descriptors() -> dict[str, Any]:
    classes = {name: getattr(captum_attr, name) for name in WITH_UPSAMPLER}
    classes["NoiseTunnel"] = NoiseTunnel
    found = {name: cls.__dict__["attribute"] for name, cls in classes.items()}
    found["interpolate"] = LayerAttribution.__dict__["interpolate"]
    return found


def assert_restored(before: dict[str, Any]) -> None:
    after = descriptors()
    assert all(after[name] is value for name, value in before.items())
    assert isinstance(after["interpolate"], staticmethod)


@pytest.fixture
def call(net: Any) -> Any:
    images = torch.rand(2, 3, 16, 12)

    def attribute(**kwargs: Any) -> Any:
        return LayerGradCam(net, net.relu2).attribute(images, target=1, **kwargs)

    return attribute


@pytest.mark.parametrize("name", WITH_UPSAMPLER)
def test_every_class_accepts_the_keyword(name: str, case: Any, guided: Any, seed: Any) -> None:
    it = case(name)
    target = {"target": 1} if name == "LayerActivation" else {}
    seed()
    ours = it.ours.attribute(it.images, **it.arguments, **target, upsampler=guided)
    with patched():
        seed()
        theirs = it.captum.attribute(it.images, **it.arguments, **target, upsampler=guided)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", WITH_UPSAMPLER)
def test_a_default_reaches_coarse_maps_only(name: str, case: Any, seed: Any) -> None:
    it = case(name)
    seed()
    plain = it.captum.attribute(it.images, **it.arguments)
    with patched("bilinear"):
        seed()
        result = it.captum.attribute(it.images, **it.arguments)
        seed()
        explicit = it.captum.attribute(it.images, **it.arguments, upsampler=None)
    assert torch.equal(plain, explicit)
    if it.is_layer:
        assert result.shape == (2, 1, 16, 12)
    elif name == "GuidedGradCam":
        assert result.shape == plain.shape
        assert not torch.equal(result, plain)
    else:
        assert torch.equal(result, plain)


def test_a_default_leaves_what_is_no_map(net: Any) -> None:
    images = torch.rand(2, 3, 16, 12)
    method = captum_attr.LayerActivation(net, net.head)
    plain = method.attribute(images)
    with patched("nearest"):
        assert torch.equal(method.attribute(images), plain)
        with pytest.raises(ValueError, match="layer must give one spatial map"):
            method.attribute(images, upsampler="nearest")


def test_a_default_leaves_sentences_alone() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Flatten())
    method = captum_attr.LayerActivation(model, model[1])
    words = torch.rand(2, 4, 6)
    for target in (None, 1):
        with patched("nearest", target=target):
            assert method.attribute(words).shape == (2, 4, 6)


def test_a_default_that_needs_a_score_leaves_activations_without_a_target(net: Any) -> None:
    images = torch.rand(2, 3, 16, 12)
    method = captum_attr.LayerActivation(net, net.relu2)
    plain = method.attribute(images)
    ours = usu_captum.LayerActivation(net, net.relu2)
    fine = ours.attribute(images, target=[1, 3], upsampler="usu")
    with patched("usu"):
        assert torch.equal(method.attribute(images), plain)
        assert torch.equal(NoiseTunnel(method).attribute(images, nt_samples=2, stdevs=0.0), plain)
        assert torch.equal(method.attribute(images, target=[1, 3]), fine)
    with patched("usu", target=[1, 3]):
        assert torch.equal(method.attribute(images), fine)
        tunnel = NoiseTunnel(method).attribute(images, nt_samples=2, stdevs=0.0)
        assert tunnel.shape == fine.shape
        # Targets of another batch are none of this one's.
        torch.testing.assert_close(method.attribute(images[:1]), plain[:1])
    with patched("bilinear"):
        assert method.attribute(images).shape == fine.shape


def test_guided_grad_cam_takes_the_same_keywords(net: Any) -> None:
    images = torch.rand(2, 3, 16, 12)
    with patched():
        for cls in (captum_attr.GuidedGradCam, usu_captum.GuidedGradCam):
            for options in ({"reduce": None}, {"expand_to_input": True}, {"image_input": 0}):
                with pytest.raises(TypeError, match=next(iter(options))):
                    cls(net, net.relu2).attribute(images, target=1, upsampler="usu", **options)


def test_without_a_patch_captum_refuses(call: Any) -> None:
    with pytest.raises(TypeError, match="upsampler"):
        call(upsampler="nearest")
    patch()
    assert call(upsampler="nearest").shape[2:] == (16, 12)
    unpatch()
    with pytest.raises(TypeError, match="upsampler"):
        call(upsampler="nearest")


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_descriptors_come_back(error: Any, call: Any) -> None:
    before = descriptors()
    try:
        with patched("nearest"):
            assert call().shape[2:] == (16, 12)
            assert LayerAttribution.interpolate(torch.ones(1, 1, 2, 2), 4).shape == (1, 1, 4, 4)
            bound = LayerAttribution(torch.nn.Identity(), torch.nn.Identity()).interpolate
            assert bound(torch.ones(1, 1, 2, 2), (4, 4)).shape == (1, 1, 4, 4)
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert_restored(before)
    assert call().shape[2:] == (8, 6)


def test_an_unknown_default_patches_nothing() -> None:
    before = descriptors()
    with pytest.raises(ValueError, match="Did you mean"), patched("uus"):
        pass
    assert_restored(before)


def test_patches_nest_last_in_first_out(call: Any) -> None:
    before = descriptors()
    plain = call()
    with patched("nearest"):
        nearest = call()
        with patched("bilinear"):
            assert not torch.equal(call(), nearest)
            with patched():
                assert torch.equal(call(), plain)
            assert not torch.equal(call(), nearest)
        assert torch.equal(call(), nearest)
        patch("bilinear")
        assert not torch.equal(call(), nearest)
        unpatch()
        assert torch.equal(call(), nearest)
        patch("bicubic")  # Left open: the block closes it.
    assert torch.equal(call(), plain)
    assert_restored(before)
    with pytest.raises(RuntimeError, match=r"unpatch\(\) needs a patch\(\)"):
        unpatch()


def test_a_second_thread_sees_plain_captum(call: Any) -> None:
    seen: list[Any] = []
    before = descriptors()

    def plain() -> None:
        seen.append(call().shape)
        try:
            call(upsampler="nearest")
        except TypeError as error:
            seen.append(error)
        with patched("bilinear"):
            seen.append(call().shape)
        seen.append(call().shape)

    with patched("nearest"):
        thread = threading.Thread(target=contextvars.Context().run, args=(plain,))
        thread.start()
        thread.join()
        assert call().shape[2:] == (16, 12)
    assert [s[2:] for s in (seen[0], seen[2], seen[3])] == [(8, 6), (16, 12), (8, 6)]
    assert "upsampler" in str(seen[1])
    assert_restored(before)


def test_overlapping_threads_restore_when_the_last_ends(call: Any) -> None:
    before = descriptors()
    inside, finish = threading.Event(), threading.Event()
    result: list[Any] = []

    def work() -> None:
        with patched("nearest"):
            inside.set()
            finish.wait(10)
            result.append(call().shape[2:])

    thread = threading.Thread(target=work)
    with patched("bilinear"):
        thread.start()
        assert inside.wait(10)
    assert call().shape[2:] == (8, 6)  # Still patched for the other thread, plain for this one.
    finish.set()
    thread.join()
    assert result == [(16, 12)]
    assert_restored(before)


def test_tasks_have_their_own(call: Any) -> None:
    async def one(upsampler: str | None) -> Any:
        with patched(upsampler):
            await asyncio.sleep(0)
            return call().shape[2:]

    async def both() -> Any:
        return await asyncio.gather(one("nearest"), one(None))

    assert asyncio.run(both()) == [(16, 12), (8, 6)]


def test_a_context_that_outlives_the_patch_is_plain(call: Any) -> None:
    with patched("nearest"):
        copied = contextvars.copy_context()
    with patched():  # The classes are swapped again, but not for that frame.
        assert copied.run(call).shape[2:] == (8, 6)


def test_anothers_patch_is_left_alone(monkeypatch: Any, call: Any) -> None:
    original = LayerGradCam.__dict__["attribute"]

    def other(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    monkeypatch.setattr(LayerGradCam, "attribute", original)  # Puts it back after the test.
    with pytest.warns(RuntimeWarning, match=r"LayerGradCam\.attribute was replaced"), patched():
        LayerGradCam.attribute = other
    assert LayerGradCam.__dict__["attribute"] is other


def test_noise_tunnels_take_the_keyword(net: Any, guided: Any, seed: Any) -> None:
    images = torch.rand(2, 3, 16, 12)
    tunnel = NoiseTunnel(LayerGradCam(net, net.relu2))
    wrapped = usu_captum.Upsampled(tunnel, guided)
    seed()
    expected = wrapped.attribute(images, nt_samples=2, target=1)
    with patched():
        seed()
        assert torch.equal(
            tunnel.attribute(images, nt_samples=2, target=1, upsampler=guided), expected
        )
    with patched(guided):
        seed()
        assert torch.equal(tunnel.attribute(images, "smoothgrad", 2, target=1), expected)
    with patched(guided):
        saliency = NoiseTunnel(captum_attr.Saliency(net)).attribute(images, target=1, nt_samples=2)
        assert saliency.shape == images.shape


def test_a_patched_class_scores_with_plain_captum(guided: Any, net: Any) -> None:
    """A forward function that explains something itself must not be upsampled inside."""
    inner = LayerGradCam(net, net.relu)
    shapes: list[Any] = []

    def forward(images: torch.Tensor) -> torch.Tensor:
        shapes.append(inner.attribute(images, target=0).shape[2:])
        result: torch.Tensor = net(images)
        return result

    with patched(guided):
        LayerGradCam(forward, net.relu2).attribute(torch.rand(1, 3, 16, 12), target=1)
    assert set(shapes) == {(8, 6)}


def test_interpolate_under_a_patch(net: Any, guided: Any) -> None:
    images, other = torch.rand(2, 3, 16, 12), torch.rand(3, 1, 8, 6)
    cells = torch.rand(2, 1, 8, 6)
    plain = LayerAttribution.interpolate
    expected = usu_captum.interpolate(
        cells, (16, 12), guided, image=images, forward_func=net, target=1
    )
    with patched(guided, image=images, forward_func=net, target=1):
        assert torch.equal(LayerAttribution.interpolate(cells, (16, 12)), expected)
        assert torch.equal(LayerGradCam.interpolate(cells, (16, 12), "bilinear"), expected)
        # Another batch, another size, and maps that are fine already are none of the image's.
        for coarse, size in ((other, (16, 12)), (cells, (24, 24)), (expected, (16, 12))):
            assert torch.equal(LayerAttribution.interpolate(coarse, size), plain(coarse, size))
    with patched(image=images, forward_func=net, target=1):
        assert torch.equal(LayerAttribution.interpolate(cells, (16, 12)), plain(cells, (16, 12)))
        assert torch.equal(LayerAttribution.interpolate(cells, (16, 12), guided), expected)


def test_a_block_that_is_left_in_another_thread_restores_the_classes() -> None:
    original = captum_attr.LayerGradCam.__dict__["attribute"]
    block = patched("nearest")
    entered = threading.Thread(target=block.__enter__)
    entered.start()
    entered.join()
    assert captum_attr.LayerGradCam.__dict__["attribute"] is not original
    block.__exit__(None, None, None)
    assert captum_attr.LayerGradCam.__dict__["attribute"] is original


def test_what_is_wrapped_is_not_upsampled_by_a_patch_too(case: Any, guided: Any) -> None:
    """LayerLRP has no way in past its usage log, so the wrapper runs the patched method."""
    it = case("LayerLRP")
    wrapped = [usu_captum.Upsampled(it.captum, up, reduce=None) for up in (guided, None)]
    plain = [one.attribute(it.images, **it.arguments) for one in wrapped]
    with patched("nearest"):
        found = [one.attribute(it.images, **it.arguments) for one in wrapped]
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))


def test_a_warning_that_is_an_error_does_not_stop_the_restoring() -> None:
    before = descriptors()
    tunnel = NoiseTunnel.__dict__["attribute"]
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(RuntimeWarning, match="was replaced while patched"),
        patched("nearest"),
    ):
        NoiseTunnel.attribute = lambda *args: None
    NoiseTunnel.attribute = tunnel
    assert_restored(before)
