"""``usu compare``: the figures of ``usu evaluate``, on a page of pictures."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from usu_cli import main
from usu_cli.evaluate import _compare, read_records

MAPS = ("--methods", "LayerGradCam,Occlusion", "--upsamplers", "bilinear,usu")


@pytest.fixture(scope="module")
def start(work: Path) -> list[str]:
    """Return a command line with everything small, but for what to compare."""
    return [
        "compare", str(work / "images" / "a" / "1.png"), str(work / "images" / "b" / "2.png"),
        "--model", str(work / "tiny.safetensors"), "--arch", "timm:test_resnet", "--size", "64",
        "--steps", "4", "--samples", "8", "--evaluations", "12",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def done(work: Path, start: list[str]) -> Path:
    """Return the folder of a comparison."""
    out = work / "compared"
    main([*start, *MAPS, "--metrics", "deletion,insertion,mass-error", "--out", str(out)])
    return out


def test_every_map_is_measured_as_evaluate_does(
    done: Path, work: Path, run: Callable[..., None], tmp_path: Path
) -> None:
    manifest = json.loads((done / "manifest.json").read_text())
    found = {
        (Path(r["image"]).name, r["method"], r["upsampler"], r["metric"]): r["value"]
        for r in manifest["records"]
    }
    maps = [("LayerGradCam", "bilinear"), ("LayerGradCam", "usu"), ("Occlusion", "-")]
    assert set(found) == {
        (image, *name, metric)
        for image in ("1.png", "2.png")
        for name in maps
        for metric in ("deletion", "insertion", "mass-error")
        if (name[1], metric) != ("-", "mass-error")
    }
    run(tmp_path, *MAPS)
    evaluated = {(Path(r.image).name, *r.key[1:]): r.value for r in read_records(tmp_path)}
    for key, value in found.items():
        if key[3] != "mass-error":
            assert value == pytest.approx(evaluated[key], abs=1e-6)


def test_page_and_pictures_show_every_map(done: Path) -> None:
    page = (done / "report.html").read_text(encoding="utf-8")
    for name in ("LayerGradCam, bilinear", "LayerGradCam, usu", "Occlusion"):
        assert page.count(f"<b>{name}</b>") == 2
    assert "All images" in page
    for name in ("01_1.png", "02_2.png"):
        with Image.open(done / name) as picture:
            assert min(picture.size) > 200


def test_page_says_how_it_was_made(done: Path) -> None:
    page = html.unescape((done / "report.html").read_text(encoding="utf-8"))
    facts = dict(re.findall(r"<dt>(.+?)</dt><dd>(.+?)</dd>", page))
    assert list(facts) == [
        "Model", "Preprocessing", "Layer", "Target", "Evaluations", "Steps", "Samples",
        "Precision", "Seed", "Versions",
    ]  # fmt: skip
    assert (facts["Steps"], facts["Samples"], facts["Seed"]) == ("4", "8", "0")
    assert facts["Target"] == "each image's first class"
    assert facts["Evaluations"] == "12 for methods that perturb the image"
    assert page.count("Evaluations for scores: images that the model was run on") == 3


def test_table_is_the_mean(
    done: Path, start: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*start, *MAPS, "--out", str(done.parent / "again")])
    lines = capsys.readouterr().out.splitlines()
    records = json.loads((done / "manifest.json").read_text())["records"]
    values = [
        r["value"]
        for r in records
        if (r["method"], r["upsampler"], r["metric"]) == ("LayerGradCam", "usu", "deletion")
    ]
    (line,) = (line for line in lines if line.split()[1:2] == ["usu"])
    assert float(line.split()[3]) == pytest.approx(sum(values) / 2, abs=6e-4)
    assert "Means over 2 images." in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "GradCam"), "did you mean"),
        (("--metrics", "deletio"), "deletion"),
        (("--upsamplers", "uso"), "usu"),
        (("--metrics", "iou"), "usu evaluate --masks"),
        (("--methods", "random", "--metrics", "mass-error"), "mass-error is of coarse maps"),
        (("--layer", "fc"), "cannot explain this"),
    ],
)
def test_refusals(
    start: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*start, *arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_unreadable_image_stops_before_anything_is_explained(
    start: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with pytest.raises(SystemExit, match="2"):
        main([*start, str(bad), "--out", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert "bad.png" in line


def test_a_model_without_parameters(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bare_models.py").write_text(
        "from torch import nn\n"
        "def pools():\n"
        "    return nn.Sequential(nn.AvgPool2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    monkeypatch.chdir(tmp_path)
    image = str(work / "images" / "a" / "1.png")
    main(["compare", image, "--model", "bare_models:pools", "--size", "64",
          "--upsamplers", "bilinear", "--metrics", "sparseness", "--out", "o"])  # fmt: skip
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["records"][0]["value"]


@pytest.mark.usefixtures("odd_models")
def test_probabilities_are_not_squashed_again(work: Path) -> None:
    found = []
    for model in ("logits", "probabilities"):
        main(["compare", str(work / "images" / "a" / "1.png"), "--model", f"odd_models:{model}",
              "--size", "64", "--methods", "RISE,random", "--evaluations", "12",
              "--steps", "4", "--samples", "8", "--out", model,
              "--metrics", "deletion,correlation,pixel-flipping,irof,road,diffid"])  # fmt: skip
        records = json.loads(Path(model, "manifest.json").read_text())["records"]
        found.append({(r["method"], r["metric"]): r["value"] for r in records})
    for key, value in found[0].items():
        assert value == pytest.approx(found[1][key], abs=1e-4), key


@pytest.mark.usefixtures("odd_models")
def test_a_single_output_is_no_probability(work: Path) -> None:
    main(["compare", str(work / "images" / "a" / "1.png"), "--model", "odd_models:single",
          "--size", "64", "--methods", "random", "--steps", "4", "--out", "o"])  # fmt: skip
    page = Path("o", "report.html").read_text(encoding="utf-8")
    assert "Deletion: score while pixels are replaced" in page
    assert "robability" not in page


@pytest.mark.usefixtures("odd_models")
@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        ("Parts", "pair", "method 'LayerGradCam' cannot explain this: layer must have a single "
         "output, got 2"),
        ("OneByOne", "conv", "a map of 'LayerGradCam' cannot be upsampled: one at a time"),
        ("Darkness", "conv", "odd_models:Darkness failed on "),
    ],
)  # fmt: skip
def test_what_libraries_and_models_raise_is_one_line(
    work: Path, capsys: pytest.CaptureFixture[str], model: str, layer: str, message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(work / "images" / "a" / "1.png"), "--model", f"odd_models:{model}",
              "--size", "64", "--layer", layer, "--upsamplers", "usu", "--out", "o"])  # fmt: skip
    said = capsys.readouterr().err.strip().rpartition("\r")[2].splitlines()
    assert said[-1].startswith(f"usu: error: {message}")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda(start: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []
    make = _compare.make_subject

    def noted(*arguments: Any) -> Any:
        subject = make(*arguments)
        devices.append(subject.inputs.device.type)
        return subject

    monkeypatch.setattr(_compare, "make_subject", noted)
    main([*start, *MAPS, "--out", str(tmp_path)])
    assert devices == ["cuda"] * 2
