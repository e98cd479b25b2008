"""The how-to page: its examples run, its pictures exist."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gradcam.md"


def test_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 7
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of timm, while it is imported
        for number, block in enumerate(blocks):
            exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)  # noqa: S102
    printed = capsys.readouterr().out
    assert "targets must hold one target per image, got 0 for 1 images" in printed
    assert "TokenReshape(height=4, width=4, prefix=1)" in printed
    assert names["overlay"].shape == (64, 64, 3)
    assert names["tokens"].shape == (1, 64, 64)


def test_pictures_exist() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", PAGE.read_text())
    assert len(pictures) == 2
    for picture in pictures:
        assert (PAGE.parent / picture).stat().st_size > 1000
