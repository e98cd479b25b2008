"""patch(), unpatch() and patched(): the library's own names, in this thread only."""

import asyncio
import contextvars
import sys
import threading
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as library
import torch
from pytorch_grad_cam import fullgrad_cam, refine_cam, sess
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils import image as library_image
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

import usu_core
import usu_gradcam
from usu_core import USU, MaskedPerturbation, Quadtree
from usu_gradcam import _name_bound, patch, patched, unpatch
from usu_gradcam._name_bound import Copies

TARGETS = [ClassifierOutputTarget(1), ClassifierOutputTarget(3)]
QUICK = USU(segmenter=Quadtree((2, 4)), scorer=MaskedPerturbation(mode="drop", fill="mean"))


def state() -> list[Any]:
    """Identity of everything that may be replaced, in every module."""
    names = ("scale_cam_image", "scale_accross_batch_and_channels")
    bound = [
        (module.__name__, name, id(vars(module)[name]))
        for module in list(sys.modules.values())
        if isinstance(module, types.ModuleType)
        for name in names
        if name in vars(module)
    ]
    classes = [BaseCAM, library.FullGrad, library.DeepFeatureFactorization]
    classes += [library.FinerCAM, library.RefineCAM, library.SESS]
    return [bound, [{k: id(v) for k, v in vars(cls).items()} for cls in classes]]


@pytest.fixture(autouse=True)
def _restored() -> Any:
    before = state()
    yield
    assert state() == before, "a patch was left behind"


@pytest.mark.parametrize(
    "name", ["GradCAM", "EigenCAM", "ScoreCAM", "FullGrad", "AblationCAM", "ShapleyCAM"]
)
@pytest.mark.parametrize(
    "mode", [{}, {"aug_smooth": True}, {"eigen_smooth": True}], ids=["plain", "aug", "eigen"]
)
def test_the_library_s_classes_give_our_maps(
    name: str, mode: dict[str, bool], net: nn.Module, images: torch.Tensor
) -> None:
    layers = [net.last] if name == "ShapleyCAM" else [net.first, net.last]
    existing = getattr(library, name)(net, layers)
    plain = existing(images, TARGETS, **mode)
    with patched(QUICK):
        found = existing(images, TARGETS, **mode)
    wanted = getattr(usu_gradcam, name)(net, layers, upsampler=QUICK)(images, TARGETS, **mode)
    np.testing.assert_array_equal(found, wanted)
    assert not np.array_equal(found, plain)
    np.testing.assert_array_equal(existing(images, TARGETS, **mode), plain)


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
def test_factorization(net: nn.Module, images: torch.Tensor) -> None:
    factorize = library.DeepFeatureFactorization(net, net.last)
    with patched(QUICK):
        concepts = factorize(images, 2)[1]
    wanted = usu_gradcam.DeepFeatureFactorization(net, net.last, upsampler=QUICK)(images, 2)[1]
    np.testing.assert_array_equal(concepts, wanted)


def upside_down(maps: torch.Tensor) -> torch.Tensor:
    return 1 - usu_core.scale_to_unit(maps)


@pytest.mark.parametrize("scaling", [None, "min-max", upside_down])
@pytest.mark.parametrize("upsampler", [QUICK, "usu-fast", "nearest"], ids=["quick", "fast", "near"])
@pytest.mark.parametrize(
    ("name", "options"), [("FinerCAM", {}), ("RefineCAM", {}), ("SESS", {"num_scales": 2})]
)
def test_meta_methods_give_our_maps(
    name: str,
    options: dict[str, Any],
    upsampler: Any,
    scaling: Any,
    net: nn.Module,
    images: torch.Tensor,
) -> None:
    layers = [net.first, net.last]
    theirs = getattr(library, name)(net, layers, **options)
    ours = getattr(usu_gradcam, name)(net, layers, upsampler=upsampler, scaling=scaling, **options)
    with patched(upsampler, scaling=scaling):
        found = theirs(images, TARGETS)
        np.testing.assert_array_equal(theirs(images, targets=TARGETS), found)
    np.testing.assert_array_equal(found, ours(images, TARGETS))


