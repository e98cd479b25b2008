"""Mass from the raw coarse map, one scoring per image, one upsampling per layer."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import pytorch_grad_cam as library
import torch
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

import usu_core
import usu_gradcam
from usu_core import IWMR, USU, CellGrid, MaskedPerturbation, Quadtree, Slic
from usu_gradcam import TargetScore
from usu_gradcam._maps import upsample

TARGETS = [ClassifierOutputTarget(1), ClassifierOutputTarget(3)]
NAMES = sorted(
    name
    for name, value in vars(library).items()
    if isinstance(value, type) and issubclass(value, BaseCAM) and name != "FullGrad"
)


def raw_coarse(name: str, net: nn.Module, images: torch.Tensor, layer: nn.Module) -> np.ndarray:
    """The library's own coarse map, taken before its ReLU and its scaling."""
    taken = []
    theirs = getattr(library, name)

    class Taker(theirs):  # type: ignore[misc,valid-type]
        def get_cam_image(self, *args: Any, **kwargs: Any) -> Any:
            taken.append(super().get_cam_image(*args, **kwargs))
            return taken[-1]

    np.random.seed(0)  # noqa: NPY002
    Taker(net, [layer])(images, TARGETS)
    return np.asarray(taken[0], np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_mass_of_every_cell(name: str, net: nn.Module, images: torch.Tensor, quick: USU) -> None:
    coarse = raw_coarse(name, net, images, net.last)
    np.random.seed(0)  # noqa: NPY002
    cam = getattr(usu_gradcam, name)(net, [net.last], upsampler=quick, raw=True)
    fine = cam(images, TARGETS)
    assert fine.dtype == np.float32
    mean = CellGrid.even((6, 8), (24, 32)).mean(torch.from_numpy(fine)).numpy()
    np.testing.assert_allclose(mean, coarse, atol=1e-6 * np.abs(coarse).max())
    assert fine.reshape(2, 6, 4, 8, 4).std((2, 4)).max() > 0, "nothing was redistributed"


def test_the_map_is_the_operator_s(net: nn.Module, images: torch.Tensor, quick: USU) -> None:
    """Default output: positive part, operator, scaling; each by hand."""
    coarse = torch.from_numpy(raw_coarse("GradCAM", net, images, net.last))
    score = TargetScore(net, TARGETS)
    phi = quick.score_map(images, score).values
    density = usu_core.usu(coarse, phi, temperature=quick.temperature)
    raw = usu_gradcam.GradCAM(net, [net.last], upsampler=quick, raw=True)(images, TARGETS)
    np.testing.assert_allclose(raw, density, rtol=1e-5)
    unit = usu_gradcam.GradCAM(net, [net.last], upsampler=quick)(images, TARGETS)
    np.testing.assert_allclose(unit, usu_core.scale_to_unit(density), rtol=1e-5, atol=1e-7)
    assert float(unit.min()) >= 0
    np.testing.assert_allclose(unit.max((1, 2)), 1.0)


def test_total_convention_sums_to_the_coarse_values(net: nn.Module, images: torch.Tensor) -> None:
    quick = USU(segmenter=Quadtree((2, 4)), convention="total")
    coarse = raw_coarse("HiResCAM", net, images, net.last)
    fine = usu_gradcam.HiResCAM(net, [net.last], upsampler=quick, raw=True)(images, TARGETS)
    np.testing.assert_allclose(fine.sum((1, 2)), coarse.sum((1, 2)), rtol=1e-4)


@pytest.mark.parametrize("name", ["nearest", "bilinear-conserving", "iwmr", "iwmr-mass"])
def test_every_upsampler(name: str, net: nn.Module, images: torch.Tensor) -> None:
    upsampler: Any = name
    if name.startswith("iwmr"):
        prior = "mass" if name == "iwmr-mass" else "uniform"
        upsampler = IWMR(prior=prior, segmenter=Quadtree((2, 4)))
    fine = usu_gradcam.GradCAM(net, [net.last], upsampler=upsampler)(images, TARGETS)
    assert fine.shape == (2, 24, 32)
    assert fine.min() >= 0
    np.testing.assert_allclose(fine.max((1, 2)), 1.0, atol=1e-5)
    raw = usu_gradcam.GradCAM(net, [net.last], upsampler=upsampler, raw=True)(images, TARGETS)
    coarse = raw_coarse("GradCAM", net, images, net.last)
    np.testing.assert_allclose(raw.sum((1, 2)), 16 * coarse.sum((1, 2)), rtol=1e-3)


def test_any_callable_is_an_upsampler(net: nn.Module, images: torch.Tensor) -> None:
    seen: dict[str, Any] = {}

    def repeat(cells: torch.Tensor, **given: Any) -> torch.Tensor:
        seen.update(given)
        return cells.repeat_interleave(4, 2).repeat_interleave(4, 3)

    fine = usu_gradcam.GradCAM(net, [net.last], upsampler=repeat, raw=True)(images, TARGETS)
    np.testing.assert_allclose(
        fine[:, ::4, ::4], raw_coarse("GradCAM", net, images, net.last), rtol=1e-6
    )
    assert seen["image"].shape == images.shape
    everyone = torch.arange(2)
    wanted = net(images).detach()[everyone, torch.tensor([1, 3])]
    torch.testing.assert_close(seen["score"].evaluate(images, everyone, "logit"), wanted)


def test_several_layers_score_once(
    net: nn.Module, images: torch.Tensor, quick: USU, counted: SimpleNamespace
) -> None:
    usu_gradcam.GradCAM(net, [net.last], upsampler=quick)(images, TARGETS)
    one, counted.images = counted.images, 0
    usu_gradcam.GradCAM(net, [net.first, net.last], upsampler=quick)(images, TARGETS)
    assert counted.images == one == 2 + 2 * (1 + 4 + 16)


def test_layers_of_any_scale_have_a_say(net: nn.Module, images: torch.Tensor, quick: USU) -> None:
    layers = [net.first, net.last]
    alone = [usu_gradcam.LayerCAM(net, [one], upsampler=quick)(images, TARGETS) for one in layers]
    both = usu_gradcam.LayerCAM(net, layers, upsampler=quick)(images, TARGETS)
    wanted = usu_core.scale_to_unit(torch.from_numpy(np.mean(alone, axis=0)))
    np.testing.assert_allclose(both, wanted, atol=1e-5)
    raw = [
        usu_gradcam.LayerCAM(net, [one], upsampler=quick, raw=True)(images, TARGETS)
        for one in layers
    ]
    found = usu_gradcam.LayerCAM(net, layers, upsampler=quick, raw=True)(images, TARGETS)
    np.testing.assert_allclose(found, np.mean(raw, axis=0), rtol=1e-5, atol=1e-9)


class TestAugmentation:
    """Six coarse maps, one scoring, one upsampling."""

    def test_equals_six_upsamplings(self, net: nn.Module, images: torch.Tensor, quick: USU) -> None:
        cam = usu_gradcam.GradCAM(net, [net.last], upsampler=quick, raw=True)
        phi = quick.score_map(images, TargetScore(net, TARGETS)).values
        fine = []
        for transform in cam.tta_transforms:
            augmented = transform.augment_image(images)
            coarse = torch.from_numpy(raw_coarse("GradCAM", net, augmented, net.last))[:, None]
            fine.append(quick(transform.deaugment_mask(coarse), score_map=phi)[:, 0])
        assert len(fine) == 6
        wanted = torch.stack(fine).mean(0)
        found = cam(images, TARGETS, aug_smooth=True)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-7)

    def test_scores_once(
        self, net: nn.Module, images: torch.Tensor, quick: USU, counted: SimpleNamespace
    ) -> None:
        cam = usu_gradcam.GradCAM(net, [net.last], upsampler=quick)
        cam(images, TARGETS, aug_smooth=True)
        assert counted.images == 6 * 2 + 2 * (1 + 4 + 16)

    def test_all_copies_explain_the_class_of_the_original(
        self, net: nn.Module, images: torch.Tensor, quick: USU
    ) -> None:
        cam = usu_gradcam.GradCAM(net, [net.last], upsampler=quick)
        classes = net(images).argmax(1).tolist()
        targets = [ClassifierOutputTarget(i) for i in classes]
        np.testing.assert_array_equal(
            cam(images, aug_smooth=True), cam(images, targets, aug_smooth=True)
        )

    @pytest.mark.parametrize("eigen_smooth", [False, True])
    @pytest.mark.parametrize("name", ["FullGrad", "EigenCAM", "ScoreCAM"])
    def test_other_classes(
        self, name: str, eigen_smooth: bool, net: nn.Module, images: torch.Tensor, quick: USU
    ) -> None:
        cam = getattr(usu_gradcam, name)(net, [net.last], upsampler=quick)
        fine = cam(images, TARGETS, aug_smooth=True, eigen_smooth=eigen_smooth)
        assert fine.shape == (2, 24, 32)
        assert np.isfinite(fine).all()

    def test_transforms_that_change_the_size(
        self, net: nn.Module, images: torch.Tensor, quick: USU
    ) -> None:
        import ttach

        cam = usu_gradcam.GradCAM(net, [net.last], upsampler=quick)
        cam.tta_transforms = ttach.Compose([ttach.Rotate90([0, 90])])
        assert cam(images[..., :24], TARGETS, aug_smooth=True).shape == (2, 24, 24)
        keep = SimpleNamespace(augment_image=lambda x: x, deaugment_mask=lambda x: x)
        crop = SimpleNamespace(augment_image=lambda x: x, deaugment_mask=lambda x: x[..., :3])
        cam.tta_transforms = [keep, crop]
        with pytest.raises(ValueError, match="tta_transforms must keep the size"):
            cam(images, TARGETS, aug_smooth=True)

    @pytest.mark.parametrize("how", ["ours", "patched"])
    def test_padding_is_not_flipped_into_the_image(
        self, how: str, net: nn.Module, images: torch.Tensor, quick: USU
    ) -> None:
        import ttach

        def explain(box: Any, transforms: Any = None, **options: Any) -> np.ndarray:
            owner = usu_gradcam if how == "ours" else library
            given = {"upsampler": quick, "raw": True, "box": box}
            cam = owner.GradCAM(net, [net.last], **given if how == "ours" else {})
            cam.tta_transforms = transforms or cam.tta_transforms
            with usu_gradcam.patched(**given):
                return cam(images, TARGETS, aug_smooth=True)

        padded_right, padded_below = (0.0, 0.0, 24.0, 64.0), (0.0, -8.0, 48.0, 40.0)
        match = r"aug_smooth must be False for a box .* got box=.* for \(24, 32\) pixels. Try"
        with pytest.raises(ValueError, match=match):
            explain(padded_right)
        with pytest.raises(ValueError, match=match):
            explain(padded_below, ttach.Compose([ttach.VerticalFlip()]))
        brighter = ttach.Compose([ttach.Multiply([1.0])])
        for box, transforms in ((padded_right, brighter), (padded_below, None)):
            assert np.isfinite(explain(box, transforms)).all()
        with pytest.raises(ValueError, match="box must have 4 numbers, got 6"):
            explain((0, 0, 0, 1, 24, 64))


