"""Public names do not vanish unnoticed; new ones are written down."""

import importlib
import json
from pathlib import Path

import pytest

SURFACE: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "api_surface.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", SURFACE)
def test_the_public_names_are_those_written_down(module: str) -> None:
    loaded = importlib.import_module(module)
    lost = set(SURFACE[module]) - set(loaded.__all__)
    assert not lost, f"{module} lost {sorted(lost)}: deprecate, then edit api_surface.json"
    new = set(loaded.__all__) - set(SURFACE[module])
    assert not new, f"{module} gained {sorted(new)}: add them to api_surface.json"


@pytest.mark.parametrize("module", SURFACE)
def test_public_names_exist_once_and_are_documented(module: str) -> None:
    loaded = importlib.import_module(module)
    assert len(loaded.__all__) == len(set(loaded.__all__))
    for name in loaded.__all__:
        value = getattr(loaded, name)
        if callable(value) and getattr(value, "__module__", "").startswith("usu_"):
            assert value.__doc__, f"{module}.{name} has no docstring"
