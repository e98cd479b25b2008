"""Hooks, layers, modes, gradients and memory are as they were, whatever happens."""

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as library
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

import usu_gradcam
from usu_core import USU, GradientScorer, Quadtree
from usu_gradcam._guard import muted

TARGETS = [ClassifierOutputTarget(1), ClassifierOutputTarget(3)]
CALLED = ["GradCAM", "AblationCAM", "ScoreCAM", "FullGrad", "ShapleyCAM", "FinerCAM", "RefineCAM"]


def snapshot(model: nn.Module) -> list[Any]:
    """Everything a CAM could leave behind."""
    return [
        [(name, id(module), module.training) for name, module in model.named_modules()],
        [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()],
        [(p.requires_grad, None if p.grad is None else id(p.grad)) for p in model.parameters()],
        [(name, float(value.double().sum())) for name, value in model.state_dict().items()],
    ]


@pytest.mark.parametrize("upsampler", ["quick", None])
@pytest.mark.parametrize("name", CALLED)
def test_model_is_untouched(
    name: str, upsampler: str | None, net: nn.Module, images: torch.Tensor, quick: USU
) -> None:
    net.train()
    net.norm.eval()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    gradients = {key: value.grad for key, value in net.named_parameters()}
    before = snapshot(net)
    options = {"upsampler": quick if upsampler == "quick" else None}
    with getattr(usu_gradcam, name)(net, [net.last], **options) as cam:
        in_training = cam(images, TARGETS)
    assert snapshot(net) == before
    for key, value in net.named_parameters():
        assert value.grad is gradients[key]
        assert bool((value.grad == 1).all())
    with getattr(usu_gradcam, name)(net.eval(), [net.last], **options) as cam:
        np.testing.assert_array_equal(cam(images, TARGETS), in_training)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("name", ["AblationCAM", "GradCAM", "ScoreCAM", "FinerCAM", "RefineCAM"])
def test_exceptions_restore_everything(
    name: str,
    after: int,
    error: type[BaseException],
    net: nn.Module,
    images: torch.Tensor,
    quick: USU,
) -> None:
    """The model fails in its nth forward pass: in the CAM's own, or while it is scored."""
    net.train()
    before = snapshot(net)
    countdown = [after]

    def fail(module: nn.Module, args: Any) -> None:
        countdown[0] -= 1
        if countdown[0] < 0:
            raise error("stopped")

    cam = getattr(usu_gradcam, name)(net, [net.last], upsampler=quick)
    recording = snapshot(net)
    handle = net.head.register_forward_pre_hook(fail)
    with pytest.raises(error, match="stopped"):
        cam(images, TARGETS)
    handle.remove()
    assert snapshot(net) == recording
    assert cam(images, TARGETS).shape == (2, 24, 32)
    del cam
    gc.collect()
    assert snapshot(net) == before


