"""``usu train-explainer``: what it writes, resumes and refuses."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from usu_captum.ranking import RankingExplainer, load_network
from usu_cli import main


@pytest.fixture(autouse=True)
def _quietly() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="timm")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return a folder with a few pictures and the random weights of a tiny model."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(8):
        pixels = rng.integers(0, 255, (70, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    torch.manual_seed(0)
    save_file(
        timm.create_model("test_resnet", num_classes=5).state_dict(), tmp_path / "w.safetensors"
    )
    return tmp_path


def train(work: Path, *arguments: str | Path) -> None:
    main([
        str(a)
        for a in (
            "train-explainer", "--data", work / "pictures", "--model", "timm:test_resnet",
            "--weights", work / "w.safetensors", "--out", work / "out", "--size", "64",
            "--held-out", "2", "--batch-size", "2", "--evaluate-every", "2",
            "--checkpoint-every", "1", *arguments,
        )
    ])  # fmt: skip


def error_of(capsys: pytest.CaptureFixture[str], work: Path, *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as caught:
        train(work, *arguments)
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "usu: error: " in line]
    assert len(lines) == 1
    return lines[0].removeprefix("usu: error: ")


@pytest.mark.parametrize("reading", [(), ("--gradients",)], ids=["features", "gradients"])
def test_it_trains_resumes_and_explains(
    work: Path, capsys: pytest.CaptureFixture[str], reading: tuple[str, ...]
) -> None:
    (work / "pictures" / "3.png").write_bytes(b"damaged")
    train(work, "--steps", "4", *reading)
    printed = capsys.readouterr().out
    assert "1 of 8 images could not be read:\n  3.png: " in printed
    assert "of 4: deletion 0." in printed
    assert str(work / "out" / "explainer.safetensors") in printed
    before = load_file(work / "out" / "training.safetensors")
    train(work, "--steps", "4", *reading)
    after = load_file(work / "out" / "training.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    facts = json.loads((work / "out" / "explainer.json").read_text())
    assert facts["network"]["classes"] == 5
    assert facts["network"]["gradients"] == bool(reading)

    model = timm.create_model("test_resnet", num_classes=5).eval()
    model.load_state_dict(load_file(work / "w.safetensors"))
    explainer = RankingExplainer(model, load_network(work / "out" / "explainer.safetensors", model))
    assert explainer.attribute(torch.rand(1, 3, 64, 64), target=1).shape == (1, 1, 64, 64)


@pytest.mark.parametrize(
    ("words", "cells", "weight"),
    [
        ((), None, 1.0),
        (("--size", "112"), 14, 1.0),
        (("--size", "112", "--cells", "0", "--insertion-weight", "0.5"), None, 0.5),
        (("--cells", "8"), 8, 1.0),
    ],
)
def test_maps_of_large_images_have_cells(
    work: Path, words: tuple[str, ...], cells: int | None, weight: float
) -> None:
    train(work, "--steps", "1", *words)
    facts = json.loads((work / "out" / "explainer.json").read_text())
    assert facts["network"]["cells"] == cells
    assert facts["training"]["objective"]["insertion_weight"] == weight


def test_another_run_in_the_folder(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(work, "--steps", "1")
    message = error_of(capsys, work, "--steps", "2")
    assert "training.steps 1, now 2" in message
    assert "Try another folder" in message
    assert message.startswith("--out must be empty or hold this same run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--held-out", "8"),
            "--held-out 8 leaves none of 8 images to train on; give fewer (100 unless",
        ),
        (("--data", "nowhere"), "--data 'nowhere' does not exist"),
        (("--data", __file__), "--data must be a folder of images or a .npz file, got"),
        (("--encoder", "timm:resnet81", "--encoder-weights", "w"), "'resnet81'"),
        (("--encoder", "resnet18"), 'encoder must be "classifier" or "timm:NAME"'),
        (
            ("--encoder-weights", "nope.safetensors"),
            "--encoder-weights must be left out for --encoder classifier",
        ),
        (("--learning-rate", "inf"), "must be finite, got inf"),
        (
            ("--encoder", "timm:test_vit", "--gradients"),
            "--gradients must be left out for --encoder",
        ),
        (("--cells", "100"), "--cells must be at most the image's side 64, got 100"),
        (("--labelled",), "Try leaving out --labelled."),
        (("--encoder-weights", "encoder.pth"), "'encoder.pth' is a pickle"),
        (("--labelled",), "one folder per class"),
        (("--steps", "0"), "must be at least 1"),
        (("--seed", "-1"), "argument --seed: must be at least 0, got -1"),
        (("--precision", "fp8"), "fp8"),
    ],
)
def test_refusals(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert message in error_of(capsys, work, *arguments)


def test_its_own_curves_are_no_data(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside = ("--data", work, "--out", work / "my" / "explainer", "--steps", "1")
    train(work, *inside)
    assert (work / "my" / "explainer" / "curves.png").is_file()
    train(work, *inside)
    assert "trained explainer" in capsys.readouterr().out
    message = error_of(capsys, work, "--out", work / "pictures")
    assert "is the folder of images" in message
    assert {path.suffix for path in (work / "pictures").iterdir()} == {".png"}


class TestLabels:
    """Folders are of the outputs that they are meant to be of, or training does not begin."""

    @pytest.fixture
    def labelled(self, work: Path) -> Path:
        for i, path in enumerate(sorted((work / "pictures").iterdir())):
            path.rename(path.parent.parent / f"{i}.png")
        return work

    def sort(self, work: Path, *folders: str) -> None:
        for i in range(8):
            folder = work / "pictures" / folders[i % len(folders)]
            folder.mkdir(exist_ok=True)
            (work / f"{i}.png").rename(folder / f"{i}.png")

    @pytest.mark.parametrize("count", [2, 7])
    def test_folders_that_nothing_names(
        self, labelled: Path, capsys: pytest.CaptureFixture[str], count: int
    ) -> None:
        self.sort(labelled, *(f"kind_{i}" for i in range(count)))
        message = error_of(capsys, labelled, "--labelled", "--steps", "1")
        assert f"each of the classifier's 5 outputs, got {count}: 'kind_0', 'kind_1'" in message
        assert "0 to 4" in message
        assert not list((labelled / "out").iterdir())

    def test_numbers_and_names(self, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.sort(labelled, "3", "1")
        train(labelled, "--labelled", "--steps", "1")
        assert "labels: 1 is output 1, 3 is output 3\n" in capsys.readouterr().out
        (labelled / "pictures" / "1").rename(labelled / "pictures" / "Bee")
        (labelled / "pictures" / "3").rename(labelled / "pictures" / "emu")
        names = labelled / "names.txt"
        names.write_text("ant\nbee\ncat\ndog\nemu\n")
        arguments = ("--labelled", "--steps", "1", "--out", labelled / "named")
        train(labelled, *arguments, "--classes", names)
        assert "labels: Bee is output 1, emu is output 4\n" in capsys.readouterr().out


def test_an_empty_folder(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "empty").mkdir()
    assert "must hold images, got none" in error_of(capsys, work, "--data", work / "empty")


@pytest.mark.parametrize("name", ["explainer.json", "explainer.safetensors", "curves.csv"])
def test_files_of_others_are_kept(
    work: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Those of a finished explainer without its training, too."""
    (work / "out").mkdir()
    (work / "out" / name).write_text("mine")
    message = error_of(capsys, work, "--steps", "1")
    assert f"{name}' exists, and is not of an earlier usu train-explainer" in message
    assert (work / "out" / name).read_text() == "mine"
    assert len(list((work / "out").iterdir())) == 1


