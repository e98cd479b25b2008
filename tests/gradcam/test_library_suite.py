"""What pytorch-grad-cam's own published tests check, with our classes and under a patch.

Re-expressed on small networks: all classes on several kinds of network, batch sizes, sizes and
targets; one input channel; release by ``with``; RefineCAM scored by ARCC; targets of detectors;
projections that leave their argument alone. FinerCAM on few classes is in ``test_meta.py``.
"""

from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as library
import torch
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.metrics.arcc import ARCC
from pytorch_grad_cam.utils import svd_on_activations
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

import usu_gradcam
from usu_core import USU
from usu_gradcam import patched

NAMES = sorted(
    name
    for name, value in vars(library).items()
    if isinstance(value, type) and issubclass(value, BaseCAM)
)


class Residual(nn.Module):
    """A convolution with a shortcut, as in ResNet."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.pool = nn.AvgPool2d(stride, ceil_mode=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)) + self.pool(x))


def resnet() -> tuple[nn.Module, list[int]]:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), Residual(8, 2),
        Residual(8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6),
    ), [3, 4]  # fmt: skip


def vgg() -> tuple[nn.Module, list[int]]:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 6),
    ), [5]  # fmt: skip


@pytest.mark.parametrize("how", ["ours", "patched"])
@pytest.mark.parametrize("network", [resnet, vgg])
@pytest.mark.parametrize("name", NAMES)
def test_all_classes_run(name: str, network: Any, how: str, quick: USU) -> None:
    cls = getattr(library if how == "patched" else usu_gradcam, name)
    options = {"upsampler": quick} if how == "ours" else {}
    model, indices = network()
    layers = [model[i] for i in indices]
    if name == "ShapleyCAM":  # the library's takes one layer only
        layers = layers[:1]
    tolerance = 1.0 if name == "RandomCAM" else 1e-4
    with patched("bilinear") if how == "patched" else nullcontext():
        for (batch, height, width), category, eigen_smooth in product(
            ((2, 32, 32), (1, 32, 40)), (None, 5), (True, False)
        ):
            images = torch.rand(1, 3, height, width).repeat(batch, 1, 1, 1)
            cam = cls(model=model, target_layers=layers, **options)
            cam.batch_size = 4
            fine = cam(
                input_tensor=images,
                targets=None if category is None else [ClassifierOutputTarget(category)] * batch,
                aug_smooth=False,
                eigen_smooth=eigen_smooth,
            )
            assert fine.shape == (batch, height, width)
            assert np.isfinite(fine).all()
            np.testing.assert_allclose(fine[0], fine[-1], atol=tolerance)


@pytest.mark.parametrize("context", [nullcontext(), patched("bilinear")], ids=["ours", "patched"])
def test_one_channel(context: AbstractContextManager[Any], quick: USU, make_net: Any) -> None:
    net = make_net(channels=1).eval()
    with context, usu_gradcam.GradCAM(net, [net.last], upsampler=quick) as cam:
        assert cam(torch.rand(3, 1, 24, 24), targets=None).shape == (3, 24, 24)


def test_released_in_a_loop(net: nn.Module, images: torch.Tensor, quick: USU) -> None:
    before = [list(module._forward_hooks) for module in net.modules()]
    for _ in range(10):
        with usu_gradcam.GradCAM(model=net, target_layers=[net.last], upsampler=quick) as cam:
            cam(images, None)
        assert [list(module._forward_hooks) for module in net.modules()] == before
        assert not cam.activations_and_grads.handles


@pytest.mark.parametrize("base", ["GradCAM", "ScoreCAM", "GradCAMPlusPlus", "EigenCAM", "LayerCAM"])
def test_refine_cam_with_arcc(base: str, quick: USU) -> None:
    model, indices = resnet()
    model.eval()
    images = torch.rand(2, 3, 28, 28)
    targets = [ClassifierOutputTarget(4)] * 2
    cam = usu_gradcam.RefineCAM(
        model, [model[i] for i in indices], base_method=getattr(usu_gradcam, base), upsampler=quick
    )
    fine = cam(input_tensor=images, targets=targets)
    assert fine.shape == (2, 28, 28)
    metric = ARCC(base_method=cam, road_percentiles=[50])
    values = metric(input_tensor=images, grayscale_cams=fine, targets=targets, model=model)
    assert len(values) == 2
    assert np.all((values >= 0) & (values <= 1))


def test_projections_leave_their_argument_alone() -> None:
    maps = np.random.default_rng(0).random((1, 2, 3, 3), np.float32)
    maps[0, 0, 0, 0] = np.nan
    before = maps.copy()
    with patched("usu"):
        svd_on_activations.get_2d_projection(maps)
    np.testing.assert_array_equal(maps, before)
