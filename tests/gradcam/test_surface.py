"""What the package exports, and what it imports."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
import types
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as library
import torch
from pytorch_grad_cam.base_cam import BaseCAM
from torch import nn

import usu_gradcam

META = ["FinerCAM", "RefineCAM", "SESS", "DeepFeatureFactorization"]
INSTALLED = [
    name
    for name, value in vars(library).items()
    if isinstance(value, type) and issubclass(value, BaseCAM)
] + [name for name in META if hasattr(library, name)]
MODULES = [
    importlib.import_module(f"usu_gradcam.{found.name}")
    for found in pkgutil.iter_modules(usu_gradcam.__path__)
]


def test_every_class_the_library_has() -> None:
    assert sorted(usu_gradcam.CAMS) == sorted(INSTALLED)
    assert len(INSTALLED) == 20
    for name in INSTALLED:
        ours, theirs = getattr(usu_gradcam, name), getattr(library, name)
        assert issubclass(ours, theirs)
        assert name in usu_gradcam.__all__
        assert ours.__name__ == name
        assert ours.__module__.split(".")[0] == "usu_gradcam"


@pytest.mark.parametrize("name", INSTALLED)
def test_constructors_are_the_library_s_and_more(name: str) -> None:
    theirs = list(inspect.signature(getattr(library, name)).parameters)
    ours = inspect.signature(getattr(usu_gradcam, name)).parameters
    shared = [parameter for parameter in theirs if parameter != "kwargs"]
    assert [p for p in ours if p in shared] == shared
    options = ["upsampler", "scaling", "raw", "box"]
    assert all(ours[p].kind is inspect.Parameter.KEYWORD_ONLY for p in options)
    assert "upsampler" in (getattr(usu_gradcam, name).__doc__ or "")


def test_three_positionals_and_the_library_s_own_arguments(net: nn.Module) -> None:
    for name in INSTALLED:
        layers: Any = net.last if name == "DeepFeatureFactorization" else [net.last]
        getattr(usu_gradcam, name)(net, layers, None)
    assert usu_gradcam.KPCA_CAM(net, [net.last], None, "rbf", 0.5).gamma == 0.5
    assert usu_gradcam.FEM(net, [net.last], k=3).k == 3
    assert usu_gradcam.AblationCAM(net, [net.last], batch_size=2).batch_size == 2


def test_older_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes are built from what exists: hide what 1.5.5 and 1.5.7 added."""
    from usu_gradcam import _cams, _wrappers

    newer = ["ShapleyCAM", "FEM", "FinerCAM", "RefineCAM", "SESS", "SegEigenCAM"]
    for name in newer:
        monkeypatch.delattr(library, name)
    found = _cams._cams()
    assert sorted(found) == sorted(set(INSTALLED) - set(newer))
    usu_gradcam.redistributing.cache_clear()
    assert issubclass(usu_gradcam.redistributing(library.AblationCAM), library.AblationCAM)
    assert len(_wrappers.places()) == 7


def test_redistributing_other_people_s_classes(net: nn.Module, images: torch.Tensor) -> None:
    class Mine(library.GradCAM):
        def get_cam_weights(self, *args: Any) -> Any:
            return abs(super().get_cam_weights(*args))

    ours = usu_gradcam.redistributing(Mine)
    assert ours is usu_gradcam.redistributing(Mine)
    assert ours is usu_gradcam.redistributing(ours)
    assert ours(net, [net.last], upsampler="nearest")(images).shape == (2, 24, 32)
    with pytest.raises(TypeError, match="method must be a subclass of BaseCAM"):
        usu_gradcam.redistributing(library.FinerCAM)


def test_siblings_do_not_know_each_other() -> None:
    code = (
        "import sys, usu_gradcam;"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('usu_captum', 'captum', 'usu_cli')];"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples_run(module: types.ModuleType) -> None:
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testmod(module, extraglobs={"torch": torch}, optionflags=flags)
    assert result.failed == 0


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_one_concept_per_file(module: types.ModuleType) -> None:
    assert len(inspect.getsource(module).splitlines()) <= 400


class Powered(BaseCAM):
    """A CAM of another package, with an argument of its own where the library's is."""

    def __init__(self, net: Any, layers: Any, power: float = 1.0) -> None:
        super().__init__(net, layers)
        self.power = power

    def get_cam_weights(self, *args: Any) -> Any:
        return args[-1].mean((2, 3)) ** self.power


class Passing(library.GradCAM):
    """A CAM of another package that passes on what the library takes."""

    def __init__(self, *args: Any, power: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.power = power


@pytest.mark.parametrize(
    ("cls", "names"), [(Powered, ("net", "layers")), (Passing, ("model", "target_layers"))]
)
def test_other_people_s_constructors(
    cls: Any, names: tuple[str, str], net: nn.Module, images: torch.Tensor
) -> None:
    ours = usu_gradcam.redistributing(cls)
    assert ours(net, [net.last], power=2.0, upsampler="nearest").power == 2.0
    assert ours(net, [net.last]).power == 1.0
    cam = ours(**dict(zip(names, (net, [net.last]), strict=True)), upsampler=None)
    np.testing.assert_array_equal(cam(images, None), cls(net, [net.last])(images, None))
    with pytest.raises(TypeError, match="missing a required argument"):
        ours(net)


def test_other_people_s_classes_know_transformers(images: torch.Tensor) -> None:
    timm = pytest.importorskip("timm")
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5).eval()
    cam = usu_gradcam.redistributing(Powered)(vit, [vit.blocks[-1].norm1], upsampler="nearest")
    assert cam(torch.rand(1, 3, 32, 32), None).shape == (1, 32, 32)

    def first(tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (2, 2))

    class Reshaping(library.GradCAM):
        def __init__(self, net: Any, layers: Any) -> None:
            super().__init__(net, layers, first)

    theirs = usu_gradcam.redistributing(Reshaping)(vit, [vit.blocks[-1].norm1])
    assert theirs.reshape_transform is first


class Doubled(library.GradCAM):
    """A CAM of another package that works on fine maps."""

    def compute_cam_per_layer(self, *args: Any) -> Any:
        return [one**2 for one in super().compute_cam_per_layer(*args)]


class Largest(library.GradCAM):
    """A CAM of another package that joins layers in its own way."""

    def aggregate_multi_layers(self, cam_per_target_layer: Any) -> Any:
        return np.concatenate(cam_per_target_layer, 1).max(1)


class Unsmoothed(library.GradCAM):
    """A CAM of another package that smooths in its own way."""

    def forward_augmentation_smoothing(self, *args: Any) -> Any:
        return self.forward(*args)


@pytest.mark.parametrize("cls", [Doubled, Largest, Unsmoothed])
def test_other_people_s_fine_maps_are_theirs(
    cls: Any, net: nn.Module, images: torch.Tensor
) -> None:
    layers = [net.first, net.last]
    ours = usu_gradcam.redistributing(cls)
    theirs = cls(net, layers)(images, None, aug_smooth=True)
    plain = usu_gradcam.GradCAM(net, layers, upsampler="bilinear")(images, aug_smooth=True)
    assert not np.array_equal(theirs, plain)
    for upsampler in (None, "bilinear"):
        found = ours(net, layers, upsampler=upsampler)(images, aug_smooth=True)
        np.testing.assert_array_equal(found, theirs)
    for options in ({"upsampler": "usu"}, {"upsampler": "bilinear", "raw": True}):
        with pytest.raises(ValueError, match=rf"{cls.__name__}, .* Try usu_gradcam.patched\(\)"):
            ours(net, layers, **options)