class TestCalls:
    """A layer's activation and gradient are its own, however often and in what order it runs."""

    class Net(nn.Module):
        """Calls its layers in another order than it names them; one twice, others in vain."""

        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Conv2d(3, 3, 3, padding=1)
            self.first = nn.Conv2d(3, 3, 3, padding=1)
            self.relu, self.idle, self.side = nn.ReLU(), nn.Tanh(), nn.Tanh()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.relu(self.first(x))
            self.side(x)
            return self.relu(self.last(x)).flatten(2).mean(2)

    @pytest.mark.parametrize("how", ["ours", "patched"])
    @pytest.mark.parametrize("name", ["GradCAM", "FinerCAM", "ShapleyCAM"])
    def test_layers_that_are_called_twice(self, how: str, name: str, images: torch.Tensor) -> None:
        net = self.Net().eval()

        def explain(*layers: nn.Module) -> np.ndarray:
            if how == "ours":
                cls = getattr(usu_gradcam, name)
                return cls(net, layers, upsampler="nearest", raw=True)(images, TARGETS[:1] * 2)
            with usu_gradcam.patched("nearest", raw=True):
                return getattr(library, name)(net, layers)(images, TARGETS[:1] * 2)

        if how == "patched" and name == "ShapleyCAM":
            pytest.skip("the library frees its graph after the first layer")
        for layers in ((net.relu, net.last), (net.last, net.relu), (net.last, net.first, net.last)):
            alone = [explain(layer) for layer in layers]
            np.testing.assert_allclose(explain(*layers), np.mean(alone, axis=0), atol=1e-9)
        assert not np.allclose(explain(net.relu), explain(net.last))

    @pytest.mark.parametrize("name", ["GradCAM", "FinerCAM"])
    @pytest.mark.parametrize("wrong", ["idle", "side"])
    def test_the_layer_that_is_wrong_is_named(
        self, wrong: str, name: str, images: torch.Tensor
    ) -> None:
        net = self.Net().eval()
        says = "take part in the forward pass" if wrong == "idle" else "have a gradient"
        for layers in (["last"], ["first", "last"], ["relu"]):
            for i in range(len(layers) + 1):
                named = [getattr(net, layer) for layer in [*layers[:i], wrong, *layers[i:]]]
                cam = getattr(usu_gradcam, name)(net, named, upsampler="nearest")
                with pytest.raises(ValueError, match=rf"target_layers\[{i}\] \(Tanh\) must {says}"):
                    cam(images, TARGETS[:1] * 2)

    def test_full_gradients_have_their_own_biases(self, images: torch.Tensor) -> None:
        class Sorted(self.Net):  # type: ignore[name-defined,misc]
            def __init__(self) -> None:
                super().__init__()
                last = self.last
                del self.last
                self.last = last

        net, ordered = self.Net().eval(), Sorted().eval()
        ordered.load_state_dict(net.state_dict())
        wanted = usu_gradcam.FullGrad(ordered, [], upsampler="nearest")(images, TARGETS[:1] * 2)
        found = usu_gradcam.FullGrad(net, [], upsampler="nearest")(images, TARGETS[:1] * 2)
        np.testing.assert_allclose(found, wanted, atol=1e-6)


