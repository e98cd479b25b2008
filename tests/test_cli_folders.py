"""What a command may replace in the folder it writes to: its own earlier results, no more."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from usu_cli import main
from usu_cli._folder import earlier_report


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with two pictures and the weights of a tiny network."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=5)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    for name, colour in (("cat", "white"), ("dog", "grey")):
        Image.new("RGB", (70, 64), colour).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(command: str, *arguments: str) -> None:
    model = ("--model", "w.safetensors", "--arch", "timm:test_resnet", "--size", "64")
    main([command, *model, *arguments])


def explain(*arguments: str) -> None:
    call("explain", "--upsampler", "bilinear", *arguments)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def said(command: str, *arguments: str) -> str:
        with pytest.raises(SystemExit) as caught:
            call(command, *arguments)
        assert caught.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return said


@pytest.mark.parametrize("name", ["report.html", "manifest.json", "01_cat.png"])
@pytest.mark.parametrize("command", ["explain", "compare"])
def test_a_persons_own_files_are_left_alone(
    work: Path, refused: Callable[..., str], command: str, name: str
) -> None:
    (work / name).write_text("mine")
    said = refused(command, "cat.png", "--out", ".")
    assert f"{name}' exists, and is not of an earlier usu {command}; give another --out" in said
    assert (work / name).read_text() == "mine"
    assert sorted(work.iterdir()) == sorted(
        work / each for each in ("cat.png", "dog.png", "w.safetensors", name)
    )


def test_a_picture_that_is_read_is_not_replaced(work: Path, refused: Callable[..., str]) -> None:
    content = (work / "cat.png").read_bytes()
    (work / "01_dog.png").write_bytes(content)
    said = refused("explain", "dog.png", "01_dog.png", "--out", ".")
    assert "01_dog.png' is read, and would be replaced" in said
    assert (work / "01_dog.png").read_bytes() == content
    # Nor is one that an earlier report drew, and this one would remove.
    explain("dog.png", "--out", "out")
    assert "01_dog.png' is read" in refused("explain", "out/01_dog.png", "--out", "out")
    assert (work / "out" / "01_dog.png").is_file()


def test_pictures_of_an_earlier_report_are_removed(work: Path) -> None:
    explain("cat.png", "dog.png", "--out", "out")
    (work / "out" / "03_mine.png").write_text("mine")
    explain("dog.png", "--out", "out")
    assert {path.name for path in (work / "out").iterdir()} == {
        "01_dog.png", "03_mine.png", "manifest.json", "report.html"
    }  # fmt: skip


def test_a_report_of_another_command_is_not_replaced(
    work: Path, refused: Callable[..., str]
) -> None:
    explain("cat.png", "--out", "out")
    before = (work / "out" / "report.html").read_bytes()
    assert "01_cat.png' exists" in refused("compare", "cat.png", "--out", "out")
    (work / "list.txt").write_text("cat.png")
    assert "report.html' exists" in refused("evaluate", "--data", "list.txt", "--out", "out")
    assert (work / "out" / "report.html").read_bytes() == before


def test_a_report_that_was_cut_off_is_made_again(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("usu_cli._report.template", cut_off)
        with pytest.raises(SystemExit):
            explain("cat.png", "--out", "out")
    assert (work / "out" / "01_cat.png").is_file()
    explain("cat.png", "--out", "out")
    assert (work / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    "text",
    ["mine", "[]", '{"command": "explain"}', '{"command": "demo", "files": {}}', "[" * 100_000],
)
def test_a_manifest_of_something_else_owns_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    assert earlier_report(tmp_path, "explain") == ()


def test_a_manifest_owns_nothing_outside_its_folder(tmp_path: Path) -> None:
    files = {"page": "report.html", "pictures": ["../cat.png", "01_cat.png"]}
    (tmp_path / "manifest.json").write_text(json.dumps({"command": "demo", "files": files}))
    assert earlier_report(tmp_path, "demo") == ("manifest.json", "report.html", "01_cat.png")