@pytest.mark.parametrize("name", ["RefineCAM", "SESS"])
def test_no_mass_behind_products_of_patched_methods(
    name: str, net: nn.Module, images: torch.Tensor
) -> None:
    cam = getattr(library, name)(net, [net.last])
    with patched("nearest", raw=True):
        with pytest.raises(ValueError, match=f"raw must be False for {name}, .* Try raw=True on"):
            cam(images, TARGETS)
        assert library.FinerCAM(net, [net.last])(images).min() < 0


def test_a_patched_method_on_a_method(net: nn.Module, images: torch.Tensor) -> None:
    layers, base = [net.first, net.last], {"base_method": library.FinerCAM}
    theirs = library.RefineCAM(net, layers, **base)
    ours = usu_gradcam.RefineCAM(net, layers, base_method=usu_gradcam.FinerCAM, upsampler=QUICK)
    with patched(QUICK):
        np.testing.assert_array_equal(theirs(images), ours(images))


def test_options_nesting_and_our_own_classes(net: nn.Module, images: torch.Tensor) -> None:
    theirs = library.GradCAM(net, [net.last])
    own = usu_gradcam.GradCAM(net, [net.last], upsampler=None)
    plain = own(images, TARGETS)
    with patched(QUICK, raw=True):
        raw = theirs(images, TARGETS)
        with patched(None):
            np.testing.assert_array_equal(theirs(images, TARGETS), plain)
        with patched("nearest", scaling="robust"):
            assert theirs(images, TARGETS).min() >= 0
        np.testing.assert_array_equal(theirs(images, TARGETS), raw)
        np.testing.assert_array_equal(own(images, TARGETS), plain)
    wanted = usu_gradcam.GradCAM(net, [net.last], upsampler=QUICK, raw=True)(images, TARGETS)
    np.testing.assert_array_equal(raw, wanted)


def test_patch_and_unpatch(net: nn.Module, images: torch.Tensor) -> None:
    theirs = library.GradCAM(net, [net.last])
    plain = theirs(images, TARGETS)
    patch(QUICK)
    patch("nearest")
    unpatch()
    assert not np.array_equal(theirs(images, TARGETS), plain)
    unpatch()
    np.testing.assert_array_equal(theirs(images, TARGETS), plain)
    with pytest.raises(RuntimeError, match=r"unpatch\(\) needs a patch\(\)"):
        unpatch()
    with pytest.raises(ValueError, match="upsampler must be one of"):
        patch("ussu")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_restored_after_exceptions(
    error: type[BaseException], net: nn.Module, images: torch.Tensor
) -> None:
    def fail(output: torch.Tensor) -> torch.Tensor:
        raise error("stopped")

    with pytest.raises(error, match="stopped"), patched(QUICK):
        library.GradCAM(net, [net.last])(images, [fail, fail])


def test_errors_are_clear_under_a_patch(net: nn.Module, images: torch.Tensor) -> None:
    with patched(QUICK), library.GradCAM(net, [net.last]) as cam:
        with pytest.raises(ValueError, match="one target per image"):
            cam(images, TARGETS[:1])
        with pytest.raises(ValueError, match="targets must fit the model's output"):
            cam(images, [ClassifierOutputTarget(9)] * 2)


def test_other_threads_see_the_plain_library(net: nn.Module, images: torch.Tensor) -> None:
    wanted = library.GradCAM(net, [net.last])(images, TARGETS)
    started, done = threading.Event(), threading.Event()

    def elsewhere() -> np.ndarray:
        started.wait(20)
        other = type(net)().eval()
        other.load_state_dict(net.state_dict())
        result = library.GradCAM(other, [other.last])(images, TARGETS)
        done.set()
        return result

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(elsewhere)
        with patched(QUICK):
            started.set()
            assert done.wait(20)
            mine = library.GradCAM(net, [net.last])(images, TARGETS)
        np.testing.assert_array_equal(future.result(), wanted)
    assert not np.array_equal(mine, wanted)