class TestFullGrad:
    """Its own maps: channels are scaled and added before anything is resized."""

    def test_upsamples_once_per_layer(
        self, net: nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[tuple[int, ...]] = []
        original = cv2.resize

        def resize(image: Any, *args: Any, **kwargs: Any) -> Any:
            sizes.append(image.shape)
            return original(image, *args, **kwargs)

        monkeypatch.setattr(cv2, "resize", resize)
        library.FullGrad(net, [])(images, TARGETS)
        theirs = sum(size != (24, 32) for size in sizes)
        sizes.clear()
        called: list[int] = []

        def spy(cells: torch.Tensor, **given: Any) -> torch.Tensor:
            called.append(cells.shape[1])
            return usu_core.resolve("bilinear")(cells, image=given["image"])

        ours = usu_gradcam.FullGrad(net, [], upsampler=spy, scaling="min-max")(images, TARGETS)
        assert theirs == 2 * (6 + 6 + 8)  # every channel of the biased layers of both images
        assert called == [1, 1, 1]
        assert all(size == (24, 32) for size in sizes)
        np.testing.assert_allclose(ours, library.FullGrad(net, [])(images, TARGETS), atol=1e-6)

    def test_mass_of_every_layer(self, net: nn.Module, images: torch.Tensor, quick: USU) -> None:
        """A quarter resolution grid divides all layers' grids, so it sees conserved mass."""
        fine, even = (
            usu_gradcam.FullGrad(net, [], upsampler=one, raw=True)(images, TARGETS)
            for one in (quick, "nearest")
        )
        assert np.abs(fine - even).max() > 0.01
        grid = CellGrid.even((6, 8), (24, 32))
        np.testing.assert_allclose(
            grid.mean(torch.from_numpy(fine)), grid.mean(torch.from_numpy(even)), rtol=1e-5
        )

    def test_eigen_smooth(self, net: nn.Module, images: torch.Tensor, quick: USU) -> None:
        cam = usu_gradcam.FullGrad(net, [], upsampler=quick)
        fine = cam(images, TARGETS, eigen_smooth=True)
        assert fine.shape == (2, 24, 32)
        np.testing.assert_allclose(fine.max((1, 2)), 1.0)

    def test_layer_used_twice(self, net: nn.Module, images: torch.Tensor) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.idle = net, nn.Conv2d(3, 3, 1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.net(x)

        cam = usu_gradcam.FullGrad(Twice(), [], upsampler="nearest")
        with pytest.raises(ValueError, match="model must use every convolution"):
            cam(images, TARGETS)


def test_score_cam_masks_are_left_alone(
    net: nn.Module, images: torch.Tensor, quick: USU, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masks multiply the input; sharp masks would change what the method measures."""
    weights = []
    original = library.ScoreCAM.get_cam_weights

    def get_cam_weights(self: Any, *args: Any) -> Any:
        weights.append(original(self, *args))
        return weights[-1]

    monkeypatch.setattr(library.ScoreCAM, "get_cam_weights", get_cam_weights)
    library.ScoreCAM(net, [net.last])(images, TARGETS)
    usu_gradcam.ScoreCAM(net, [net.last], upsampler=quick)(images, TARGETS)
    with usu_gradcam.patched(quick):
        library.ScoreCAM(net, [net.last])(images, TARGETS)
    assert np.array_equal(weights[0], weights[1])
    assert np.array_equal(weights[0], weights[2])


class TestVolumes:
    """Five-dimensional inputs."""

    def test_mass_and_no_overshoot(self, make_net: Callable[..., nn.Module]) -> None:
        net = make_net(rank=3).eval()
        volume = torch.rand(1, 3, 8, 12, 16)
        target = TARGETS[:1]
        coarse = raw_coarse("GradCAM", net, volume, net.last)
        upsampler = USU(segmenter=Quadtree((1, 2)))
        fine = usu_gradcam.GradCAM(net, [net.last], upsampler=upsampler, raw=True)(volume, target)
        mean = CellGrid.even(coarse.shape[1:], (8, 12, 16)).mean(torch.from_numpy(fine))
        np.testing.assert_allclose(mean, coarse, rtol=1e-4, atol=1e-7)
        cell = np.kron(coarse[0], np.ones((4, 4, 4), np.float32))
        assert (fine[0] * cell >= 0).all(), "a pixel left the sign of its cell"

    def test_library_s_overshoot_is_gone(self, make_net: Callable[..., nn.Module]) -> None:
        """A step: the library's splines leave [0, 1], ours does not, clipped or not."""
        from scipy.ndimage import zoom

        step = np.zeros((7, 7, 7), np.float32)
        step[3:] = 1
        assert zoom(step, 4).max() > 1.05
        assert zoom(step, 4).min() < -0.05
        options = usu_gradcam.Options.make("bilinear")
        net, volume = make_net(rank=3).eval(), torch.rand(1, 3, 28, 28, 28)
        (fine,) = upsample(net, options, [step[None, None]], volume, TARGETS[:1])
        assert 0 <= fine.min() <= fine.max() <= 1
        options = usu_gradcam.Options.make(USU(segmenter=Quadtree((1, 2))))
        (fine,) = upsample(net, options, [step[None, None]], volume, TARGETS[:1])
        assert not fine[:, :, :12].any()
        np.testing.assert_allclose(fine.mean(), step.mean(), rtol=1e-5)

    def test_slic_and_augmentation(self, make_net: Callable[..., nn.Module]) -> None:
        net = make_net(rank=3).eval()
        volume = torch.rand(1, 3, 8, 12, 16)
        cam = usu_gradcam.LayerCAM(net, [net.last], upsampler=USU(segmenter=Slic((4, 8))))
        assert cam(volume, aug_smooth=True).shape == (1, 8, 12, 16)


def test_odd_sizes_and_zero_maps(net: nn.Module, quick: USU) -> None:
    images = torch.rand(3, 3, 27, 37)
    fine = usu_gradcam.GradCAM(net, [net.last], upsampler=quick)(images)
    assert fine.shape == (3, 27, 37)
    zero = usu_gradcam.GradCAM(net, [net.last], upsampler=quick)(
        images, [lambda output: 0 * output.sum()] * 3
    )
    assert not zero.any()


def test_slic_default_makes_a_useful_picture(net: nn.Module, images: torch.Tensor) -> None:
    image = torch.nn.functional.interpolate(images[:1], size=(48, 64), mode="bilinear")
    with usu_gradcam.GradCAM(net, [net.last]) as cam:
        mask = cam(image)[0]
    assert float((mask > 0.05).mean()) > 0.1
    picture = show_cam_on_image(image[0].permute(1, 2, 0).numpy(), mask, use_rgb=True)
    assert picture.shape == (48, 64, 3)
    assert picture.std() > 10


class TestScaling:
    """What the maps are divided by."""

    def test_choices(self, net: nn.Module, images: torch.Tensor, quick: USU) -> None:
        raw = usu_gradcam.LayerCAM(net, [net.last], upsampler=quick, raw=True)(images, TARGETS)
        positive = torch.from_numpy(np.maximum(raw, 0))
        for scaling, wanted in (
            ("min-max", usu_core.scale_to_unit(positive, "min-max")),
            ("robust", usu_core.scale_to_unit(positive)),
            (lambda maps: maps.clamp(0, 1) / 2, positive.clamp(0, 1) / 2),
        ):
            cam = usu_gradcam.LayerCAM(net, [net.last], upsampler=quick, scaling=scaling)
            np.testing.assert_allclose(cam(images, TARGETS), wanted, rtol=1e-4, atol=1e-6)

    def test_sharp_maps_stay_visible(self, net: nn.Module, images: torch.Tensor) -> None:
        drop = MaskedPerturbation(mode="drop")
        sharp = USU(temperature=0.05, segmenter=Quadtree((4, 8, 24)), scorer=drop)
        robust, plain = (
            usu_gradcam.LayerCAM(net, [net.last], upsampler=sharp, scaling=scaling)(images, TARGETS)
            for scaling in (None, "min-max")
        )
        assert (robust > 0.1).mean() > 1.5 * (plain > 0.1).mean()

    def test_wrong_shape(self, net: nn.Module, images: torch.Tensor, quick: USU) -> None:
        cam = usu_gradcam.GradCAM(net, [net.last], upsampler=quick, scaling=lambda maps: maps[:, 0])
        with pytest.raises(ValueError, match="scaling must return a tensor of shape"):
            cam(images, TARGETS)


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
class TestFactorization:
    """Concept maps share one score map."""

    def test_mass_and_strongest_concept(
        self, net: nn.Module, images: torch.Tensor, quick: USU
    ) -> None:
        options = {"upsampler": quick, "raw": True}
        with usu_gradcam.DeepFeatureFactorization(net, net.last, **options) as factorize:
            _, fine = factorize(images, 3)
        nearest = usu_gradcam.DeepFeatureFactorization(
            net, net.last, upsampler="nearest", raw=True
        )(images, 3)[1]
        for one, even in zip(fine, nearest, strict=True):
            assert one.shape == (3, 24, 32)
            mean = CellGrid.even((6, 8), (24, 32)).mean(torch.from_numpy(one))
            np.testing.assert_allclose(mean, even[:, ::4, ::4], rtol=1e-4, atol=1e-6)
            assert np.array_equal(one.argmax(0), even.argmax(0))

    def test_interpolation_needs_no_classes(self, images: torch.Tensor) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4, padding=1))
        factorize = usu_gradcam.DeepFeatureFactorization(
            model, model[0], upsampler="nearest", raw=True
        )
        assert factorize(images, 2)[1][0].shape == (2, 24, 32)
        factorize = usu_gradcam.DeepFeatureFactorization(model, model[0])
        with pytest.raises(ValueError, match="targets must be given"):
            factorize(images, 2)

    def test_targets_and_score_functions(
        self, net: nn.Module, images: torch.Tensor, quick: USU
    ) -> None:
        def first(batch: torch.Tensor) -> torch.Tensor:
            return net(batch)[:, 0].softmax(0) * 0 + net(batch).softmax(1)[:, 0]

        by_target = usu_gradcam.DeepFeatureFactorization(net, net.last, upsampler=quick)(
            images, 2, targets=[ClassifierOutputTarget(0)] * 2
        )[1]
        by_score = usu_gradcam.DeepFeatureFactorization(
            net, net.last, upsampler=quick, score_fn=first
        )(images, 2)[1]
        np.testing.assert_allclose(by_score, by_target, atol=1e-3)
        assert 0 <= np.min(by_target) <= np.max(by_target) <= 1


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
@pytest.mark.parametrize("upsampler", ["bilinear", "nearest"])
def test_a_box_is_not_ignored_by_interpolation(
    upsampler: str, net: nn.Module, images: torch.Tensor
) -> None:
    options = {"upsampler": upsampler, "box": (0.0, 0.0, 24.0, 64.0)}
    cam = usu_gradcam.GradCAM(net, [net.last], **options)
    factorize = usu_gradcam.DeepFeatureFactorization(net, net.last, **options)
    with pytest.raises(ValueError, match="grid must be even for interpolation"):
        cam(images)
    with pytest.raises(ValueError, match="grid must be even for interpolation"):
        factorize(images, 2)


def test_box(net: nn.Module, images: torch.Tensor, quick: USU) -> None:
    """The right half of the cells lies beyond the image."""
    cam = usu_gradcam.GradCAM(
        net, [net.last], upsampler=quick, raw=True, box=(0.0, 0.0, 24.0, 64.0)
    )
    fine = cam(images, TARGETS)
    coarse = raw_coarse("GradCAM", net, images, net.last)
    grid = CellGrid.even((6, 4), (24, 32))
    np.testing.assert_allclose(
        grid.mean(torch.from_numpy(fine)), coarse[:, :, :4], rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"upsampler": "ussu"}, ValueError, "upsampler must be one of.*usu"),
        ({"upsampler": USU}, TypeError, "upsampler must be a name or an object"),
        ({"scaling": "max"}, ValueError, "scaling must be one of robust, min-max"),
        ({"raw": 1}, TypeError, "raw must be True or False"),
        ({"raw": True, "scaling": "robust"}, ValueError, "scaling must be None with raw=True"),
        ({"upsampler": None, "raw": True}, ValueError, "upsampler must be given for raw="),
        ({"upsampler": None, "scaling": "robust"}, ValueError, "must be given for scaling="),
        ({"upsampler": None, "box": (0, 0, 1, 1)}, ValueError, "must be given for box="),
        ({"box": (0, 1)}, ValueError, "box must hold"),
        ({"box": (0, 0, float("nan"), 1)}, ValueError, "box must be finite, got"),
        ({"box": "abcd"}, TypeError, "box must hold Python numbers, got 'a'"),
        ({"score_fn": 3}, TypeError, "score_fn must be a function"),
    ],
)
def test_refusals(
    options: dict[str, Any], error: type[Exception], match: str, net: nn.Module
) -> None:
    with pytest.raises(error, match=match):
        usu_gradcam.GradCAM(net, [net.last], **options)
    assert not net.last._forward_hooks


