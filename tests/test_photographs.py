"""``benchmarks.photographs`` from its command to its result, on a small network."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import evidence, photographs
from benchmarks._common import read_journal

SIDE = 48
IMAGES = ("a", "b", "c")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=8, padding=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).eval()


def photograph(file: Path) -> Tensor:
    """A bright square, in another place on every image, on noise."""
    generator = torch.Generator().manual_seed(ord(file.stem))
    image = torch.randint(0, 80, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    start = 8 * IMAGES.index(file.stem)
    image[:, start : start + 16, start : start + 16] = 240
    return image


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What models were asked for; there are no photographs and no networks but these."""
    asked: list[str] = []

    def load(name: str) -> tuple[nn.Module, Any]:
        asked.append(name)
        return network(), lambda images: images.float() / 255

    def files(split: str, count: int) -> list[Path]:
        assert split == "held-out"
        return [Path(f"{name}.jpg") for name in IMAGES[:count]]

    monkeypatch.setattr(photographs, "load_model", load)
    monkeypatch.setattr(photographs, "image_files", files)
    monkeypatch.setattr(photographs, "load_image", photograph)
    monkeypatch.setattr(photographs, "STEPS", 4)
    monkeypatch.setattr(photographs, "BOXES", 12)
    return asked


def measured(monkeypatch: pytest.MonkeyPatch, out: Path, *words: str) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["photographs", "--out", str(out), *words])
    photographs.main()
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return result


def test_maps_are_measured_once_and_compared(
    loaded: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "result.json"
    both = ("--models", "resnet18", "deit_tiny")
    first = measured(monkeypatch, out, "--images", "2", *both)
    assert loaded == ["resnet18", "deit_tiny"]
    assert measured(monkeypatch, out, "--images", "2", *both) == first
    assert loaded == ["resnet18", "deit_tiny"]  # Nothing was left to measure.
    more = measured(monkeypatch, out, "--images", "3", *both)
    records = read_journal(out.with_suffix(".jsonl"))
    assert len(records) == 6
    for model in ("resnet18", "deit_tiny"):
        before, after = first["models"][model], more["models"][model]
        assert after["images"] == [*before["images"], "c"]
        assert after["targets"] == [r["target"] for r in records if r["model"] == model]
        for metric, rows in after["values"].items():
            for name, row in rows.items():
                assert row[:2] == before["values"][metric][name]
                mean = sum(row) / 3
                assert more["summary"][model]["maps"][name][metric] == pytest.approx(mean, abs=1e-4)

    assert list(more["summary"]) == ["resnet18", "deit_tiny", "all"]
    assert [part["images"] for part in more["summary"].values()] == [3, 3, 6]
    names = {*evidence.UPSAMPLERS, *evidence.CONTROLS, *evidence.VARIANTS}
    for record in records:
        assert set(record["metrics"]) == names
        spent = record["evaluations"]
        assert spent["usu"] == spent["iwmr-mass, ranks"] <= 200
        assert spent["usu"] == pytest.approx(spent["RISE"], abs=20)
        assert spent["usu-fast"] == 1
        found = record["metrics"]
        assert found["usu"] != found["usu, drops"]
        assert found["usu"] != found["usu, shuffled"]
    maps = more["summary"]["all"]["maps"]
    for name, peer in evidence.COMPARED:
        gap = [
            record["metrics"][m]["insertion"] - record["metrics"][m]["deletion"]
            for record in records
            for m in (name, peer)
        ]
        gain = sum(gap[::2]) / 6 - sum(gap[1::2]) / 6
        assert maps[name][f"against {peer}"]["gap"]["gain"] == pytest.approx(gain, abs=1e-5)


def test_budgets_grow(loaded: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ("--budget", "--images", "1", "--models", "resnet18")
    result = measured(monkeypatch, tmp_path / "budget.json", *words)
    assert list(result["summary"]) == ["resnet18"]
    maps = result["summary"]["resnet18"]["maps"]
    spent = [maps[f"usu {limit}"]["evaluations"] for limit in ("gradient", 32, 64, 128, 200, 512)]
    assert spent[0] == maps["usu one pass"]["evaluations"] + 1 == 1
    assert spent == sorted(spent)
    assert spent[1:4] == [32, 64, 128]
    assert 128 < spent[4] <= 200
    assert spent[5] == 512
    assert loaded == ["resnet18"]


def test_a_pair_is_the_default_and_what_it_replaces(
    loaded: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ("--pair", "--images", "2", "--models", "resnet18")
    result = measured(monkeypatch, tmp_path / "pair.json", *words)
    found = result["models"]["resnet18"]["values"]["deletion"]
    assert {name: len(row) for name, row in found.items()} == {"bilinear": 2, "usu": 2}
    assert result["summary"]["resnet18"]["maps"]["usu"]["against bilinear"]["gap"]["gain"] != 0
    assert loaded == ["resnet18"]