def test_strict(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (work / "pictures").glob("*.png"):
        path.write_bytes(b"damaged")
    message = error_of(capsys, work, "--steps", "1", "--strict")
    assert ".png: cannot identify image file" in message
    assert "must hold an image that can be read" in error_of(capsys, work, "--steps", "1")


def test_training_that_does_not_help_says_so(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(work, "--steps", "2", "--learning-rate", "1e-12")
    printed = capsys.readouterr().out
    assert "best at step 0 of 2" in printed
    assert "no step improved on the untrained network" in printed


def test_a_model_with_one_output(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "one_output.py").write_text(
        "import timm\ndef net(): return timm.create_model('test_resnet', num_classes=1)\n"
    )
    monkeypatch.chdir(work)
    with pytest.raises(SystemExit, match="2"):
        main(["train-explainer", "--data", "pictures", "--model", "one_output:net", "--size", "64"])
    assert "error: one_output:net has one output" in capsys.readouterr().err


def test_an_encoder_is_told_where_images_live(work: Path) -> None:
    train(
        work, "--steps", "1", "--mean", "0.1", "0.2", "0.3", "--encoder", "timm:test_resnet",
        "--encoder-weights", work / "w.safetensors",
    )  # fmt: skip
    facts = json.loads((work / "out" / "explainer.json").read_text())
    assert facts["network"]["space"] == facts["space"]
    assert facts["space"]["mean"] == [0.1, 0.2, 0.3]
    path = work / "out" / "explainer.safetensors"
    classifier = timm.create_model("test_resnet", num_classes=5).eval()
    classifier.load_state_dict(load_file(work / "w.safetensors"))
    network = load_network(path, classifier, encoder_weights=work / "w.safetensors")
    assert network.encoder.space.mean == (0.1, 0.2, 0.3)


def test_an_encoder_that_cannot_be_fetched(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("usu_cli._train.build_network", no_network)
    message = error_of(capsys, work, "--encoder", "timm:test_resnet", "--steps", "1")
    assert message.startswith("could not get the weights of timm:test_resnet (Name or service")
    assert message.endswith("give --encoder-weights FILE.safetensors")


def test_files_are_for_whom_files_here_are(work: Path) -> None:
    before = os.umask(0o027)
    try:
        train(work, "--steps", "1")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (work / "out").iterdir()}
    assert modes["explainer.safetensors"] == modes["training.safetensors"] == 0o640
    assert set(modes.values()) == {0o640}