@pytest.mark.parametrize(
    ("layers", "error", "match"),
    [
        (lambda net: net.last, TypeError, "must be a list of modules, got a Conv2d"),
        (lambda net: [], ValueError, "target_layers must name at least one layer"),
        (lambda net: [net.head], ValueError, r"must give a map of the images' rank, 4, got shape"),
    ],
)
def test_layers_that_are_no_maps(
    layers: Any, error: type[Exception], match: str, net: nn.Module, images: torch.Tensor
) -> None:
    with pytest.raises(error, match=match):
        usu_gradcam.GradCAM(net, layers(net))(images, TARGETS)


def test_without_gradients(net: nn.Module, images: torch.Tensor, quick: USU) -> None:
    cam = usu_gradcam.GradCAM(net, [net.last], upsampler=quick)
    wanted = cam(images, TARGETS)
    with torch.no_grad(), pytest.raises(ValueError, match="input_tensor must be differentiable"):
        cam(images, TARGETS)
    net.requires_grad_(False)
    with pytest.raises(ValueError, match=r"Try input_tensor\.requires_grad_"):
        cam(images, TARGETS)
    np.testing.assert_array_equal(cam(images.clone().requires_grad_(), TARGETS), wanted)


def test_default_upsampler_is_usu(net: nn.Module) -> None:
    assert usu_gradcam.GradCAM(net, [net.last]).redistribution.upsampler == usu_core.resolve("usu")
    assert MaskedPerturbation() == usu_core.resolve("usu").scorer


