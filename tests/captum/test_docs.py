"""The page for Captum users runs as it stands."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

from usu_captum import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "captum.md"


def test_every_example_runs() -> None:
    torch.manual_seed(0)
    text = PAGE.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.S | re.M))
    assert len(blocks) >= 10
    names: dict[str, object] = {}
    for block in blocks:
        line = text[: block.start()].count("\n") + 1
        # Blank lines, so that a traceback points into the page.
        code = compile("\n" * line + block[1], str(PAGE), "exec")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, names)  # noqa: S102


@pytest.mark.parametrize("name", METHODS)
def test_every_class_is_named(name: str) -> None:
    assert f"`{name}`" in PAGE.read_text(encoding="utf-8")


def test_pictures_are_there() -> None:
    for picture in re.findall(r"\]\((images/.*?)\)", PAGE.read_text(encoding="utf-8")):
        assert (PAGE.parent / picture).stat().st_size > 10_000, picture
