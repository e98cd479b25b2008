"""The page for Captum users leaves no class out."""

from pathlib import Path

import pytest

from usu_captum import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "captum.md"


@pytest.mark.parametrize("name", METHODS)
def test_every_class_is_named(name: str) -> None:
    assert f"`{name}`" in PAGE.read_text(encoding="utf-8")
