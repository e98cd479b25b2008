"""``usu explain``: a person's own images and model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from usu_captum import ForwardScore, LayerGradCam
from usu_cli._about import about_all, facts
from usu_cli._asked import classifier_as_asked, find_layer, to_device
from usu_cli._cells import coarse_map
from usu_cli._classes import class_name, find_target
from usu_cli._errors import in_one_line
from usu_cli._folder import prepare_report
from usu_cli._images import read_image, utf8
from usu_cli._maps import Comparison, check_upsamplers, upsample_all
from usu_cli._options import ExplainOptions
from usu_cli._pictures import (
    COARSE_COLOURS,
    COLOURS,
    SCORE_COLOURS,
    Panel,
    heat,
    map_panel,
    scores,
)
from usu_cli._report import Report, Sheet, Table, sheet_stem, write_report
from usu_cli._table import counted, text_table
from usu_cli._versions import versions
from usu_core import resolve
from usu_core.scoring import class_scores

_NOTE = (
    "Mass error: the largest change of a cell's mass, relative to the largest cell. Evaluations: "
    "images the model was run on for the scores; maps with the same scores share them."
)


@dataclass(frozen=True)
class _Subject:
    """One image, what the model says of it, and the coarse map to be upsampled.

    ``top`` holds index, name and probability of the likeliest classes; a model's only output is no
    probability, but a score.
    """

    path: Path
    crop: Image.Image
    inputs: torch.Tensor
    top: list[tuple[int, str, float]]
    target: int
    explained: str
    cells: torch.Tensor


def run_explain(options: ExplainOptions) -> None:
    """Explain every image, print the predictions, and write the report.

    Raises:
        UsageError: if anything named does not exist or does not fit; before any image is explained.
    """
    upsamplers = {name: resolve(name) for name in check_upsamplers(options.upsamplers)}
    images = [read_image(path) for path in options.images]
    stems = [sheet_stem(number, path) for number, path in enumerate(options.images, start=1)]
    prepare_report(options.out, "explain", stems, options.images)
    classifier = classifier_as_asked(options)
    classes, preprocessing = classifier.classes, classifier.preprocessing
    target = None
    if options.target is not None:
        target = find_target(options.target, classifier.outputs, classes)
    layer_name, layer = find_layer(classifier, options.layer)
    device = to_device(classifier.model)

    # All that can still turn out not to fit is done first: it is quick, and scoring is not.
    subjects = []
    for path, image in zip(options.images, images, strict=True):
        crop = preprocessing.crop(image)
        inputs = preprocessing.normalise(crop).to(device)
        with in_one_line(f"{classifier.name} failed on {str(path)!r}"):
            top = _top_classes(classifier.model, inputs, classes)
        chosen = top[0][0] if target is None else target
        with in_one_line(f"layer {layer_name!r} cannot be explained", "give another --layer"):
            cells = coarse_map(
                LayerGradCam(classifier.model, layer), inputs, target=chosen, relu_attributions=True
            )
        subjects.append(
            _Subject(path, crop, inputs, top, chosen, class_name(chosen, classes), cells)
        )

    sheets: list[Sheet] = []
    records: list[dict[str, Any]] = []
    for subject in tqdm(subjects, desc="explaining", unit="image"):
        score = ForwardScore(classifier.model, subject.target)
        with in_one_line(f"the map of {str(subject.path)!r} cannot be upsampled"):
            comparison = upsample_all(subject.cells, subject.inputs, score, upsamplers)
        sheets.append(_sheet(len(sheets) + 1, subject, comparison))
        records.append(_record(subject, comparison))

    settings = {
        "model": classifier.name,
        "layer": layer_name,
        "target": "each image's top-1" if target is None else class_name(target, classes),
        "preprocessing": asdict(preprocessing),
    }
    _write(sheets, records, settings, comparison, options.out)


def _write(
    sheets: Sequence[Sheet],
    records: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    last: Comparison,
    out: Path,
) -> None:
    """Write the report on all images and print what it says about each in short."""
    report = Report(
        title=f"Grad-CAM of {settings['model']}, redistributed",
        lead=(
            f"Grad-CAM at layer {settings['layer']} gives one value per cell of a coarse grid, "
            "which upsamplers bring to the pixels.",
            about_all(last.results),
            " ".join((COLOURS, COARSE_COLOURS, SCORE_COLOURS)[: 3 if last.score_maps else 2]),
        ),
        facts=facts({**settings, "versions": versions()}),
        sheets=sheets,
    )
    manifest = {
        "command": "explain",
        "settings": settings,
        "upsamplers": {name: result.config for name, result in last.results.items()},
        "versions": versions(),
        "images": records,
    }
    paths = write_report(report, manifest, out)
    for sheet in sheets:
        print(f"{sheet.title}: {sheet.note}")
        print(text_table(sheet.table.header, sheet.table.rows), end="\n\n")
    pictures = counted(len(sheets), "picture")
    print(f"{pictures}, {paths[-1].name} and the page to open: {paths[-2]}")


def _top_classes(
    model: nn.Module, inputs: torch.Tensor, classes: Sequence[str] | None
) -> list[tuple[int, str, float]]:
    """Return index, name and probability of the five likeliest classes, or the only output."""
    with torch.no_grad():
        scores = class_scores(model(inputs))[0]
    top = scores.topk(min(5, len(scores)))
    return [
        (index, class_name(index, classes), probability)
        for index, probability in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


def _sheet(number: int, subject: _Subject, comparison: Comparison) -> Sheet:
    picture = np.asarray(subject.crop)
    said = [_in_words(subject, name, value) for _, name, value in subject.top]
    coarse = subject.cells[0, 0].cpu().numpy()
    h, w = coarse.shape
    panels = [
        Panel("input", said[0] if len(said) == 1 else f"top-1: {said[0]}", picture),
        Panel("coarse", f"Grad-CAM, {h} by {w} cells", heat(coarse, picture.shape[:2])),
    ]
    rows = []
    for name, result in comparison.results.items():
        evaluations = comparison.evaluations[name]
        caption = counted(evaluations, "evaluation") if evaluations else "no evaluations"
        attribution = result.attribution[0, 0].detach().cpu().numpy()
        panels.append(map_panel(name, caption, attribution, picture))
        rows.append((name, f"{float(result.mass_error[0]):.1e}", str(evaluations)))
    for name, phi in comparison.score_maps.items():
        panels.append(Panel("scores", f"behind {name}, 0 to 1", scores(phi[0].cpu().numpy())))
    return Sheet(
        stem=sheet_stem(number, subject.path),
        title=f"{utf8(subject.path.name)}: {subject.explained}",
        note=f"predicted: {', '.join(said)}",
        panels=panels,
        table=Table(("upsampler", "mass error", "evaluations"), rows, _NOTE),
    )


def _in_words(subject: _Subject, name: str, value: float) -> str:
    return f"{name} {value:.1%}" if len(subject.top) > 1 else f"{name} has the score {value:.4g}"


def _record(subject: _Subject, comparison: Comparison) -> dict[str, Any]:
    kind = "probability" if len(subject.top) > 1 else "score"
    return {
        "image": utf8(str(subject.path)),
        "target": {"index": subject.target, "name": subject.explained},
        "grid": list(subject.cells.shape[-2:]),
        "top": [{"index": i, "name": name, kind: value} for i, name, value in subject.top],
        "figures": {
            name: {
                "mass_error": float(result.mass_error[0]),
                "evaluations": comparison.evaluations[name],
            }
            for name, result in comparison.results.items()
        },
    }