def test_threads_patch_each_for_itself(images: torch.Tensor, make_net: Any) -> None:
    nets = [make_net().eval() for _ in range(4)]
    upsamplers = [QUICK, "nearest", None, "bilinear"]
    for net in nets:
        net.load_state_dict(nets[0].state_dict())
    barrier = threading.Barrier(4)

    def explain(net: nn.Module, upsampler: Any) -> np.ndarray:
        barrier.wait(20)
        with patched(upsampler):
            barrier.wait(20)
            return library.GradCAM(net, [net.last])(images, TARGETS)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(explain, nets, upsamplers))
    for result, upsampler in zip(found, upsamplers, strict=True):
        cam = usu_gradcam.GradCAM(nets[0], [nets[0].last], upsampler=upsampler)
        np.testing.assert_array_equal(result, cam(images, TARGETS))


class OwnWay(library.GradCAM):
    """A CAM of somebody else, who resizes by the helper imported by name."""

    def compute_cam_per_layer(self, input_tensor: Any, targets: Any, eigen_smooth: bool) -> Any:
        maps = []
        records = self.activations_and_grads
        for activations, gradients in zip(records.activations, records.gradients, strict=True):
            cam = (gradients.mean((2, 3), keepdim=True) * activations).sum(1).numpy()
            size = self.get_target_width_height(input_tensor)
            maps.append(scale_cam_image(np.maximum(cam, 0), size)[:, None])
        return maps


class TestNameBoundCopies:
    """Helpers imported by name before the patch."""

    def test_third_party_subclasses(self, net: nn.Module, images: torch.Tensor) -> None:
        theirs = OwnWay(net, [net.first, net.last])
        plain = theirs(images, TARGETS)
        np.testing.assert_allclose(
            plain, library.GradCAM(net, [net.first, net.last])(images, TARGETS), atol=1e-6
        )
        wanted = usu_gradcam.GradCAM(net, [net.first, net.last], upsampler=QUICK)(images, TARGETS)
        with patched(QUICK):
            np.testing.assert_allclose(theirs(images, TARGETS), wanted, atol=1e-5)
            predicted = theirs(images, None)
            assert theirs(images, TARGETS, aug_smooth=True).shape == (2, 24, 32)
        np.testing.assert_array_equal(theirs(images, TARGETS), plain)
        classes = [ClassifierOutputTarget(int(i)) for i in net(images).argmax(1)]
        with patched(QUICK):
            np.testing.assert_array_equal(theirs(images, classes), predicted)

    def test_every_copy_and_late_imports(self) -> None:
        original = library_image.scale_cam_image
        late = types.ModuleType("late_importer")
        sys.modules["late_importer"] = late
        try:
            with patched(QUICK):
                for module in (
                    library_image,
                    refine_cam,
                    sess,
                    fullgrad_cam,
                    sys.modules[__name__],
                ):
                    assert module.scale_cam_image is not original
                wrapper = late.scale_cam_image = library_image.scale_cam_image
            assert late.scale_cam_image is original
            maps = np.random.default_rng(0).random((2, 3, 4), np.float32)
            np.testing.assert_array_equal(wrapper(maps, (8, 6)), original(maps, (8, 6)))
        finally:
            del sys.modules["late_importer"]

    def test_user_code_outside_a_cam_is_left_alone(self) -> None:
        maps = np.random.default_rng(0).random((2, 3, 4), np.float32)
        wanted, single = scale_cam_image(maps, (8, 6)), scale_cam_image(maps[0])
        channels = maps[:, None].repeat(2, 1)
        stack = library_image.scale_accross_batch_and_channels(channels, (8, 6))
        with patched(QUICK):
            np.testing.assert_array_equal(scale_cam_image(maps, (8, 6)), wanted)
            np.testing.assert_array_equal(scale_cam_image(maps[0]), single)
            np.testing.assert_array_equal(
                library_image.scale_accross_batch_and_channels(channels, (8, 6)), stack
            )

    def test_channels_belong_to_their_images(self, net: nn.Module, images: torch.Tensor) -> None:
        class PerChannel(library.GradCAM):
            def compute_cam_per_layer(self, input_tensor: Any, *args: Any) -> Any:
                size = self.get_target_width_height(input_tensor)
                (one,) = self.activations_and_grads.activations
                helper = library_image.scale_accross_batch_and_channels
                return [helper(np.abs(one.numpy()), size)]

        cam = PerChannel(net, [net.last])
        with patched(QUICK, raw=True):
            fine = cam(images, TARGETS)
        (activations,) = cam.activations_and_grads.activations
        grid = usu_core.CellGrid.even((6, 8), (24, 32))
        np.testing.assert_allclose(
            grid.mean(torch.from_numpy(fine)), activations.abs().mean(1), rtol=1e-4, atol=1e-6
        )