def test_upsamplers_get_images_in_single_precision_and_without_a_graph(
    net: nn.Module, images: torch.Tensor
) -> None:
    seen: list[torch.Tensor] = []

    def repeat(cells: torch.Tensor, *, image: torch.Tensor, **_: Any) -> torch.Tensor:
        seen.append(image)
        return cells.repeat_interleave(4, 2).repeat_interleave(4, 3)

    cam = usu_gradcam.GradCAM(net.bfloat16(), [net.last], upsampler=repeat)
    cam(images.bfloat16().requires_grad_(), TARGETS)
    assert [(one.dtype, one.requires_grad) for one in seen] == [(torch.float32, False)]


def test_raw_full_grad_is_the_sum_behind_the_scaled_one(
    net: nn.Module, images: torch.Tensor, quick: USU
) -> None:
    raw, unit = (
        usu_gradcam.FullGrad(net, [], upsampler=quick, raw=raw)(images, TARGETS)
        for raw in (True, False)
    )
    assert raw.max() > 2  # 23 channels of up to 1 each
    np.testing.assert_allclose(usu_core.scale_to_unit(torch.from_numpy(raw)), unit, rtol=1e-5)


def test_box_of_a_volume(make_net: Callable[..., nn.Module]) -> None:
    """The far half of the cells lies beyond the volume."""
    net, volume = make_net(rank=3).eval(), torch.rand(1, 3, 8, 12, 16)
    upsampler = USU(segmenter=Quadtree((1, 2)))
    cam = usu_gradcam.GradCAM(
        net, [net.last], upsampler=upsampler, raw=True, box=(0, 0, 0, 8, 12, 32)
    )
    coarse = raw_coarse("GradCAM", net, volume, net.last)
    mean = CellGrid.even((2, 3, 2), (8, 12, 16)).mean(torch.from_numpy(cam(volume, TARGETS[:1])))
    np.testing.assert_allclose(mean, coarse[..., :2], rtol=1e-4, atol=1e-7)


