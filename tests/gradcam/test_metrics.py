"""The library's metrics take our maps: they need float32 in [0, 1]."""

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics import cam_mult_image, road
from pytorch_grad_cam.metrics.arcc import ARCC, Coherency, Complexity
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
)
from torch import nn

import usu_gradcam
from usu_core import USU

TARGETS = [ClassifierOutputTarget(1), ClassifierOutputSoftmaxTarget(3)]


@pytest.fixture(params=["usu", "iwmr-mass", "nearest"])
def cam(request: pytest.FixtureRequest, net: nn.Module, quick: USU) -> usu_gradcam.Redistributed:
    upsampler = quick if request.param == "usu" else request.param
    return usu_gradcam.GradCAM(net, [net.last], upsampler=upsampler)


@pytest.mark.parametrize(
    "metric",
    [
        cam_mult_image.CamMultImageConfidenceChange(),
        cam_mult_image.DropInConfidence(),
        cam_mult_image.IncreaseInConfidence(),
        road.ROADMostRelevantFirst(percentile=75),
        road.ROADLeastRelevantFirst(percentile=75),
        road.ROADMostRelevantFirst(percentile="auto"),
        road.ROADCombined(percentiles=[20, 80]),
    ],
    ids=lambda metric: type(metric).__name__,
)
def test_metrics(
    metric: object, cam: usu_gradcam.Redistributed, net: nn.Module, images: torch.Tensor
) -> None:
    values = metric(images, cam(images, TARGETS), TARGETS, net)  # type: ignore[operator]
    assert values.shape == (2,)
    assert np.isfinite(values).all()


def test_arcc(cam: usu_gradcam.Redistributed, net: nn.Module, images: torch.Tensor) -> None:
    fine = cam(images, TARGETS)
    complexity = Complexity()(fine)
    assert ((complexity > 0) & (complexity < 1)).all()
    coherency = Coherency()(images, fine, TARGETS, net, cam)
    assert ((coherency >= 0) & (coherency <= 1)).all()
    values = ARCC(cam, road_percentiles=[50])(images, fine, TARGETS, net)
    assert ((values >= 0) & (values <= 1)).all()