def test_ablation_layer_and_its_hook_after_a_failing_target(
    net: nn.Module, images: torch.Tensor
) -> None:
    calls: list[int] = []

    def fails_later(output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("late")
        return output[1]

    last = net.last
    with (
        pytest.raises(RuntimeError, match="late"),
        usu_gradcam.AblationCAM(net, [net.last], upsampler="nearest") as cam,
    ):
        cam(images, [fails_later] * 2)
    assert net.last is last
    assert not last._forward_hooks


def test_ablation_layers_are_not_shared(net: nn.Module) -> None:
    one, other = (usu_gradcam.AblationCAM(net, [net.last]) for _ in range(2))
    assert one.ablation_layer is not other.ablation_layer
    own = library.AblationLayer()
    assert usu_gradcam.AblationCAM(net, [net.last], ablation_layer=own).ablation_layer is own


class TestMuting:
    """CAMs record nothing while the model is scored."""

    def test_recorded_passes(self, net: nn.Module, images: torch.Tensor, quick: USU) -> None:
        other = library.GradCAM(net, [net.first])
        ours = usu_gradcam.GradCAM(net, [net.last], upsampler=quick)
        ours(images, TARGETS)
        assert len(ours.activations_and_grads.activations) == 1
        assert len(other.activations_and_grads.activations) == 1

    def test_other_hooks_stay_and_order_comes_back(self, net: nn.Module) -> None:
        seen: list[str] = []
        net.last.register_forward_hook(lambda *args: seen.append("before"))
        cam = library.GradCAM(net, [net.last])
        net.last.register_forward_hook(lambda *args: seen.append("after"))
        order = list(net.last._forward_hooks)
        with muted(net):
            net(torch.rand(1, 3, 24, 32))
        assert seen == ["before", "after"]
        assert not cam.activations_and_grads.activations
        with pytest.raises(KeyboardInterrupt), muted(net):
            raise KeyboardInterrupt
        assert list(net.last._forward_hooks) == order
        net(torch.rand(1, 3, 24, 32))
        assert len(cam.activations_and_grads.activations) == 1


class TestMemory:
    """Nothing holds the graph, the image or the CAM after the call."""

    def test_outputs_and_records_are_detached(
        self, net: nn.Module, images: torch.Tensor, quick: USU
    ) -> None:
        for name in ("GradCAM", "ShapleyCAM"):
            base = getattr(usu_gradcam, name)
            cam = base(net, [net.last], upsampler=quick)
            cam(images, TARGETS)
            kept = [cam.outputs, *cam.activations_and_grads.activations]
            kept += cam.activations_and_grads.gradients
            finer = usu_gradcam.FinerCAM(net, [net.last], base_method=base, upsampler=quick)
            finer(images, TARGETS)
            kept += finer.base_cam.activations_and_grads.activations
            kept += finer.base_cam.activations_and_grads.gradients
            assert not any(one.requires_grad for one in kept)

    @pytest.mark.parametrize("name", ["GradCAM", "AblationCAM", "RefineCAM"])
    def test_images_and_cams_die(self, name: str, net: nn.Module, quick: USU) -> None:
        images = torch.rand(2, 3, 24, 32)
        cam = getattr(usu_gradcam, name)(net, [net.last], upsampler=quick)
        cam(images, TARGETS)
        image, owner = weakref.ref(images), weakref.ref(cam)
        del images
        assert image() is None
        del cam
        assert owner() is None, "a reference cycle keeps the CAM and its hooks alive"
        assert not net.last._forward_hooks

    def test_ablation_forgets_its_activations(self, net: nn.Module, images: torch.Tensor) -> None:
        cam = usu_gradcam.AblationCAM(net, [net.last], upsampler="nearest")
        cam(images, TARGETS)
        assert cam.activations is None
        assert cam.ablation_layer.activations is None

    def test_many_calls_keep_nothing(
        self, net: nn.Module, images: torch.Tensor, quick: USU
    ) -> None:
        def count() -> int:
            gc.collect()
            return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

        with usu_gradcam.GradCAM(net, [net.last], upsampler=quick) as cam:
            cam(images, TARGETS)
            before = count()
            for _ in range(5):
                cam(images, TARGETS)
            assert count() <= before


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
@pytest.mark.parametrize("upsampler", ["quick", "bilinear", None])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "name",
    ["GradCAM", "EigenCAM", "ScoreCAM", "AblationCAM", "FullGrad", "ShapleyCAM", "FinerCAM"],
)
def test_half_precision(
    name: str,
    dtype: torch.dtype,
    upsampler: str | None,
    net: nn.Module,
    images: torch.Tensor,
    quick: USU,
) -> None:
    half = copy.deepcopy(net).to(dtype)
    options = {"upsampler": quick if upsampler == "quick" else upsampler}
    cls = getattr(usu_gradcam, name)
    if name == "AblationCAM":  # it ablates activations that may be negative with -1e7
        half.last = nn.Sequential(half.last, nn.ReLU())
    fine = cls(half, [half.last], **options)(images.to(dtype), None)
    assert fine.dtype == np.float32
    assert np.isfinite(fine).all()
    assert 0 <= fine.min() <= fine.max() <= 1
    if name in ("GradCAM", "FullGrad"):
        targets = [ClassifierOutputTarget(int(i)) for i in half(images.to(dtype)).argmax(1)]
        full = cls(net, [net.last], **options)(images, targets)
        same = np.corrcoef(full.ravel(), fine.ravel())[0, 1]
        assert same > (0.6 if upsampler == "quick" else 0.97)


