"""What the benchmarks share: the data folder, models, images, machine facts and strict JSON."""

import csv
import importlib.util
import json
import os
import platform
import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from usu_core import USU, MaskedPerturbation, Slic

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MODELS = ("mobilenet_v2", "resnet18", "resnet50", "deit_tiny")
SPLITS = ("tuning", "held-out")
DROPS = USU(segmenter=Slic((36, 64, 90)), scorer=MaskedPerturbation(mode="drop"))
"""Scores by what the model loses without each segment, and nothing else: some 140 evaluations."""


def data_folder() -> Path:
    """Return the folder of real models and images, or stop with a clear message."""
    given = os.environ.get("USU_DATA")
    folder = Path(given) if given else ROOT.parent / "shared" / "data"
    if not (folder / "load_models.py").is_file():
        raise SystemExit(
            f"no models and images in {folder}: set USU_DATA to a folder with load_models.py"
        )
    return folder


def data_module() -> Any:
    """Return the data folder's module of loaders: ``imagenet``, ``cifar`` and ``mnist``."""
    path = data_folder() / "load_models.py"
    spec = importlib.util.spec_from_file_location("load_models", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_model(name: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return an ImageNet classifier and its preprocessing of uint8 (N, 3, 224, 224) images.

    On a GPU if there is one, in full single precision.
    """
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, prepare = data_module().imagenet(name)

    def on_device(images: Tensor) -> Tensor:
        result: Tensor = prepare(images.to(device))
        return result

    return model.to(device, memory_format=torch.channels_last), on_device


def image_files(split: str, count: int) -> list[Path]:
    """Return ``count`` evenly spaced files of one half of the images.

    Files are sorted by name; even places are for tuning, odd ones are held out. Defaults were
    chosen on the first half alone.
    """
    files = sorted((data_folder() / "imagenet" / "images").glob("*.jpg"))
    half = files[SPLITS.index(split) :: 2]
    places = np.linspace(0, len(half) - 1, min(count, len(half))).round().astype(int)
    return [half[i] for i in places]


def load_image(path: Path) -> Tensor:
    """Return the central 224 x 224 pixels as uint8 (3, 224, 224)."""
    return central(load_whole(path))


def load_whole(path: Path) -> Tensor:
    """Return all pixels as uint8 (3, H, W)."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def central(pixels: Tensor) -> Tensor:
    """Return the central 224 x 224 of pixels (..., H, W)."""
    top, left = ((side - 224) // 2 for side in pixels.shape[-2:])
    return pixels[..., top : top + 224, left : left + 224]


def environment() -> dict[str, Any]:
    """Return versions and machine facts, for the record."""
    packages = ("torch", "torchvision", "captum", "timm", "numpy", "scikit-image")
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write strict JSON, where NaN and infinity are errors; numbers in a list share a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    # A line break never stands inside a string, so what matches is a list without any.
    text = re.sub(r'\[\n([^"\[\]{}]+)\]', lambda found: f"[{' '.join(found[1].split())}]", text)
    path.write_text(text + "\n", encoding="utf-8")


def short(value: float, digits: int = 6) -> float:
    """Return so many significant digits: no more were measured. Counts stay integers."""
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return what a run that was stopped has measured so far, a record per line."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def append_journal(path: Path, record: dict[str, Any]) -> None:
    """Add one record to a journal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record, allow_nan=False) + "\n")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay rows out in aligned columns, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = []
    for row in (header, ["-" * w for w in widths], *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for documents."""
    lines = (header, ["---"] * len(header), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def emphasised(value: float, gain: float | None) -> str:
    """Return three decimals: bold for a sure gain, italic for a sure loss, plain for ``None``."""
    if gain is None:
        return f"{value:.3f}"
    return f"**{value:.3f}**" if gain > 0 else f"_{value:.3f}_"


def chance(p: float) -> str:
    """Return a probability of chance as tables show it."""
    return "p < 0.001" if p < 5e-4 else f"p {p:.3f}"


def class_names() -> list[str]:
    """Return the 1000 class names, shortened to their first synonym."""
    with (data_folder() / "imagenet" / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = {int(row["class_index"]): row["name"].split(",")[0] for row in rows}
    return [names.get(i, str(i)) for i in range(1000)]