def test_somebody_else_s_patch_on_top_is_left(net: nn.Module, images: torch.Tensor) -> None:
    original = BaseCAM.aggregate_multi_layers
    try:
        patch(QUICK)
        ours = BaseCAM.aggregate_multi_layers

        def theirs(self: Any, maps: Any) -> Any:
            return ours(self, maps)

        BaseCAM.aggregate_multi_layers = theirs
        with pytest.warns(RuntimeWarning, match=r"BaseCAM\.aggregate_multi_layers was replaced"):
            unpatch()
        assert BaseCAM.aggregate_multi_layers is theirs
        plain = library.GradCAM(net, [net.last])(images, TARGETS)
    finally:
        BaseCAM.aggregate_multi_layers = original
    np.testing.assert_array_equal(library.GradCAM(net, [net.last])(images, TARGETS), plain)


def test_scores_are_not_redistributed_themselves(net: nn.Module, images: torch.Tensor) -> None:
    """A score that runs a CAM sees the plain library."""
    seen: list[np.ndarray] = []

    class Curious(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.busy = net, False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not torch.is_grad_enabled() and not self.busy:
                self.busy = True
                with torch.enable_grad():
                    seen.append(library.GradCAM(net, [net.first])(x[:1], None))
                self.busy = False
            return self.net(x)

    model = Curious().eval()
    with patched(QUICK):
        library.GradCAM(model, [net.last])(images, TARGETS)
    wanted = library.GradCAM(net, [net.first])(images[:1], None)
    np.testing.assert_allclose(seen[0], wanted, atol=1e-6)


def test_a_task_may_undo_what_its_parent_patched() -> None:
    """Tasks have a copy of the context: both undo the same patch, once."""
    before = state()

    async def undo() -> None:
        unpatch()

    async def parent() -> None:
        patch(QUICK)
        await asyncio.create_task(undo())
        unpatch()

    for _ in range(2):
        asyncio.run(parent())
        assert state() == before
    with patched(QUICK):
        assert state() != before
    assert state() == before


def test_a_closed_patch_that_a_context_remembers_is_closed(
    net: nn.Module, images: torch.Tensor
) -> None:
    theirs = library.GradCAM(net, [net.last])
    plain = theirs(images, TARGETS)
    with patched(QUICK):
        remembered = contextvars.copy_context()
    with ThreadPoolExecutor() as pool:
        entered, done = threading.Event(), threading.Event()

        def elsewhere() -> None:
            with patched("nearest"):
                entered.set()
                done.wait(30)

        other = pool.submit(elsewhere)
        entered.wait(30)
        found = remembered.run(theirs, images, TARGETS)
        done.set()
        other.result()
    np.testing.assert_array_equal(found, plain)


def test_an_interrupted_patch_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = state()

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Copies, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt), patched(QUICK):
            pass
    assert state()[1] == before[1]
    with patched(QUICK):
        assert state() != before
    assert state() == before


def test_a_block_that_is_left_in_another_thread_restores_the_library() -> None:
    """As fixtures and generators may be, which are closed where they were not entered."""
    before = state()
    block = patched(QUICK)
    entered = threading.Thread(target=block.__enter__)
    entered.start()
    entered.join()
    assert state() != before
    with patched("nearest"):
        block.__exit__(None, None, None)
        assert state() != before
    assert state() == before


def test_a_warning_that_is_an_error_does_not_stop_the_restoring() -> None:
    before, original = state(), BaseCAM.aggregate_multi_layers
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(RuntimeWarning, match=r"BaseCAM\.aggregate_multi_layers was replaced"),
        patched(QUICK),
    ):
        BaseCAM.aggregate_multi_layers = lambda self, maps: maps
    BaseCAM.aggregate_multi_layers = original
    assert state() == before


