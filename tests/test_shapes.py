"""The synthetic pictures and the network trained on them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from usu_cli._shapes import CLASSES, balanced_labels, draw_shapes, load_shapes_cnn

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "train_shapes.json"


def test_drawing_is_deterministic_and_in_range() -> None:
    first, second = (draw_shapes([0, 1, 2], np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first.images, second.images)
    assert first.images.shape == (3, 1, 224, 224)
    assert first.images.dtype == np.float32
    assert 0.0 <= first.images.min() < first.images.max() <= 1.0
    assert first.labels.tolist() == [0, 1, 2]


def test_shapes_are_centred_bright_and_of_like_area() -> None:
    labels = np.repeat(np.arange(3), 40)
    shapes = draw_shapes(labels, np.random.default_rng(0), size=112)
    rows, columns = np.mgrid[:112, :112]
    areas = shapes.masks.mean((1, 2))
    for index, mask in enumerate(shapes.masks):
        assert abs(rows[mask].mean() - 55.5) < 2
        assert abs(columns[mask].mean() - 55.5) < 2
        image = shapes.images[index, 0]
        assert image[mask].mean() > image[~mask].mean() + 0.2
    by_class = [areas[labels == kind].mean() for kind in range(3)]
    # The area must not give the class away.
    assert max(by_class) - min(by_class) < 0.04


@pytest.mark.parametrize(("kind", "fullness"), [(0, np.pi / 4), (1, 0.33), (2, 0.5)])
def test_masks_have_the_right_outline(kind: int, fullness: float) -> None:
    """The share of the smallest enclosing centred circle's square that each outline fills."""
    mask = draw_shapes([kind], np.random.default_rng(1)).masks[0]
    rows, columns = np.nonzero(mask)
    radius = np.hypot(rows - 111.5, columns - 111.5).max()
    assert mask.sum() / (2 * radius) ** 2 == pytest.approx(fullness, abs=0.02)


def test_labels_are_balanced() -> None:
    labels = balanced_labels(10, np.random.default_rng(0))
    assert sorted(np.bincount(labels).tolist()) == [3, 3, 4]


def test_shipped_network_is_as_good_as_recorded() -> None:
    model = load_shapes_cnn()
    shapes = draw_shapes([0, 1, 2] * 8, np.random.default_rng(99))
    with torch.inference_mode():
        predicted = model(torch.from_numpy(shapes.images)).argmax(1).numpy()
    assert (predicted == shapes.labels).mean() >= 0.95
    record = json.loads(RESULTS.read_text())
    assert record["classes"] == list(CLASSES)
    assert record["test"]["accuracy"] >= 0.97
    assert record["test"]["background_gradient_share"] < 0.5
    assert not model.training
