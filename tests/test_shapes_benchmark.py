"""The tables of synthetic shapes: training, maps, figures and the page, on small pictures."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks._shapes_maps import GRIDS, ROWS, Scores, coarse_maps, fine_maps, truth_cells
from benchmarks._shapes_measures import MEASURES, best_iou, measure, summarise
from benchmarks._shapes_networks import ShapesMLP, enlarged, turned
from benchmarks._shapes_pages import markdown
from benchmarks._shapes_patterns import PATTERNS, draw_patterns, pattern_labels
from benchmarks._shapes_training import Recipe, Training, train
from benchmarks.shapes_tables import held_out_pictures
from usu_cli._shapes import ShapesCNN, draw_shapes
from usu_core import metrics

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "shapes_tables.json"
IOU, MATCHED, _, CONCENTRATION, POINTING, NEAR = range(len(MEASURES))


def small_training(penalty: float) -> Training:
    recipe = Recipe(((14, 20, 5e-3),), penalty, images=100, augmentation=lambda i, m: (i, m))
    return train(lambda: ShapesMLP(14), recipe)


def test_training_learns_by_seed_and_for_the_right_reasons() -> None:
    vanilla, again, right = (small_training(penalty) for penalty in (0.0, 0.0, 10.0))
    losses = [figures["loss"] for figures in vanilla.curve]
    assert losses[-1] < losses[0] - 0.1
    key = "layers.1.weight"
    assert torch.equal(vanilla.model.state_dict()[key], again.model.state_dict()[key])
    share = "background_gradient_share"
    assert right.test[share] < vanilla.test[share] - 0.02


def test_figures_are_those_of_saved_weights() -> None:
    weights = small_training(0.0).model.state_dict()
    assert all(torch.equal(tensor, tensor.half().float()) for tensor in weights.values())


def test_enlarged_network_sees_block_means() -> None:
    torch.manual_seed(0)
    small, images = ShapesMLP(14), torch.rand(3, 1, 28, 28)
    means = torch.nn.functional.avg_pool2d(images, 2)
    torch.testing.assert_close(enlarged(small, 28)(images), small(means))
    with pytest.raises(ValueError, match="multiple of 14"):
        enlarged(small, 20)


def test_turning_keeps_picture_and_mask_together() -> None:
    torch.manual_seed(0)
    masks = torch.from_numpy(draw_shapes([0, 1, 2], np.random.default_rng(0), size=64).masks)
    images, moved = turned(masks[:, None].float(), masks)
    assert ((images[:, 0] > 0.5) == moved).float().mean() > 0.99
    assert (moved != masks).float().mean() > 0.01


def test_patterns_are_bright_where_their_mask_is() -> None:
    drawn, again = (
        draw_patterns(range(len(PATTERNS)), np.random.default_rng(2), size=64) for _ in range(2)
    )
    assert np.array_equal(drawn.images, again.images)
    for image, mask in zip(drawn.images[:, 0], drawn.masks, strict=True):
        assert 0.1 < mask.mean() < 0.5
        assert image[mask].mean() > image[~mask].mean() + 0.15
    labels = pattern_labels(11, np.random.default_rng(0))
    assert sorted(np.bincount(labels).tolist()) == [2, 2, 2, 2, 3]


def test_more_pictures_keep_the_first() -> None:
    few, more = held_out_pictures(2), held_out_pictures(7)
    assert len(few.labels) == 2
    assert len(more.labels) == 7
    assert np.array_equal(few.images, more.images[:2])
    assert sorted(more.labels[:3].tolist()) == [0, 1, 2]


def test_best_iou() -> None:
    mask = torch.tensor([[True, True, False, False]])
    assert best_iou(torch.tensor([[9.0, 5.0, 4.0, 1.0]]), mask).item() == 1.0
    # Tied pixels cannot be parted: three of which two are right, or one of which one is.
    assert best_iou(torch.tensor([[4.0, 2.0, 2.0, 1.0]]), mask).item() == pytest.approx(2 / 3)
    assert best_iou(torch.ones(1, 4), mask).item() == 0.5
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(20, 30, generator=generator)
    masks = torch.rand(20, 30, generator=generator) > 0.6
    best = best_iou(maps, masks)
    assert bool((best >= metrics.matched_area_iou(maps, masks) - 1e-6).all())
    assert bool((best >= metrics.threshold_iou(maps, masks, (0.5,))[:, 0] - 1e-6).all())


def test_pointing_near_the_shape() -> None:
    mask = torch.zeros(80, 80, dtype=torch.bool)
    mask[30:50, 30:50] = True
    maps = {name: torch.zeros(1, 80, 80) for name in ("inside", "near", "far")}
    maps["inside"][0, 40, 40] = maps["near"][0, 40, 64] = maps["far"][0, 40, 66] = 1.0
    found = {name: (row[POINTING], row[NEAR]) for name, row in measure(maps, mask).items()}
    assert found == {"inside": (1.0, 1.0), "near": (0.0, 1.0), "far": (0.0, 0.0)}


@pytest.mark.parametrize("side", GRIDS)
def test_oracles_reach_the_truth(side: int) -> None:
    shapes = draw_shapes([1], np.random.default_rng(5), size=112)
    image, mask = torch.from_numpy(shapes.images), torch.from_numpy(shapes.masks[0])
    kinds = {kind for kind, _ in ROWS.values()}
    scores = Scores({kind: mask[None].float() for kind in kinds}, dict.fromkeys(kinds, 0))
    found = measure(fine_maps(truth_cells(mask, side), image, scores), mask)
    assert set(found) == {*ROWS, "random"}
    for name in ("oracle-iwmr", "oracle-iwmr-mass", "oracle-usu"):
        assert found[name][IOU] == found[name][MATCHED] == 1.0
        assert found[name][CONCENTRATION] > 0.98
        assert found[name][POINTING] == 1.0
    assert found["bilinear"][IOU] < 0.97
    assert found["random"][IOU] < 0.3


def test_coarse_maps_are_means_of_the_gradient() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 1, 56, 56)
    found = coarse_maps(ShapesMLP(56), image, 1)
    assert list(found) == ["gradient"]
    means = [cells.mean().item() for cells in found["gradient"].values()]
    assert means == pytest.approx([means[0]] * len(GRIDS))
    assert means[0] > 0
    assert set(coarse_maps(ShapesCNN().eval(), image, 1)) == {"gradient", "grad-cam"}


def test_summary_compares_with_bilinear() -> None:
    base = np.random.default_rng(0).uniform(0.2, 0.4, (8, len(MEASURES)))
    images = [
        {
            "bilinear": row.tolist(),
            "same": row.tolist(),
            "higher": (row + 0.25).tolist(),
            "perfect": [1.0] * len(MEASURES),
        }
        for row in base
    ]
    found = summarise(images)
    json.dumps(found, allow_nan=False)
    assert "against bilinear" not in found["bilinear"]["best_iou"]
    assert found["same"]["pointing"]["against bilinear"]["p"] == 1.0
    higher = found["higher"]["best_iou"]["against bilinear"]
    assert higher["gain"] == pytest.approx(0.25)
    assert higher["low"] == higher["high"] == higher["gain"]
    assert higher["p"] < 0.05
    perfect = found["perfect"]["best_iou"]
    assert (perfect["mean"], perfect["error"]) == (1.0, 0.0)
    against = perfect["against bilinear"]
    assert 0.5 < against["low"] < against["gain"] < against["high"] < 0.9


def test_page_shows_the_committed_result() -> None:
    tables = markdown(json.loads(RESULT.read_text(encoding="utf-8"))).split("\n\n")
    page = (ROOT / "docs" / "shapes.md").read_text(encoding="utf-8")
    shown = re.findall(r"(?:^\|.*\n)+", page, re.M)
    assert len(shown) >= 6
    for table in shown:
        assert table.strip() in tables, table


def test_result_has_the_order_of_the_paper() -> None:
    networks = json.loads(RESULT.read_text(encoding="utf-8"))["networks"]
    for name in ("rrr-cnn", "rrr-mlp"):
        assert networks[name]["training"]["test"]["accuracy"] > 0.95
        maps = networks[name]["maps"]["gradient"]["7"]
        for measured in ("best_iou", "concentration"):
            order = [maps[row][measured]["mean"] for row in ("bilinear", "oracle-usu")]
            assert order == sorted(order)