def test_ablation_value_does_not_fit_float16(net: nn.Module, images: torch.Tensor) -> None:
    half = net.half()
    cam = usu_gradcam.AblationCAM(half, [half.last], upsampler="nearest")
    with pytest.raises(ValueError, match="model must give AblationCAM finite scores"):
        cam(images.half(), None)


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
def test_half_precision_elsewhere(net: nn.Module, images: torch.Tensor, quick: USU) -> None:
    half = copy.deepcopy(net).to(torch.bfloat16)
    cam = usu_gradcam.GradCAM(half, [half.last], upsampler=quick)
    assert cam(images, None).shape == (2, 24, 32), "float32 images for a bfloat16 model"
    fast = USU(segmenter=Quadtree((2, 4)), scorer=GradientScorer())
    cam = usu_gradcam.GradCAM(half, [half.last], upsampler=fast)
    assert cam(images.bfloat16(), None, aug_smooth=True).shape == (2, 24, 32)
    with usu_gradcam.patched(fast):
        assert library.GradCAM(half.half(), [half.last])(images.half(), None).shape == (2, 24, 32)
    half.bfloat16()
    for upsampler in (quick, None):
        factorize = usu_gradcam.DeepFeatureFactorization(half, half.last, upsampler=upsampler)
        assert factorize(images.bfloat16(), 2)[1][0].shape == (2, 24, 32)


