"""The four desiderata on real maps: Table 2 of arXiv:2603.16067, with verdicts as measured.

    python -m benchmarks.real_desiderata

Grad-CAM maps (positive part) and segment scores of held-out photographs; each model's first class.
A verdict is the worst image's: satisfied means satisfied on every one.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks._common import (
    MODELS,
    RESULTS,
    environment,
    image_files,
    load_image,
    load_model,
    write_json,
)
from usu_captum import ForwardScore, LayerGradCam, default_layer
from usu_core import USU, Desiderata, desiderata, resolve

UPSAMPLERS = (
    "nearest", "bilinear", "bicubic", "lanczos", "bilinear-conserving", "usu", "iwmr",
    "iwmr-mass", "tilted", "score-map",
)  # fmt: skip
# Verdicts on D1 to D4 and the D1 error in the paper's table, of Grad-CAM on VGG16.
PAPER = {
    "bilinear": ("no, no, no, no", 1.23e-1),
    "bicubic": ("no, no, no, no", 8.65e-1),
    "lanczos": ("no, no, no, no", 2.14e-2),
    "usu": ("yes, yes, yes, yes", 4.95e-7),
    "iwmr": ("no, yes, yes, yes", 3.81e-4),
}
ERRORS = ("completeness", "monotonicity", "calibration", "locality")


def main() -> None:
    """Measure, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["resnet18", "deit_tiny"])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--out", type=Path, default=RESULTS / "real_desiderata.json")
    options = parser.parse_args()
    models = {name: _model(name, options.images) for name in options.models}
    for name, rows in models.items():
        print(f"\n{name}, {options.images} images: mean error, and verdict on every image\n")
        print("| upsampler | D1 | D2 | D3 | D4 |\n|---|---|---|---|---|")
        for upsampler, row in rows.items():
            cells = " | ".join(
                f"{_figure(row[error])} {row['verdicts'][error]}" for error in ERRORS
            )
            print(f"| `{upsampler}` | {cells} |")
    write_json(
        options.out,
        {
            "environment": environment(),
            "images": options.images,
            "paper": PAPER,
            "models": models,
        },
    )


def _model(name: str, count: int) -> dict[str, dict[str, Any]]:
    found: dict[str, list[Desiderata]] = {upsampler: [] for upsampler in UPSAMPLERS}
    for cells, scores in tqdm(_maps(name, count), desc=name, total=count, unit="image"):
        for upsampler in UPSAMPLERS:
            chosen = resolve(upsampler)

            def run(coarse: Tensor, *, score_map: Tensor, chosen: Any = chosen) -> Tensor:
                # Interpolation reads the size off the image, and nothing else of it.
                result: Tensor = chosen(coarse, image=score_map[:, None], score_map=score_map)
                return result

            found[upsampler].append(desiderata(run, cells, scores))
    return {upsampler: _row(rows) for upsampler, rows in found.items()}


def _maps(name: str, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    model, prepare = load_model(name)
    for file in image_files("held-out", count):
        image = prepare(load_image(file)[None])
        with torch.no_grad():
            target = int(model(image).argmax(1))
        cells: Tensor = LayerGradCam(model, default_layer(model, image)[1]).attribute(
            image, target=target, relu_attributions=True, upsampler=lambda coarse, **_: coarse
        )
        scores = USU().score_map(image, ForwardScore(model, target)).values
        yield cells.detach(), scores.clamp(0, 1)


def _row(rows: list[Desiderata]) -> dict[str, Any]:
    row: dict[str, Any] = {"verdicts": {}}
    for i, error in enumerate(ERRORS, start=1):
        values = [getattr(found, error) for found in rows]
        known = [value for value in values if value is not None]
        row[error] = math.fsum(known) / len(known) if known else None
        holds = [found.verdicts()[f"D{i}"] for found in rows]
        row["verdicts"][error] = "yes" if all(holds) else "no" if known else "none"
    return row


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


if __name__ == "__main__":
    main()
