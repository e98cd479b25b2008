"""The benchmark of seven sources: resuming, strict JSON, and the sums behind it."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gradcam_sources.py"
SETTINGS = {"boxes": 8, "steps": 4}


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("gradcam_sources", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(script: Any, file: str, value: float) -> dict[str, Any]:
    figures = {
        source: {name: dict.fromkeys(script.FIGURES, value) for name in script.UPSAMPLERS}
        for source in script.SOURCES
    }
    return {"model": "resnet18", "file": file, "settings": SETTINGS, "figures": figures}


def test_a_killed_run_goes_on(script: Any, tmp_path: Path) -> None:
    lines = tmp_path / "result.jsonl"
    whole, other = row(script, "a.jpg", 1.0), row(script, "b.jpg", 3.0)
    text = json.dumps(other)
    lines.write_text(f"\n{json.dumps(whole)}\n\n{text[:40]}\n{text}\n")
    assert [one["file"] for one in script.read(lines, SETTINGS)] == ["a.jpg", "b.jpg"]
    assert not list(script.read(lines, {"boxes": 9, "steps": 4}))
    assert not list(script.read(tmp_path / "none.jsonl", SETTINGS))


def test_summary(script: Any) -> None:
    rows = [row(script, "a.jpg", 1.0), row(script, "b.jpg", 3.0)]
    found = script.summary(rows, SETTINGS)
    json.dumps(found, allow_nan=False)
    model = found["models"]["resnet18"]
    assert model["images"] == 2
    assert sorted(model["sources"]) == sorted(script.SOURCES)
    figure = model["sources"]["FullGrad"]["iwmr-mass"]["deletion"]
    assert figure == {"mean": 2.0, "standard_error": pytest.approx(1.0)}
