"""A tiny classifier and pictures to evaluate it on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from usu_cli import main

SIZE = 64


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with six pictures, masks of four, and the weights of a tiny network."""
    folder = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(0)
    for i in range(6):
        path = folder / "images" / ("a" if i % 2 else "b") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(path)
        if i < 4:
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[8:40, 16:48] = 255
            where = folder / "masks" / path.relative_to(folder / "images")
            where.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(where)
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=5)
    with torch.no_grad():
        model.fc.weight.mul_(30)  # so that the class probabilities depend on the picture
    save_file(model.state_dict(), folder / "tiny.safetensors")
    return folder


@pytest.fixture(scope="session")
def arguments(work: Path) -> Callable[..., list[str]]:
    """Return a function that makes a command line, everything small."""

    def make(out: Path, *more: str | Path, data: Path | None = None) -> list[str]:
        given: list[str | Path] = [
            "evaluate", "--data", data or work / "images", "--model", work / "tiny.safetensors",
            "--arch", "timm:test_resnet", "--size", str(SIZE), "--steps", "4", "--samples", "8",
            "--evaluations", "12", "--out", out,
        ]  # fmt: skip
        return [str(value) for value in (*given, *more)]

    return make


@pytest.fixture
def run(arguments: Callable[..., list[str]]) -> Callable[..., None]:
    """Return a function that runs ``usu evaluate`` in this process."""

    def call(out: Path, *more: str | Path, data: Path | None = None) -> None:
        main(arguments(out, *more, data=data))

    return call
