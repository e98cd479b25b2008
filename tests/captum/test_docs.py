"""The pages for Captum users leave no class out."""

from pathlib import Path

import pytest

from usu_captum import METHODS

DOCS = Path(__file__).parents[2] / "docs"
NAMES = ("captum.md", "paths.md", "ranking.md")
PAGES = "".join((DOCS / name).read_text(encoding="utf-8") for name in NAMES)


@pytest.mark.parametrize("name", METHODS)
def test_every_class_is_named(name: str) -> None:
    assert f"`{name}`" in PAGES
