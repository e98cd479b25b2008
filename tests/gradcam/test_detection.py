"""Detectors resize and pad their input: an explicit content box puts the cells where they are."""

from typing import Any

import pytest
import torch
from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget
from pytorch_grad_cam.utils.reshape_transforms import fasterrcnn_reshape_transform
from torch import nn

import usu_gradcam
from usu_core import CellGrid
from usu_gradcam import detector_box

SIZE, CELLS, STRIDE = (100, 130), (3, 4), 64


@pytest.fixture(scope="module")
def detector() -> Any:
    """A Faster R-CNN whose backbone is one convolution per level; 'pool' has stride 64."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    class Pyramid(nn.Module):
        out_channels = 8

        def __init__(self) -> None:
            super().__init__()
            self.levels = nn.ModuleDict(
                {
                    "0": nn.Conv2d(3, 8, 33, stride=32, padding=16),
                    "pool": nn.Conv2d(3, 8, 65, stride=64, padding=32),
                }
            )

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {name: level(x) for name, level in self.levels.items()}

    torch.manual_seed(0)
    model = FasterRCNN(
        Pyramid(),
        num_classes=3,
        min_size=160,
        max_size=256,
        rpn_anchor_generator=AnchorGenerator(((32,), (64,)), ((1.0,),) * 2),
        box_detections_per_img=5,
        box_score_thresh=0.0,
        rpn_post_nms_top_n_test=20,
    )
    return model.eval()


def test_box_of_a_padded_map(detector: Any) -> None:
    top, left, bottom, right = detector_box(detector, SIZE, CELLS, STRIDE)
    assert (top, left) == (0.0, 0.0)
    # 100 x 130 becomes 160 x 208, is padded to 160 x 224, and covered by 3 x 4 cells of 64.
    assert bottom == pytest.approx(192 * 100 / 160)
    assert right == pytest.approx(256 * 130 / 208)


def test_cells_are_where_the_network_looks(detector: Any) -> None:
    """Measured: how far apart two neighbouring cells look, against their distance in a grid."""
    seen = []
    for column in (1, 2):  # the others look beyond the image
        image = torch.rand(1, 3, *SIZE).requires_grad_()
        batch, _ = detector.transform([image[0]])
        level = detector.backbone.levels["pool"](batch.tensors)
        assert tuple(level.shape[2:]) == CELLS
        level[0, :, 1, column].pow(2).sum().backward()
        assert image.grad is not None
        strength = image.grad[0].abs().sum((0, 1))
        seen.append(float((strength * torch.arange(SIZE[1])).sum() / strength.sum()))

    def apart(grid: CellGrid) -> float:
        first, second = (
            (grid.labels() == CELLS[1] + column).nonzero()[:, 1].float().mean() for column in (1, 2)
        )
        return float(second - first)

    measured = seen[1] - seen[0]
    box = detector_box(detector, SIZE, CELLS, STRIDE)
    assert abs(apart(CellGrid.box(CELLS, SIZE, box)) - measured) < 1.0
    assert abs(apart(CellGrid.even(CELLS, SIZE)) - measured) > 5.0


def test_mass_lands_in_the_boxed_cells(detector: Any, quick: Any) -> None:
    image = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        found = detector(image)[0]
    targets = [
        FasterRCNNBoxScoreTarget(
            labels=found["labels"][:2].tolist(),
            bounding_boxes=[box.numpy() for box in found["boxes"][:2]],
        )
    ]
    box = detector_box(detector, SIZE, CELLS, STRIDE)
    maps = {}
    for name, upsampler in (("boxed", quick), ("coarse", lambda cells, **_: cells)):
        cam = usu_gradcam.EigenCAM(
            detector,
            [detector.backbone],
            fasterrcnn_reshape_transform,
            upsampler=upsampler,
            raw=True,
            box=box,
        )
        maps[name] = torch.from_numpy(cam(image, targets))
    grid = CellGrid.box(CELLS, SIZE, box)
    mean, sizes = grid.mean(maps["boxed"]), grid.sizes()
    torch.testing.assert_close(
        mean[:, sizes > 0], maps["coarse"][:, sizes > 0], rtol=1e-4, atol=1e-5
    )
    with_scaling = usu_gradcam.EigenCAM(
        detector, [detector.backbone], fasterrcnn_reshape_transform, upsampler=quick, box=box
    )
    assert with_scaling(image, targets).shape == (1, *SIZE)


def test_score_function_for_a_detector(detector: Any, quick: Any) -> None:
    def best(batch: torch.Tensor) -> torch.Tensor:
        return torch.stack([one["scores"].max() for one in detector(batch)])

    cam = usu_gradcam.EigenCAM(
        detector,
        [detector.backbone],
        fasterrcnn_reshape_transform,
        upsampler=quick,
        score_fn=best,
    )
    assert cam(torch.rand(1, 3, *SIZE)).shape == (1, *SIZE)


def test_refusals(detector: Any) -> None:
    with pytest.raises(ValueError, match="cells must be those of stride 64 in the padded image"):
        detector_box(detector, SIZE, (5, 5), STRIDE)
    with pytest.raises(TypeError, match="model must be a torchvision detector"):
        detector_box(nn.Linear(1, 1), SIZE, CELLS, STRIDE)


def test_each_side_of_a_box_has_its_own_scale(detector: Any) -> None:
    # 100 x 133 becomes 160 x 212: 1.6 and 212 / 133, as sides are cut to whole pixels.
    _, _, bottom, right = detector_box(detector, (100, 133), CELLS, STRIDE)
    assert bottom == pytest.approx(192 * 100 / 160)
    assert right == pytest.approx(256 * 133 / 212)
    assert right != pytest.approx(256 * 100 / 160)


def test_the_box_is_that_of_evaluation(detector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training, a detector with several sizes draws one of them."""
    monkeypatch.setattr(detector.transform, "min_size", (64, 96, 128, 160))
    try:
        detector.train()
        found = {detector_box(detector, SIZE, CELLS, STRIDE) for _ in range(8)}
        assert detector.transform.training
    finally:
        detector.eval()
    assert found == {detector_box(detector, SIZE, CELLS, STRIDE)}