class Mixed(nn.Module):
    """Half precision behind a first parameter that is not."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.scale, self.net = nn.Parameter(torch.ones(1)), copy.deepcopy(net).bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net((x * self.scale).bfloat16())


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
@pytest.mark.parametrize("how", ["quick", "bilinear", None, "patched"])
@pytest.mark.parametrize("kind", ["half", "mixed", "autocast"])
@pytest.mark.parametrize(
    "name",
    [
        "GradCAM",
        "EigenCAM",
        "LayerCAM",
        "FinerCAM",
        "RefineCAM",
        "SESS",
        "DeepFeatureFactorization",
    ],
)
def test_the_highest_class_of_outputs_in_half_precision(
    name: str, kind: str, how: str | None, net: nn.Module, images: torch.Tensor, quick: USU
) -> None:
    """numpy, in which the library looks for it, has no bfloat16."""
    model = {"half": copy.deepcopy(net).bfloat16(), "mixed": Mixed(net), "autocast": net}[kind]
    images = images.bfloat16() if kind == "half" else images
    last = model.net.last if kind == "mixed" else model.last
    given = (model, last if name == "DeepFeatureFactorization" else [last])
    options = {"num_scales": 1} if name == "SESS" else {}
    targets = () if name == "DeepFeatureFactorization" else (None,)
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        if how == "patched":
            with usu_gradcam.patched(quick):
                fine = getattr(library, name)(*given, **options)(images, *targets)
        else:
            options["upsampler"] = quick if how == "quick" else how
            fine = getattr(usu_gradcam, name)(*given, **options)(images, *targets)
    for one in fine[1] if name == "DeepFeatureFactorization" else fine:
        assert one.dtype == np.float32
        assert np.isfinite(one).all()
    assert not model._forward_hooks


def test_hooks_that_come_and_go_meanwhile(net: nn.Module, images: torch.Tensor, quick: USU) -> None:
    """A model may hook itself at first use, and another CAM may be made while this one scores."""
    others: list[Any] = []
    handle = net.last.register_forward_hook(lambda *_: None)

    def hooking(module: nn.Module, args: Any) -> None:
        if not others and not torch.is_grad_enabled():  # while images are scored
            handle.remove()
            others.append(net.last.register_forward_hook(lambda *_: None))
            others.append(usu_gradcam.GradCAM(net, [net.last], upsampler="nearest"))

    before = net.register_forward_pre_hook(hooking)
    cam = usu_gradcam.GradCAM(net, [net.last], upsampler=quick)
    first = cam(images, TARGETS)
    before.remove()
    lazy, other = others
    assert lazy.id in net.last._forward_hooks
    assert handle.id not in net.last._forward_hooks
    assert other(images, TARGETS).shape == first.shape
    np.testing.assert_array_equal(cam(images, TARGETS), first)


def test_failed_constructors_leave_nothing(net: nn.Module) -> None:
    """Their __del__ must not fail either: pytest would report it."""
    for name in ("GradCAM", "FinerCAM", "RefineCAM", "SESS", "DeepFeatureFactorization"):
        with pytest.raises(ValueError, match="upsampler must be one of"):
            getattr(usu_gradcam, name)(net, [net.last], upsampler="nope")
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        usu_gradcam.GradCAM("resnet18", [net.last])
    gc.collect()
    assert not net.last._forward_hooks


@pytest.mark.parametrize("aug_smooth", [False, True])
@pytest.mark.parametrize("upsampler", ["quick", "bilinear"])
@pytest.mark.parametrize("name", ["GradCAM", "FullGrad", "FinerCAM"])
def test_gradients_of_the_images_are_the_caller_s(
    name: str, upsampler: str, aug_smooth: bool, net: nn.Module, images: torch.Tensor, quick: USU
) -> None:
    cam = getattr(usu_gradcam, name)(
        net, [net.last], upsampler=quick if upsampler == "quick" else upsampler
    )
    options = {} if name == "FinerCAM" else {"aug_smooth": aug_smooth}
    plain = cam(images, TARGETS, **options)
    wanted = images.clone().requires_grad_()
    np.testing.assert_array_equal(cam(wanted, TARGETS, **options), plain)
    assert wanted.grad is None
    wanted.grad = kept = torch.ones_like(images)
    np.testing.assert_array_equal(cam(wanted, TARGETS, **options), plain)
    assert wanted.grad is kept
    assert bool((kept == 1).all())


@pytest.mark.parametrize("how", ["quick", "bilinear", None, "patched"])
@pytest.mark.parametrize(
    "name", ["GradCAM", "HiResCAM", "FullGrad", "ShapleyCAM", "FinerCAM", "RefineCAM", "SESS"]
)
def test_gradients_of_what_made_the_images_are_the_caller_s(
    name: str, how: str | None, net: nn.Module, images: torch.Tensor, quick: USU
) -> None:
    before = nn.Conv2d(3, 3, 1)
    arguments = {"num_scales": 1} if name == "SESS" else {}
    if how == "patched":
        theirs = getattr(library, name)(net, [net.last], **arguments)
        with usu_gradcam.patched(quick):
            theirs(before(images), TARGETS)
    else:
        upsampler = quick if how == "quick" else how
        cam = getattr(usu_gradcam, name)(net, [net.last], upsampler=upsampler, **arguments)
        cam(before(images), TARGETS)
        if isinstance(cam, library.base_cam.BaseCAM):
            cam(before(images), TARGETS, aug_smooth=True)
    for parameter in (*before.parameters(), *net.parameters()):
        assert parameter.grad is None


def test_frozen_models_are_explained_by_images_that_have_a_gradient(
    net: nn.Module, images: torch.Tensor
) -> None:
    wanted = usu_gradcam.GradCAM(net, [net.last], upsampler="nearest")(images, TARGETS)
    cam = usu_gradcam.GradCAM(net.requires_grad_(False), [net.last], upsampler="nearest")
    np.testing.assert_array_equal(cam(images.requires_grad_(), TARGETS), wanted)
    assert images.grad is None


def test_the_classes_of_augmented_images_are_found_in_evaluation_mode(
    net: nn.Module, images: torch.Tensor, quick: USU
) -> None:
    with usu_gradcam.GradCAM(net, [net.last], upsampler=quick) as cam:
        wanted = cam(images, None, aug_smooth=True)
    net.train()
    before = snapshot(net)
    with usu_gradcam.GradCAM(net, [net.last], upsampler=quick) as cam:
        np.testing.assert_array_equal(cam(images, None, aug_smooth=True), wanted)
    assert snapshot(net) == before


def test_hooks_go_when_what_was_recorded_is_a_view(net: nn.Module, images: torch.Tensor) -> None:
    """``detach_`` refuses the views that a model of several heads splits its maps into."""

    class Chunks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.chunk(2, 1)[0]

    model = nn.Sequential(net.first, Chunks(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    cam = usu_gradcam.ShapleyCAM(model, [model[1]], upsampler="nearest")
    model(images)
    cam.__exit__()
    assert not model[1]._forward_hooks
