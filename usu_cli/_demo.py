"""``usu demo``: explain pictures whose truth is known, offline."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tqdm import tqdm

from usu_captum import ForwardScore, LayerGradCam
from usu_cli._about import facts
from usu_cli._folder import prepare_report
from usu_cli._maps import Comparison, upsample_all
from usu_cli._pictures import (
    COARSE_COLOURS,
    COLOURS,
    SCORE_COLOURS,
    Panel,
    heat,
    outlined,
    overlay,
    scores,
)
from usu_cli._report import Report, Sheet, Table, write_report
from usu_cli._shapes import CLASSES, ShapesCNN, balanced_labels, draw_shapes, load_shapes_cnn
from usu_cli._table import counted, text_table
from usu_cli._versions import versions
from usu_core import IWMR, USU, AnyUpsampler, Interpolation, ScoreMapOnly, Tilted, metrics

TEMPERATURE: Final = 0.3  # sharper than the default: these shapes score more cleanly than photos
UPSAMPLERS: Final[dict[str, AnyUpsampler]] = {
    "nearest": Interpolation("nearest"),
    "bilinear": Interpolation("bilinear"),
    "usu": USU(TEMPERATURE),
    "iwmr": IWMR(TEMPERATURE, prior="uniform", importance="max"),
    "iwmr-mass": IWMR(TEMPERATURE),
    "tilted": Tilted(TEMPERATURE),
    "score-map": ScoreMapOnly(),
}
GRID: Final = (7, 7)
SEED: Final = 2026  # none of these pictures was drawn for training
_FIGURES: Final = {
    "iou": "IoU",
    "concentration": "concentration",
    "pointing": "pointing",
    "mass_error": "mass error",
    "evaluations": "evaluations",
}
_NOTE: Final = (
    "IoU: overlap of the shape with equally many of the highest pixels. Concentration: share of "
    "the positive mass inside the shape. Pointing: whether the highest pixel lies inside. Mass "
    "error: the largest change of a cell's mass, relative to the largest cell. Evaluations: images "
    "the model was run on for the scores; maps with the same scores share them."
)


def run_demo(*, images: int, out: Path) -> None:
    """Explain ``images`` pictures, print the figures, and write the report into ``out``."""
    rng = np.random.default_rng(SEED)
    labels = balanced_labels(images, rng)
    prepare_report(out, "demo", [_stem(index, int(label)) for index, label in enumerate(labels)])
    torch.manual_seed(SEED)
    model = load_shapes_cnn()
    shapes = draw_shapes(labels, rng)
    sheets: list[Sheet] = []
    records: list[dict[str, Any]] = []
    rounds = tqdm(range(images), desc="explaining", unit="image")
    for index in rounds:
        image = torch.from_numpy(shapes.images[index : index + 1])
        sheet, record = _explain(
            model, image, shapes.masks[index], int(shapes.labels[index]), index
        )
        sheets.append(sheet)
        records.append(record)

    means = {
        name: {
            key: float(np.mean([record["figures"][name][key] for record in records]))
            for key in _FIGURES
        }
        for name in UPSAMPLERS
    }
    area = float(shapes.masks.mean())
    table = _table(means, note=f"{_NOTE} The shapes cover {area:.0%} of the pixels on average.")
    report = Report(
        title="Coarse attribution, redistributed: a demonstration with known truth",
        lead=(
            "A small network tells circles, triangles and squares apart. Grad-CAM at its last "
            f"convolution stage, averaged to a {GRID[0]} by {GRID[1]} grid as a large classifier "
            "would give, says how much each cell matters. Interpolating that grid only blurs it. "
            "USU keeps the mass of every cell and moves it, within the cell, to the segments that "
            "matter most to the network's score where a random half of the others is hidden. IWMR "
            "also moves mass between cells; the tilted map is the smooth one weighed by the same "
            "scores.",
            "The score map is the control: those segment scores alone, at the same cost, without "
            "any attribution.",
            "The outline is the true shape, which no method has seen. "
            f"{COLOURS} {COARSE_COLOURS} {SCORE_COLOURS}",
        ),
        facts={
            "Command": f"usu demo --images {images}",
            "Pictures": f"synthetic shapes, 224 by 224 grey, seed {SEED}, not used in training",
            "Coarse map": f"Grad-CAM, positive part, 28 by 28 averaged to {GRID[0]} by {GRID[1]}",
            "Explained": "the true class",
            "Temperature": f"{TEMPERATURE}, sharper than the default, which is for photographs",
            **facts({"versions": versions()}),
        },
        summary=table,
        sheets=sheets,
    )
    manifest = {
        "command": "demo",
        "settings": {"images": images, "seed": SEED, "grid": GRID, "layer": "stages"},
        "upsamplers": records[0]["upsamplers"],
        "versions": versions(),
        "mean": means,
        "images": [{k: v for k, v in r.items() if k != "upsamplers"} for r in records],
    }
    paths = write_report(report, manifest, out)
    print(text_table(table.header, table.rows))
    print(f"\nMeans over {counted(images, 'picture')}; the shapes cover {area:.0%} of the pixels.")
    pictures = counted(len(sheets), "picture")
    print(f"{pictures}, {paths[-1].name} and the page to open: {paths[-2]}")


def _stem(index: int, label: int) -> str:
    return f"{index + 1:02d}_{CLASSES[label]}"


def _explain(
    model: ShapesCNN, image: torch.Tensor, mask: np.ndarray, label: int, index: int
) -> tuple[Sheet, dict[str, Any]]:
    with torch.no_grad():
        probabilities = model(image).softmax(1)[0]
    fine = LayerGradCam(model, model.stages).attribute(
        image, target=label, upsampler=None, relu_attributions=True
    )
    cells = torch.nn.functional.adaptive_avg_pool2d(fine.detach(), GRID)
    comparison = upsample_all(cells, image, ForwardScore(model, label), UPSAMPLERS)
    figures = {name: _measure(comparison, name, mask) for name in UPSAMPLERS}

    predicted = int(probabilities.argmax())
    title = f"{index + 1}. {CLASSES[label]}"
    sheet = Sheet(
        stem=_stem(index, label),
        title=title,
        note=f"predicted {CLASSES[predicted]}, probability {float(probabilities[predicted]):.3f}",
        panels=_panels(image, mask, cells, comparison, figures),
        table=_table(figures),
    )
    record = {
        "label": CLASSES[label],
        "predicted": CLASSES[predicted],
        "probability": float(probabilities[predicted]),
        "figures": figures,
        "upsamplers": {name: r.config for name, r in comparison.results.items()},
    }
    return sheet, record


def _measure(comparison: Comparison, name: str, mask: np.ndarray) -> dict[str, float]:
    result = comparison.results[name]
    attribution, truth = result.attribution[:, 0].detach(), torch.from_numpy(mask)[None]
    return {
        "iou": float(metrics.matched_area_iou(attribution, truth)),
        "concentration": float(metrics.concentration(attribution, truth)),
        "pointing": float(metrics.pointing_game(attribution, truth)),
        "mass_error": float(result.mass_error[0]),
        "evaluations": comparison.evaluations[name],
    }


def _panels(
    image: torch.Tensor,
    mask: np.ndarray,
    cells: torch.Tensor,
    comparison: Comparison,
    figures: dict[str, dict[str, float]],
) -> list[Panel]:
    grey = np.rint(image[0, 0].numpy() * 255).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=2)
    truth = np.where(mask[..., None], np.uint8(235), np.uint8(20)).repeat(3, axis=2)
    panels = [
        Panel("input", "what the network sees", picture),
        Panel("ground truth", f"{mask.mean():.0%} of the pixels", truth),
        Panel(
            "coarse",
            f"Grad-CAM, {GRID[0]} by {GRID[1]} cells",
            heat(cells[0, 0].numpy(), mask.shape),
        ),
    ]
    *shown, control = UPSAMPLERS
    for name in shown:
        attribution = comparison.results[name].attribution[0, 0].detach().numpy()
        caption = f"IoU {figures[name]['iou']:.2f}, {figures[name]['concentration']:.0%} inside"
        panels.append(Panel(name, caption, outlined(overlay(attribution, picture), mask)))
    (phi,) = comparison.score_maps.values()  # All upsamplers here share it.
    figure = figures[control]
    caption = f"IoU {figure['iou']:.2f}, {figure['concentration']:.0%} inside"
    panels.append(Panel(control, caption, outlined(scores(phi[0].numpy()), mask)))
    return panels


def _table(figures: dict[str, dict[str, float]], note: str = "") -> Table:
    rows = [
        (
            name,
            f"{row['iou']:.3f}",
            f"{row['concentration']:.3f}",
            f"{row['pointing']:.2f}",
            f"{row['mass_error']:.1e}",
            f"{row['evaluations']:.0f}",
        )
        for name, row in figures.items()
    ]
    return Table(("upsampler", *_FIGURES.values()), rows, note)
