"""The documents: their examples run as they stand, and nothing they point to is missing."""

import contextlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_example_runs(page: Path) -> None:
    torch.manual_seed(0)
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of timm, while it is imported
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.S | re.M):
            # Blank lines, so that a traceback points into the page.
            line = text[: block.start()].count("\n") + 1
            exec(compile("\n" * line + block[1], str(page), "exec"), names)  # noqa: S102


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_everything_linked_is_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            name, _, heading = link.partition("#")
            target = page.parent / name if name else page
            assert target.is_file(), link
            assert not heading or heading in headings(target), link


def headings(page: Path) -> set[str]:
    """Return what the headings of a page are linked by."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in found}


def test_there_are_examples_to_run() -> None:
    found = {
        name: page.read_text(encoding="utf-8").count("\n```python\n")
        for name, page in zip(NAMES, PAGES, strict=True)
    }
    assert found["README.md"] >= 2
    assert found["docs/captum.md"] >= 10
    assert found["docs/gradcam.md"] >= 7
