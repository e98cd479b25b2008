"""With an interpolating upsampler every class is the library's, bit for bit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as library
import torch
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

import usu_gradcam
from usu_gradcam import patched

NAMES = sorted(
    name
    for name, value in vars(library).items()
    if isinstance(value, type) and issubclass(value, BaseCAM)
)
MODES: dict[str, dict[str, bool]] = {
    "plain": {},
    "eigen": {"eigen_smooth": True},
    "aug": {"aug_smooth": True},
}
TARGETS = [ClassifierOutputTarget(1), ClassifierOutputTarget(3)]


def run(cls: Any, net: nn.Module, images: torch.Tensor, several: bool, mode: str, **kw: Any) -> Any:
    """Explain with one or two layers; RandomCAM draws from numpy's global generator."""
    layers = [net.first, net.last] if several else [net.last]
    np.random.seed(0)  # noqa: NPY002
    return cls(net, layers, **kw)(images, TARGETS, **MODES[mode])


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_identical(
    name: str, mode: str, several: bool, net: nn.Module, images: torch.Tensor
) -> None:
    if name == "ShapleyCAM" and several:
        pytest.skip("the library frees its graph after the first layer")
    theirs = run(getattr(library, name), net, images, several, mode)
    ours = getattr(usu_gradcam, name)
    assert np.array_equal(run(ours, net, images, several, mode, upsampler=None), theirs)
    bilinear = run(ours, net, images, several, mode, upsampler="bilinear")
    with patched("bilinear"):
        under_patch = run(getattr(library, name), net, images, several, mode)
    if name == "FullGrad":  # it adds channels up before it resizes, and not after
        np.testing.assert_allclose(bilinear, theirs, atol=1e-6 if mode != "eigen" else 1e-4)
        np.testing.assert_array_equal(under_patch, bilinear)
        return
    assert np.array_equal(bilinear, theirs)
    assert np.array_equal(under_patch, theirs)
    assert bilinear.dtype == theirs.dtype == np.float32


@pytest.mark.parametrize("eigen_smooth", [False, True])
@pytest.mark.parametrize(
    ("name", "options"), [("FinerCAM", {}), ("RefineCAM", {}), ("SESS", {"num_scales": 2})]
)
def test_meta_methods(
    name: str, options: dict[str, Any], eigen_smooth: bool, net: nn.Module, images: torch.Tensor
) -> None:
    layers = [net.first, net.last]
    theirs = getattr(library, name)(net, layers, **options)
    wanted = theirs(images, None, eigen_smooth=eigen_smooth)
    for upsampler in (None, "bilinear"):
        ours = getattr(usu_gradcam, name)(net, layers, upsampler=upsampler, **options)
        assert np.array_equal(ours(images, None, eigen_smooth=eigen_smooth), wanted)
    with patched("bilinear"):
        assert np.array_equal(theirs(images, None, eigen_smooth=eigen_smooth), wanted)


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
@pytest.mark.parametrize("upsampler", [None, "bilinear"])
def test_factorization(upsampler: str | None, net: nn.Module, images: torch.Tensor) -> None:
    def head(vectors: torch.Tensor) -> torch.Tensor:
        return vectors.sum(1, keepdim=True)

    theirs = library.DeepFeatureFactorization(net, net.last, computation_on_concepts=head)
    ours = usu_gradcam.DeepFeatureFactorization(
        net, net.last, computation_on_concepts=head, upsampler=upsampler
    )
    for wanted, found in zip(theirs(images, 3), ours(images, 3), strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


@pytest.mark.parametrize("name", ["GradCAM", "EigenCAM", "LayerCAM"])
def test_volumes(name: str, make_net: Callable[..., nn.Module]) -> None:
    net = make_net(rank=3).eval()
    volume = torch.rand(1, 3, 8, 12, 16)
    wanted = getattr(library, name)(net, [net.last])(volume, None)
    ours = getattr(usu_gradcam, name)(net, [net.last], upsampler=None)
    assert np.array_equal(ours(volume), wanted)


def test_other_interpolations_keep_the_library_s_order(
    net: nn.Module, images: torch.Tensor
) -> None:
    """Nearest: scale the coarse map, repeat it, scale again."""
    fine = usu_gradcam.GradCAM(net, [net.last], upsampler="nearest")(images, TARGETS)
    assert fine.min() == 0.0
    np.testing.assert_allclose(fine.max((1, 2)), 1.0, atol=1e-6)
    blocks = fine.reshape(2, 6, 4, 8, 4)
    assert np.array_equal(blocks, np.broadcast_to(blocks[:, :, :1, :, :1], blocks.shape))
