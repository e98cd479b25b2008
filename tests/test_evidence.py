"""Tables of the page on the evidence: they come from the committed results, and are right."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _grid_tables, evidence
from benchmarks._common import RESULTS, write_json
from benchmarks._grid import cams, publish, published
from usu_cli.evaluate import Summary, _tables
from usu_cli.evaluate._journal import Journal, Record

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "evidence.md"
LOW = {"bilinear": 0.3, "usu": 0.2, "iwmr-mass": 0.4, "tilted": 0.3}


def rows(text: str) -> set[tuple[str, ...]]:
    """Return the rows of all tables; a map's name is code on the page where it is in print."""
    lines = [line.strip("| ").replace("`", "") for line in text.splitlines() if line[:1] == "|"]
    return {tuple(cell.strip() for cell in line.split(" |")) for line in lines if line[:3] != "---"}


@pytest.fixture
def summaries(tmp_path: Path) -> dict[str, Summary]:
    """One model: deletion and insertion of four upsamplers of Grad-CAM, on 30 images."""
    with Journal(tmp_path) as journal:
        for image in range(30):
            for name, value in LOW.items():
                noise = image * image / 1e5 if name != "tilted" else image / 1e4
                for metric, shift in (("deletion", 0.0), ("insertion", 0.5)):
                    place: Any = (f"{image}.jpg", "GradCAM", name, metric)
                    journal.append([Record(*place, value + noise + shift, 1, 5)])
    written = publish({"net": tmp_path}, ("bilinear",), tmp_path / "result.json")
    assert written["net"].maps == tuple(("GradCAM", name) for name in LOW)
    return published(tmp_path / "result.json")


def test_a_result_is_read_as_it_was_written(summaries: dict[str, Summary]) -> None:
    summary = summaries["net"]
    assert summary.images == 30
    assert summary.metrics == ("deletion", "insertion")
    assert summary.evaluations["GradCAM", "usu"] == 5
    assert summary.mean("deletion", ("GradCAM", "usu")) == pytest.approx(0.2 + 0.0029, abs=1e-4)
    assert summary.values["deletion", ("GradCAM", "usu")]["10.jpg"] == pytest.approx(0.201)
    assert len(summary.comparisons) == 6
    (usu,) = [c for c in summary.comparisons if (c.metric, c.subject[1]) == ("deletion", "usu")]
    assert usu.result.images == 30
    assert usu.result.gain == pytest.approx(0.1)
    assert usu.holm < 1e-4


def test_marks_and_counts(summaries: dict[str, Summary]) -> None:
    """Lower is better in deletion, higher in insertion; usu is lower in both."""
    maps = _grid_tables.maps_of(summaries)
    table = rows(_grid_tables.means(summaries, ("deletion", "insertion"), maps, "bilinear"))
    assert ("deletion / insertion", "net, 30") in table
    assert ("GradCAM, usu", "**0.203** / _0.703_") in table
    assert ("GradCAM, iwmr-mass", "_0.403_ / **0.903**") in table
    assert ("GradCAM, bilinear", "0.303 / 0.803") in table
    counts = rows(_grid_tables.verdicts(summaries, ("deletion", "insertion")))
    assert ("usu, deletion", "1 (1) : 0 (0)") in counts
    assert ("usu, insertion", "0 (0) : 1 (1)") in counts
    gains = rows(_grid_tables.gains(summaries, ("deletion",), ("GradCAM",), "usu", ("bilinear",)))
    assert ("GradCAM, deletion, over bilinear", "+0.100, p < 0.001") in gains


def test_grad_cam_has_its_doubles_on_transformers_alone() -> None:
    assert set(cams("deit_tiny")) - set(cams("resnet18")) == {"HiResCAM", "XGradCAM", "ShapleyCAM"}


def test_the_page_has_the_tables_of_the_results(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "_draw", lambda _: None)
    evidence.main()
    printed = capsys.readouterr().out
    found, shown = rows(printed), rows(PAGE.read_text(encoding="utf-8"))
    assert len(found) > 150
    assert found == shown
    (way,) = set(re.findall(r"mass error of usu, mean over images: \S+ to (\S+)", printed))
    assert float(way) < 1e-6


def test_the_page_on_the_defaults_has_the_ablations() -> None:
    page = (DOCS / "defaults.md").read_text(encoding="utf-8")
    marks = {"+": r"**\1**", "-": r"_\1_"}
    for name, summary in published(RESULTS / "ablations.json").items():
        shown = rows(page.partition(f"### {name}, {summary.images} images")[2].partition("\n#")[0])
        _, table = _tables.means(summary, "bilinear")
        for _, setting, *cells in table:
            marked = (re.sub(r"(.+)[+-]$", marks.get(cell[-1], ""), cell) for cell in cells)
            assert (setting, *marked) in shown


def test_numbers_in_a_list_share_a_line_and_nothing_is_lost(tmp_path: Path) -> None:
    content = {"row": [0.5, None, -1e-7], "texts": ["[\n1,\n 2\n]", "b"], "nested": [[1], []]}
    write_json(tmp_path / "result.json", content)
    text = (tmp_path / "result.json").read_text(encoding="utf-8")
    assert '"row": [0.5, null, -1e-07]' in text
    assert json.loads(text) == content