def test_modules_are_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are thousands; on the way back only those that changed."""
    looked: list[Any] = []
    find = _name_bound._found
    monkeypatch.setattr(
        _name_bound,
        "_found",
        lambda module, *wanted: looked.append(module) or find(module, *wanted),
    )
    late = types.ModuleType("late_importer")
    monkeypatch.setitem(sys.modules, "late_importer", late)
    with patched(QUICK):
        assert len(looked) == len(_name_bound._modules())
        looked.clear()
        late.helper = library_image.scale_cam_image
    assert looked == [late]
    assert late.helper is library_image.scale_cam_image


def test_the_helper_is_itself_for_maps_that_are_not_of_the_images(
    net: nn.Module, images: torch.Tensor
) -> None:
    found: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(0)
    maps = {"odd": rng.random((3, 6, 8)), "fine": rng.random((2, 48, 64))}
    channels = rng.random((2, 3, 6, 8)).astype(np.float32)

    class Several(OwnWay):
        def compute_cam_per_layer(self, *args: Any) -> Any:
            size = self.get_target_width_height(images)
            for name, one in maps.items():
                found[name] = scale_cam_image(one.astype(np.float32), size)
            found["channels"] = scale_cam_image(channels.reshape(6, 6, 8), size)
            return super().compute_cam_per_layer(*args)

    wanted = {name: scale_cam_image(m.astype(np.float32), (32, 24)) for name, m in maps.items()}
    with patched(QUICK, raw=True):
        Several(net, [net.last])(images, TARGETS)
    for name, one in wanted.items():
        np.testing.assert_array_equal(found[name], one)
    # Channels of each image lie together: every one keeps its image's scores, and its mass.
    grid = usu_core.CellGrid.even((6, 8), (24, 32))
    phi = QUICK.score_map(images, usu_gradcam.TargetScore(net, TARGETS)).values
    fine = QUICK(torch.from_numpy(channels), score_map=phi, grid=grid)
    np.testing.assert_allclose(found["channels"], fine.reshape(6, 24, 32), rtol=1e-4)


def test_the_helper_drops_what_is_negative_before_it_upsamples(
    net: nn.Module, images: torch.Tensor
) -> None:
    signed = np.random.default_rng(0).standard_normal((2, 6, 8)).astype(np.float32)

    class Signed(OwnWay):
        def compute_cam_per_layer(self, input_tensor: Any, *args: Any) -> Any:
            return [scale_cam_image(signed, self.get_target_width_height(input_tensor))[:, None]]

    with patched("bilinear", scaling="min-max"):
        found = Signed(net, [net.last])(images, TARGETS)
    smooth = usu_core.interpolate(torch.from_numpy(signed)[:, None].clamp(min=0), (24, 32))
    wanted = usu_core.scale_to_unit(smooth[:, 0], "min-max")
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_layers_of_a_patched_meta_method_share_their_scores(
    net: nn.Module, images: torch.Tensor, counted: Any
) -> None:
    cam = library.RefineCAM(net, [net.first, net.last], base_method=library.GradCAM)
    with patched(QUICK):
        cam(images, TARGETS)
    assert counted.images == 2 * 2 + 2 * (1 + 4 + 16)


def test_targets_that_are_no_list_are_refused_under_a_patch(
    net: nn.Module, images: torch.Tensor
) -> None:
    with patched("nearest"), library.GradCAM(net, [net.last]) as cam:
        for targets in (TARGETS[0], [1, 3]):
            with pytest.raises(TypeError, match="Try "):
                cam(images, targets)
        with pytest.raises(ValueError, match="one target per image, got 1 for 2"):
            cam(images, TARGETS[:1])


def test_scores_of_a_patched_method_are_made_in_evaluation_mode(
    net: nn.Module, images: torch.Tensor
) -> None:
    """FinerCAM of the library runs the model itself, in whatever mode it is."""
    cam = library.FinerCAM(net, [net.last], base_method=library.GradCAM)
    modes: list[bool] = []

    def note(module: nn.Module, args: Any) -> None:
        if not torch.is_grad_enabled():  # while images are scored
            modes.append(module.training)

    net.train()
    net.norm.register_forward_pre_hook(note)
    with patched(QUICK):
        cam(images, TARGETS)
    assert modes
    assert not any(modes)
