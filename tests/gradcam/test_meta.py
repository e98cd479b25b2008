"""FinerCAM, RefineCAM and SESS, through base_method."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as library
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget
from torch import nn

import usu_core
import usu_gradcam
from usu_core import USU, CellGrid
from usu_gradcam._context import ScoreMaps

TARGETS = [ClassifierOutputTarget(1), ClassifierOutputTarget(3)]


@pytest.mark.parametrize("name", ["FinerCAM", "RefineCAM", "SESS"])
@pytest.mark.parametrize("base", ["GradCAM", "EigenCAM", "FullGrad", "HiResCAM", "ShapleyCAM"])
def test_every_base(name: str, base: str, net: nn.Module, images: torch.Tensor, quick: USU) -> None:
    options = {"num_scales": 2} if name == "SESS" else {}
    for owner in (usu_gradcam, library):  # the library's own are replaced by ours
        with getattr(usu_gradcam, name)(
            net, [net.last], base_method=getattr(owner, base), upsampler=quick, **options
        ) as cam:
            fine = cam(images, TARGETS)
        assert fine.shape == (2, 24, 32)
        assert fine.dtype == np.float32
        assert 0 <= fine.min() <= fine.max() <= 1
        assert fine.std() > 0
    assert not net.last._forward_hooks


@pytest.mark.parametrize("name", ["FinerCAM", "RefineCAM", "SESS"])
def test_the_library_s_methods_take_our_classes(
    name: str, net: nn.Module, images: torch.Tensor
) -> None:
    """They call base_method with three positional arguments."""
    options = {"num_scales": 1} if name == "SESS" else {}
    net.train()
    cam = getattr(library, name)(net, [net.last], base_method=usu_gradcam.GradCAM, **options)
    assert net.training
    fine = cam(images, TARGETS)
    assert fine.shape == (2, 24, 32)
    assert fine.std() > 0


def test_finer_scores_the_comparison(net: nn.Module, images: torch.Tensor, quick: USU) -> None:
    """FinerCAM is its base with weighted targets, in the map and in the scores."""
    finer = usu_gradcam.FinerCAM(net, [net.last], upsampler=quick, raw=True)
    order = net(images).argsort(1, descending=True).tolist()
    targets = [FinerWeightedTarget(row[0], row[1:4], 1) for row in order]
    base = usu_gradcam.GradCAM(net, [net.last], upsampler=quick, raw=True)
    np.testing.assert_allclose(finer(images), base(images, targets), rtol=1e-5, atol=1e-9)
    even = usu_gradcam.FinerCAM(net, [net.last], upsampler="nearest", raw=True)(images)
    mean = CellGrid.even((6, 8), (24, 32)).mean(torch.from_numpy(finer(images)))
    np.testing.assert_allclose(mean, even[:, ::4, ::4], rtol=1e-4, atol=1e-8)


def test_finer_on_two_and_three_classes(make_net: Any, quick: USU) -> None:
    for classes in (2, 3):
        net = make_net(classes=classes).eval()
        with usu_gradcam.FinerCAM(model=net, target_layers=[net.last], upsampler=quick) as cam:
            assert cam(input_tensor=torch.rand(1, 3, 16, 16), targets=None).shape == (1, 16, 16)


@pytest.mark.parametrize("targets", [TARGETS, None])
def test_refine_scores_once_for_all_layers(
    targets: Any, net: nn.Module, images: torch.Tensor, quick: USU, counted: SimpleNamespace
) -> None:
    cam = usu_gradcam.RefineCAM(net, [net.first, net.last], upsampler=quick)
    cam(images, targets)
    assert counted.images == 2 * 2 + 2 * (1 + 4 + 16)


def test_refine_is_a_product_of_our_maps(net: nn.Module, images: torch.Tensor, quick: USU) -> None:
    layers = [net.first, net.last]
    maps = [
        usu_gradcam.GradCAMPlusPlus(net, [one], upsampler=quick)(images, TARGETS) for one in layers
    ]
    wanted = usu_core.scale_to_unit(torch.from_numpy(np.prod(maps, axis=0)))
    found = usu_gradcam.RefineCAM(net, layers, upsampler=quick)(images, TARGETS)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_refine_in_a_with_block(net: nn.Module, images: torch.Tensor, quick: USU) -> None:
    """The library's has no __enter__."""
    with usu_gradcam.RefineCAM(net, [net.first, net.last], upsampler=quick) as cam:
        assert cam(images).shape == (2, 24, 32)
    assert not net.first._forward_hooks


