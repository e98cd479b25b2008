"""``benchmarks.photographs`` from its command to its result, on a small network."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks import evidence, photographs
from benchmarks._common import load_image, read_journal
from benchmarks._photograph_maps import resize_maps
from benchmarks._photograph_summary import METRICS
from usu_captum import ForwardScore
from usu_core import USU, resolve

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


def test_the_centre_of_a_photograph_is_read(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 240, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    found = load_image(tmp_path / "photograph.png")
    assert found.dtype == torch.uint8
    assert np.array_equal(found.permute(1, 2, 0).numpy(), pixels[16:240, 8:232])


def test_resizes_share_scores_and_keep_their_places() -> None:
    image = photograph(Path("a.jpg"))[None] / 255
    model, asked = network(), []
    model.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0])))
    cells = {cam: torch.rand(1, 1, 6, 6) for cam in ("GradCAM", "LayerCAM", "HiResCAM")}
    maps, ties, spent = resize_maps(cells, image, ForwardScore(model, 0))
    assert spent == dict.fromkeys((f"{cam}, usu" for cam in cells), sum(asked))
    scores = USU().score_map(image, ForwardScore(model, 0)).values
    assert torch.equal(ties, scores)
    assert len(maps) == 12
    for cam, way in itertools.product(cells, ("nearest", "bilinear", "bicubic", "usu")):
        expected = resolve(way)(cells[cam], image=image, score_map=scores)[:, 0]
        torch.testing.assert_close(maps[f"{cam}, {way}"], expected)


def test_usu_of_a_cam_is_compared_with_resizes_of_that_cam(
    loaded: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[tuple[Tensor, dict[str, Tensor]]] = []

    def keep(cells: dict[str, Tensor], image: Tensor, score: ForwardScore) -> Any:
        given.append((image, cells))
        return resize_maps(cells, image, score)

    monkeypatch.setattr(photographs, "resize_maps", keep)
    words = ("--resizes", "--images", "2", "--models", "deit_tiny", "resnet18")
    result = measured(monkeypatch, tmp_path / "resizes.json", *words)
    assert loaded == ["deit_tiny", "resnet18"]
    assert [len(cells) for _, cells in given] == [3, 3, 2, 2]
    for image, found in given:
        model = network()
        activations = model[:2](image).detach().requires_grad_()
        (slopes,) = torch.autograd.grad(model[2:](activations).max(), activations)
        cams = {"GradCAM": slopes.mean((2, 3), keepdim=True), "LayerCAM": slopes.clamp(min=0)}
        assert not torch.allclose(found["GradCAM"], found["LayerCAM"])
        for cam, weights in cams.items():
            expected = (weights * activations).sum(1, keepdim=True).clamp(min=0)
            torch.testing.assert_close(found[cam], expected)

    ways = ("nearest", "bilinear", "bicubic")
    for model_name, cams in (("deit_tiny", evidence.AIMED_AT), ("resnet18", evidence.AIMED_AT[:2])):
        values = result["models"][model_name]["values"]["deletion"]
        maps = result["summary"][model_name]["maps"]
        assert list(values) == [f"{cam}, {way}" for cam in cams for way in (*ways, "usu")]
        for cam in cams:
            usu = f"{cam}, usu"
            compared = [key for key in maps[usu] if key.startswith("against")]
            assert compared == [f"against {cam}, {way}" for way in ways]
            for way in ways:
                gain = (sum(values[f"{cam}, {way}"]) - sum(values[usu])) / 2  # lower is better
                against = maps[usu][f"against {cam}, {way}"]["deletion"]
                assert against["gain"] == pytest.approx(gain, abs=1e-4)
                assert not any(key.startswith("against") for key in maps[f"{cam}, {way}"])
    assert len(result["summary"]["all"]["maps"]) == 8  # those that both models have


def test_chances_are_corrected_over_all_tests_of_a_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Twelve tests: 0.0002 x 12, 0.01 x 11, 0.0105 x 10 but no less than the last; 0.5 is sure.

    Three of the difference, by themselves: 0.01 x 3.
    """

    def part(cam: str) -> dict[str, Any]:
        p = iter((0.0002, 0.01, 0.0105, *[0.5] * 9))
        row: dict[str, Any] = {"deletion": 0.25, "insertion": 0.5, "infidelity": 0.75}
        for peer in ("nearest", "bilinear", "bicubic"):
            tests = {m: {"gain": -0.5, "p": next(p)} for m in METRICS}
            row[f"against {cam}, {peer}"] = {**tests, "gap": {"gain": 0.125, "p": 0.01}}
        return {"images": 3, "maps": {f"{cam}, usu": row}}

    first, second = part("GradCAM"), part("LayerCAM")
    evidence._over_resizes({"one": first, "two": second, "all": first})
    lines = capsys.readouterr().out.splitlines()
    assert "| deletion ↓ / insertion ↑ / infidelity ↓ | one, 3 | two, 3 |" in lines
    assert "| GradCAM, usu | 0.250 / 0.500 / 0.750 |  |" in lines
    assert "| GradCAM, deletion, over nearest | -0.500, p 0.002 |  |" in lines
    assert "| GradCAM, insertion, over nearest | -0.500, p 0.110 |  |" in lines
    assert "| GradCAM, correlation, over nearest | -0.500, p 0.110 |  |" in lines
    assert "| LayerCAM, correlation, over nearest |  | -0.500, p 0.110 |" in lines
    assert "| LayerCAM, infidelity, over nearest |  | -0.500, p 1.000 |" in lines
    assert "| GradCAM, insertion - deletion, over nearest | +0.125, p 0.030 |  |" in lines
    assert sum(", over " in line for line in lines) == 24 + 6