def test_bilinear_volumes_are_not_the_library_s_splines(
    make_net: Callable[..., nn.Module],
) -> None:
    from pytorch_grad_cam.utils.image import scale_cam_image

    net, volume = make_net(rank=3).eval(), torch.rand(1, 3, 8, 12, 16)
    fine = usu_gradcam.EigenCAM(net, [net.last], upsampler="bilinear")(volume, TARGETS[:1])
    coarse = scale_cam_image(np.maximum(raw_coarse("EigenCAM", net, volume, net.last), 0))
    assert coarse.std() > 0
    smooth = usu_core.interpolate(torch.from_numpy(coarse)[:, None], (8, 12, 16))
    np.testing.assert_allclose(fine, scale_cam_image(smooth[:, 0].numpy()), atol=1e-5)


def test_shapley_takes_several_layers(net: nn.Module, images: torch.Tensor, quick: USU) -> None:
    layers = [net.first, net.last]
    raw = [
        usu_gradcam.ShapleyCAM(net, [one], upsampler=quick, raw=True)(images, TARGETS)
        for one in layers
    ]
    found = usu_gradcam.ShapleyCAM(net, layers, upsampler=quick, raw=True)(images, TARGETS)
    np.testing.assert_allclose(found, np.mean(raw, axis=0), rtol=1e-4, atol=1e-8)