def test_methods_on_methods(net: nn.Module, images: torch.Tensor, quick: USU) -> None:
    cam = usu_gradcam.RefineCAM(
        net, [net.first, net.last], base_method=usu_gradcam.FinerCAM, upsampler=quick
    )
    assert cam(images).shape == (2, 24, 32)
    del cam
    assert not net.last._forward_hooks


def test_sess_resizes_the_same_inputs(
    net: nn.Module, images: torch.Tensor, quick: USU, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches: list[list[torch.Tensor]] = []
    original = library.SESS.collect_patches

    def collect_patches(self: Any, *args: Any) -> Any:
        result = original(self, *args)
        patches.append(result[0])
        return result

    monkeypatch.setattr(library.SESS, "collect_patches", collect_patches)
    library.SESS(net, [net.last], num_scales=2)(images[:1])
    usu_gradcam.SESS(net, [net.last], num_scales=2, upsampler=quick)(images[:1])
    assert all(torch.equal(a, b) for a, b in zip(*patches, strict=True))


def test_sess_defaults_to_the_fast_upsampler(net: nn.Module) -> None:
    cam = usu_gradcam.SESS(net, [net.last])
    assert cam.base_cam.redistribution.upsampler == usu_core.resolve("usu-fast")
    assert usu_gradcam.SESS(net, [net.last], pool="max", smooth=False).pool == "max"


@pytest.mark.parametrize("name", ["RefineCAM", "SESS"])
def test_no_mass_behind_products(name: str, net: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"raw must be False for {name}"):
        getattr(usu_gradcam, name)(net, [net.last], raw=True)


@pytest.mark.parametrize("name", ["FinerCAM", "RefineCAM", "SESS"])
def test_errors_are_clear(name: str, net: nn.Module, images: torch.Tensor, quick: USU) -> None:
    class Dictionary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.net(x)}

    cls = getattr(usu_gradcam, name)
    with pytest.raises(ValueError, match="target_layers must name at least one layer, got none"):
        cls(net, [])
    with pytest.raises(TypeError, match=r"target_layers must be a list .* Try target_layers="):
        cls(net, net.last)
    cam = cls(net, [net.last], upsampler=quick)
    with torch.no_grad(), pytest.raises(ValueError, match="input_tensor must be differentiable"):
        cam(images)
    with pytest.raises(ValueError, match="input_tensor must hold at least one image"):
        cam(images[:0])
    with pytest.raises(ValueError, match=r"targets must be given for a model .* got None for dict"):
        cls(Dictionary(), [net.last], upsampler=quick)(images)


def test_sess_takes_no_score_function(net: nn.Module) -> None:
    with pytest.raises(TypeError, match="score_fn must not be given to SESS"):
        usu_gradcam.SESS(net, [net.last], score_fn=lambda x: net(x)[:, 0])


@pytest.mark.parametrize("how", ["ours", "patched"])
def test_refine_moves_images_once(
    how: str, net: nn.Module, images: torch.Tensor, quick: USU, counted: SimpleNamespace
) -> None:
    """Every copy on the model's device would be scored anew."""

    class Elsewhere(torch.Tensor):
        def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return self.as_subclass(torch.Tensor).clone()

    layers = [net.first, net.last]
    if how == "ours":
        usu_gradcam.RefineCAM(net, layers, upsampler=quick)(images.as_subclass(Elsewhere))
    else:
        with usu_gradcam.patched(quick):
            library.RefineCAM(net, layers)(images.as_subclass(Elsewhere))
    assert counted.images == 2 * 2 + 2 * (1 + 4 + 16)


def test_sess_keeps_no_scores_it_will_not_need(
    net: nn.Module, images: torch.Tensor, quick: USU, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every crop is another image."""
    kept: list[Any] = []
    monkeypatch.setattr(ScoreMaps, "put", lambda *args: kept.append(args))
    usu_gradcam.SESS(net, [net.last], num_scales=2, upsampler=quick)(images[:1])
    assert not kept


def test_shared_scores_are_of_one_image_and_its_targets() -> None:
    import weakref

    from usu_gradcam._context import ScoreMaps

    scores, image, phi = ScoreMaps(), torch.rand(2, 3, 4, 4), torch.rand(2, 4, 4)
    scores.put(image, TARGETS, phi)
    equal = [ClassifierOutputTarget(1), ClassifierOutputTarget(3)]
    assert scores.get(image, equal) is phi
    assert scores.get(image, TARGETS[::-1]) is None
    assert scores.get(image, [lambda output: output[1], lambda output: output[3]]) is None
    assert scores.get(image[:1], TARGETS) is None  # at the same address
    # An image that died would leave its address to another one.
    kept = weakref.ref(image)
    del image
    assert kept() is not None
