"""The ``usu`` command: what it writes, and the one line it says when it cannot."""

import importlib.util
import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file

from usu_cli import main
from usu_cli._architectures import find_architecture
from usu_cli._classes import find_target, read_class_names
from usu_cli._errors import UsageError
from usu_cli._images import read_image
from usu_cli._maps import upsample_all
from usu_cli._models import load_classifier
from usu_cli._pictures import Panel, map_panel, panel_png
from usu_cli._preprocessing import Preprocessing, for_timm
from usu_core import IWMR, USU, Interpolation, MaskedPerturbation, Quadtree
from usu_core.scoring import model_score

ARCH = "timm:test_resnet"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a picture and the random weights of three tiny models."""
    folder = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)).resize((90, 120)).save(
        folder / "photo.png"
    )
    torch.manual_seed(0)
    for name, model in {
        "tiny": timm.create_model("test_resnet", num_classes=5),
        "vit": timm.create_model("test_vit", num_classes=5),
        "squeeze": torchvision.models.squeezenet1_1(num_classes=1000),
    }.items():
        save_file(
            {k: v.half() for k, v in model.state_dict().items()}, folder / f"{name}.safetensors"
        )
    (folder / "names.txt").write_text("<b>ant</b>\nbee\ncat\ndog\nemu\n")
    return folder


def explain(work: Path, *arguments: str | Path, model: bool = True) -> None:
    chosen = ["--model", work / "tiny.safetensors", "--arch", ARCH, "--size", "64"] if model else []
    main([str(a) for a in ("explain", "--out", work / "out", *chosen, *arguments)])


def error_of(capsys: pytest.CaptureFixture[str], work: Path, *arguments: str | Path) -> str:
    """Return the message of a request that must be refused."""
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("usu: error: ")
    return lines[0].removeprefix("usu: error: ")


def refused(capsys: pytest.CaptureFixture[str], work: Path, *arguments: str | Path) -> str:
    model = ("--model", work / "tiny.safetensors", "--arch", ARCH, "--size", "64")
    out = ("--out", work / "refused")
    return error_of(capsys, work, "explain", *model, *out, *arguments)


def test_help_and_import_need_no_torch() -> None:
    code = (
        "import sys, usu_cli\n"
        "try: usu_cli.main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'matplotlib', 'timm', 'captum'} & set(sys.modules)\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(  # noqa: S603 - fixed arguments
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert "explain" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert re.fullmatch(r"usu \d+\.\d+\S*\n", capsys.readouterr().out)


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["demo", "--images", "1", "--out", str(tmp_path / "a" / "b")])
    out = tmp_path / "a" / "b"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["command"] == "demo"
    assert set(manifest["mean"]) == {
        "nearest", "bilinear", "usu", "iwmr", "iwmr-mass", "tilted", "score-map"
    }  # fmt: skip
    assert manifest["mean"]["usu"]["mass_error"] < 1e-5 < manifest["mean"]["bilinear"]["mass_error"]
    assert all(0 <= row["iou"] <= 1 for row in manifest["mean"].values())
    for name in manifest["files"]["pictures"]:
        with Image.open(out / name) as picture:
            assert picture.width > picture.height > 300
    page = (out / "report.html").read_text()
    assert_self_contained(page)
    assert page.count("data:image/png;base64,") == 10
    printed = capsys.readouterr().out
    assert "iwmr-mass" in printed
    assert str(out / "report.html") in printed


def assert_self_contained(page: str) -> None:
    text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|//\w|<script|url\(|@import|<link", text)


@pytest.mark.parametrize(("weights", "size"), [("tiny", "64"), ("vit", "160")])
def test_explain_local_model(work: Path, tmp_path: Path, weights: str, size: str) -> None:
    odd = work / "<b>$x$.png"
    odd.write_bytes((work / "photo.png").read_bytes())
    arch = {"tiny": ARCH, "vit": "timm:test_vit"}[weights]
    main([
        str(a)
        for a in (
            "explain", odd, "--model", work / f"{weights}.safetensors", "--arch", arch,
            "--classes", work / "names.txt", "--size", size, "--target", "<B>ANT</b>",
            "--upsampler", "nearest,usu", "--upsampler", "usu-fast", "--upsampler", "usu",
            "--out", tmp_path,
        )
    ])  # fmt: skip
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert list(manifest["upsamplers"]) == ["nearest", "usu", "usu-fast"]
    assert manifest["images"][0]["target"] == {"index": 0, "name": "<b>ant</b>"}
    assert len(manifest["images"][0]["top"]) == 5
    assert manifest["images"][0]["grid"] == {"tiny": [2, 2], "vit": [10, 10]}[weights]
    assert sum(p["probability"] for p in manifest["images"][0]["top"]) == pytest.approx(1)
    page = (tmp_path / "report.html").read_text()
    assert "<b>ant" not in page
    assert "<b>$x" not in page
    assert "&lt;b&gt;$x$.png" in page
    assert_self_contained(page)
    files = manifest["files"]
    written = {files["page"], *files["pictures"], "manifest.json"}
    assert {p.name for p in tmp_path.iterdir()} == written


def test_scores_are_computed_once(work: Path, tmp_path: Path) -> None:
    explain(
        work, work / "photo.png", "--upsampler", "usu,iwmr,iwmr-mass,score-map", "--out", tmp_path
    )
    figures = json.loads((tmp_path / "manifest.json").read_text())["images"][0]["figures"]
    assert len({row["evaluations"] for row in figures.values()}) == 1


def test_explain_a_model_of_ones_own(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_models.py").write_text(
        "import timm, torch\n"
        "def tiny():\n"
        "    torch.manual_seed(0)\n"
        "    return timm.create_model('test_resnet', num_classes=5).train()\n"
        "def number(): return 3\n"
        "def broken(): raise KeyError('no such key')\n"
        "class Picky(torch.nn.Module):\n"
        "    def forward(self, images): raise ValueError('I want more')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    before = list(sys.path)
    photo, size = work / "photo.png", ("--size", "64")
    try:
        for name, weights in (("own", ()), ("filled", ("--weights", work / "tiny.safetensors"))):
            main(
                ["explain", str(photo), "--model", "own_models:tiny", *map(str, weights), *size,
                 "--upsampler", "bilinear", "--out", name]
            )  # fmt: skip
        start = ("explain", photo, "--out", "refused", *size, "--model")
        capsys.readouterr()
        for model, message in {
            "own_models:tinny": "did you mean tiny?",
            "own_models:number": "must return a torch.nn.Module, got int",
            "own_models:broken": "failed with KeyError",
            "own_models:Picky": "own_models:Picky failed on an image with ValueError: I want more",
            "not_there:build": "cannot import 'not_there'",
        }.items():
            assert message in error_of(capsys, work, *start, model)
    finally:
        sys.modules.pop("own_models", None)
    assert sys.path == before
    # The weights in the file are those the function draws, halved in precision.
    own, filled = (
        json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("own", "filled")
    )
    assert own["settings"]["model"] == "own_models:tiny"
    assert own["settings"]["preprocessing"]["size"] == 64
    # A function may return a model of timm, which says how its images are prepared.
    says = timm.create_model("test_resnet").pretrained_cfg
    assert tuple(own["settings"]["preprocessing"]["mean"]) == says["mean"] != (0.485, 0.456, 0.406)
    assert [c["index"] for c in own["images"][0]["top"]] == [
        c["index"] for c in filled["images"][0]["top"]
    ]


def test_a_model_that_imports_while_it_is_built(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lazy_nets.py").write_text(
        "def build():\n    from lazy_parts import tiny\n    return tiny()\n"
    )
    (tmp_path / "lazy_parts.py").write_text(
        "import timm\ndef tiny(): return timm.create_model('test_resnet', num_classes=5)\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    try:
        assert load_classifier("lazy_nets:build", size=64).outputs == 5
    finally:
        for name in ("lazy_nets", "lazy_parts"):
            sys.modules.pop(name, None)
    assert sys.path == before


def test_paths_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    main(["demo", "--images", "1", "--out=~/there"])
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.usefixtures("odd_models")
class TestOddModels:
    """What a model gives is called what it is."""

    def start(self, work: Path, model: str) -> list[str]:
        return ["explain", str(work / "photo.png"), "--model", f"odd_models:{model}", "--size",
                "64", "--upsampler", "bilinear", "--out", model]  # fmt: skip

    def top(self, work: Path, model: str) -> list[dict[str, Any]]:
        main(self.start(work, model))
        found = json.loads(Path(model, "manifest.json").read_text())["images"][0]["top"]
        assert isinstance(found, list)
        return found

    def test_probabilities_are_not_squashed_again(self, work: Path) -> None:
        given, made = self.top(work, "probabilities"), self.top(work, "logits")
        assert [c["index"] for c in given] == [c["index"] for c in made]
        assert [c["probability"] for c in given] == pytest.approx([c["probability"] for c in made])

    def test_a_single_output_is_a_score(
        self, work: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (only,) = self.top(work, "single")
        assert only.keys() == {"index", "name", "score"}
        said = capsys.readouterr().out
        assert f"predicted: class 0 has the score {only['score']:.4g}" in said
        assert "%" not in said

    def test_a_map_that_cannot_be_upsampled(
        self, work: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(self.start(work, "nothing"))
        said = capsys.readouterr().err.splitlines()[-1]
        assert "photo.png' cannot be upsampled: cells must be finite" in said

    @pytest.mark.parametrize("model", ["Caching", "Renewing"])
    def test_what_a_model_keeps_of_a_call_may_be_differentiated(
        self, work: Path, model: str
    ) -> None:
        assert len(self.top(work, model)) == 4

    @pytest.mark.parametrize(
        ("model", "layer", "message"),
        [
            ("Parts", "pair", "layer 'pair' cannot be explained: layer must have a single output, "
             "got 2; give another --layer"),
            ("Parts", "idle", "layer 'idle' cannot be explained: Forward hook did not obtain any "
             "outputs for given layer; give another --layer"),
            ("Darkness", "conv", "odd_models:Darkness failed on '{photo}': it is light"),
            ("OneByOne", "conv", "the map of '{photo}' cannot be upsampled: one at a time"),
        ],
    )  # fmt: skip
    def test_what_libraries_and_models_raise_is_one_line(
        self, work: Path, capsys: pytest.CaptureFixture[str], model: str, layer: str, message: str
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main([*self.start(work, model), "--layer", layer, "--upsampler", "usu"])
        said = capsys.readouterr().err.strip().rpartition("\r")[2].splitlines()
        photo = work / "photo.png"
        assert said[-1] == f"usu: error: {message.format(photo=photo)}"

    def test_channels(self, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = error_of(capsys, work, *self.start(work, "grey"))
        assert message == (
            "odd_models:grey takes images of 1 channel, and is given RGB: three; wrap it: "
            "nn.Sequential(torchvision.transforms.Grayscale(), model)"
        )
        assert len(self.top(work, "wrapped")) == 2


@pytest.mark.parametrize("name", [b"\xff.png", "猫.png".encode()])
@pytest.mark.filterwarnings("error")
def test_names_that_pictures_cannot_show(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: bytes
) -> None:
    image = tmp_path / os.fsdecode(name)
    try:
        image.write_bytes((work / "photo.png").read_bytes())
    except (OSError, ValueError):
        pytest.skip("this file system takes no such name")
    explain(work, image, "--upsamplers", "bilinear", "--out", tmp_path / "out")
    assert "1 picture, manifest.json" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert Path(found["images"][0]["image"]).name in (r"\udcff.png", "猫.png")


def test_explain_torchvision_architecture_with_weights(work: Path, tmp_path: Path) -> None:
    weights = work / "squeeze.safetensors"
    main([
        str(a)
        for a in (
            "explain", work / "photo.png", "--model", "torchvision:squeezenet1_1",
            "--weights", weights, "--size", "64", "--target", "tench",
            "--upsampler", "bilinear", "--out", tmp_path,
        )
    ])  # fmt: skip
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["images"][0]["target"] == {"index": 0, "name": "tench"}
    assert manifest["settings"]["preprocessing"]["resize"] == round(256 * 64 / 224)


class TestTorchvision:
    """Networks are built as torchvision builds those that it fills itself."""

    @pytest.fixture
    def downloaded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        """Put a file where torch keeps downloads, so that none is needed."""
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))

        def put(name: str, content: object) -> None:
            url = torchvision.models.get_model_weights(name).DEFAULT.url
            torch.save(content, tmp_path / "hub" / "checkpoints" / Path(url).name)

        return put

    @pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
    def test_inputs_are_transformed(
        self, tmp_path: Path, downloaded: Callable[..., None], name: str
    ) -> None:
        untrained = {"weights": None, "init_weights": False}
        state = torchvision.models.get_model(name, **untrained).state_dict()
        downloaded(name, state)
        assert find_architecture(f"torchvision:{name}").pretrained().transform_input
        assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
        bare = {key: value for key, value in state.items() if not key.lower().startswith("aux")}
        assert len(bare) < len(state)
        for weights in (state, bare):
            save_file(weights, tmp_path / "w.safetensors")
            spec = f"torchvision:{name}"
            assert load_classifier(spec, weights=tmp_path / "w.safetensors").model.transform_input

    def test_old_names_of_dense_layers(
        self, tmp_path: Path, downloaded: Callable[..., None]
    ) -> None:
        state = torchvision.models.densenet121(weights=None).state_dict()
        old = {
            re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
            for key, value in state.items()
            if "num_batches" not in key
        }
        assert "features.denseblock1.denselayer1.norm.1.weight" in old
        downloaded("densenet121", old)
        save_file(old, tmp_path / "w.safetensors")
        spec = "torchvision:densenet121"
        local = load_classifier(spec, weights=tmp_path / "w.safetensors").model
        for model in (find_architecture(spec).pretrained(), local):
            found = model.state_dict()
            assert all(torch.equal(value, found[key]) for key, value in state.items())

    def test_size_of_the_images_that_weights_are_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.nn.init.trunc_normal_", lambda tensor, *_, **__: tensor)
        with torch.device("meta"):
            model = find_architecture("torchvision:vit_h_14").build(5)
        assert model.image_size == 518

    def test_downloads_run_no_code(
        self,
        capsys: pytest.CaptureFixture[str],
        work: Path,
        tmp_path: Path,
        downloaded: Callable[..., None],
    ) -> None:
        downloaded("squeezenet1_1", Runs(tmp_path / "ran"))
        with pytest.raises(SystemExit, match="2"):
            explain(work, work / "photo.png", "--model", "torchvision:squeezenet1_1", model=False)
        error = capsys.readouterr().err.splitlines()[-1]
        assert "could not get the weights of torchvision:squeezenet1_1" in error
        assert not (tmp_path / "ran").exists()


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


class TestEndings:
    """However a command ends, it ends in one line or none."""

    PRINTS = (
        "import usu_cli\n"
        "from usu_cli import _main, _table\n"
        "_main._doctor = lambda _: print(_table.text_table(['insertion ↑'], [['é']]))\n"
        "usu_cli.main(['doctor'])\n"
    )

    def ending(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> object:
        def fail() -> None:
            raise error

        monkeypatch.setattr("usu_cli._doctor.run_doctor", fail)
        with pytest.raises(SystemExit) as caught:
            main(["doctor"])
        return caught.value.code

    def test_interrupted(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.ending(monkeypatch, KeyboardInterrupt()) == 130
        assert capsys.readouterr().err == "usu: interrupted\n"

    def test_files_that_fail(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.ending(monkeypatch, OSError(28, "No space left", "report.html")) == 2
        said = capsys.readouterr().err
        assert said == "usu: error: [Errno 28] No space left: 'report.html'\n"

    def run(self, code: str, **given: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(  # noqa: S603 - fixed arguments
            [sys.executable, "-c", code], cwd=Path(__file__).parent.parent,
            stderr=subprocess.PIPE, check=False, **given,
        )  # fmt: skip

    def test_nobody_reads_on(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        try:
            environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # what is printed waits
            done = self.run(self.PRINTS, stdout=writing, env=environment)
        finally:
            os.close(writing)
        assert (done.returncode, done.stderr) == (1, b"")

    def test_narrow_encodings(self) -> None:
        environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
        done = self.run(self.PRINTS, stdout=subprocess.PIPE, env=environment)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode("cp1252").split() == ["insertion", "?", "?" * 11, "é"]


class TestErrors:
    """Each says what was given and what exists, in one line."""

    def test_no_command(self, capsys: pytest.CaptureFixture[str], work: Path) -> None:
        assert "COMMAND" in error_of(capsys, work)

    def test_no_images(self, capsys: pytest.CaptureFixture[str], work: Path) -> None:
        assert "at least 1" in error_of(capsys, work, "demo", "--images", "0")

    def test_missing_file(self, capsys: pytest.CaptureFixture[str], work: Path) -> None:
        message = refused(capsys, work, work / "foto.png")
        assert "foto.png" in message
        assert "did you mean photo.png" in message
        assert "nowhere" in refused(capsys, work, "nowhere/at/all.png")

    def test_a_link_to_nothing(
        self, capsys: pytest.CaptureFixture[str], work: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "dead.png").symlink_to("gone.png")
        assert "is a link to 'gone.png', which is not there" in refused(
            capsys, work, tmp_path / "dead.png"
        )

    def test_options_of_other_commands(
        self, capsys: pytest.CaptureFixture[str], work: Path
    ) -> None:
        message = refused(capsys, work, work / "photo.png", "--metrics", "iou")
        assert message == "unrecognized arguments: --metrics iou (see usu explain --help)"

    def test_folder(self, capsys: pytest.CaptureFixture[str], work: Path) -> None:
        assert "is a folder" in refused(capsys, work, work)

    def test_not_an_image(self, capsys: pytest.CaptureFixture[str], work: Path) -> None:
        assert "is not an image" in refused(capsys, work, work / "names.txt")

    def test_truncated(
        self, capsys: pytest.CaptureFixture[str], work: Path, tmp_path: Path
    ) -> None:
        for suffix in (".png", ".jpg", ".gif", ".webp", ".tif"):
            whole, part = tmp_path / f"whole{suffix}", tmp_path / f"part{suffix}"
            with Image.open(work / "photo.png") as image:
                image.save(whole)
            content = whole.read_bytes()
            for kept in (0, 3, 30, len(content) // 3, len(content) * 9 // 10):
                part.write_bytes(content[:kept])
                assert part.name in refused(capsys, work, part)

    def test_unknown_model(self, capsys: pytest.CaptureFixture[str], work: Path) -> None:
        start = ("explain", work / "photo.png", "--out", work / "refused", "--model")
        for model, near in {
            "timm:resnet81": "resnet18",
            "timm:resnet18.wrong_tag": "resnet18.a1_in1k",
            "torchvision:resnet81": "resnet18",
            "torchvision:ResNet50": "resnet50",
            "resnet18": "timm:NAME",
        }.items():
            message = error_of(capsys, work, *start, model)
            assert near in message
            assert model.partition(":")[2] in message

    def test_model_arguments(self, capsys: pytest.CaptureFixture[str], work: Path) -> None:
        photo, tiny = work / "photo.png", work / "tiny.safetensors"
        start = ("explain", photo, "--out", work / "refused", "--model")
        assert "--arch" in error_of(capsys, work, *start, tiny)
        assert "already holds" in error_of(
            capsys, work, *start, tiny, "--weights", tiny, "--arch", ARCH
        )
        assert "already names" in error_of(capsys, work, *start, ARCH, "--arch", ARCH)
        assert "no such weights" in error_of(capsys, work, *start, ARCH, "--weights", work / "no.x")
        assert "no such weights" in error_of(capsys, work, *start, work / "none.safetensors")
        assert "tensorflow:x" in error_of(capsys, work, *start, tiny, "--arch", "tensorflow:x")

    @pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
    def test_pickles_are_to_be_converted(
        self, capsys: pytest.CaptureFixture[str], work: Path, tmp_path: Path, suffix: str
    ) -> None:
        state = {"a": torch.ones(2)}
        pickle = tmp_path / f"w{suffix}"
        torch.save(state, pickle)
        start = ("explain", work / "photo.png", "--out", tmp_path)
        for given in (("--model", pickle), ("--model", ARCH, "--weights", pickle)):
            message = error_of(capsys, work, *start, *given)
            code = re.fullmatch(r'.* is a pickle, .*: python -c "(.+)"', message)
            assert code is not None
            (tmp_path / "w.safetensors").unlink(missing_ok=True)
            subprocess.run([sys.executable, "-c", code[1]], check=True)  # noqa: S603
            assert load_file(tmp_path / "w.safetensors")["a"].tolist() == [1, 1]

    @pytest.mark.parametrize("option", ["--mean", "--std"])
    def test_colours_of_another_range(
        self, capsys: pytest.CaptureFixture[str], work: Path, option: str
    ) -> None:
        message = refused(capsys, work, work / "photo.png", option, "124", "1", "1")
        assert message.startswith(
            f"argument {option}: must be of values in [0, 1], got 124; divide"
        )

    def test_a_file_for_a_module(self, capsys: pytest.CaptureFixture[str], work: Path) -> None:
        for model in ("nets/own.py:build", "./nets/own.py:build"):
            message = error_of(capsys, work, "explain", work / "photo.png", "--model", model)
            assert "did you mean nets.own:build?" in message

    def test_unreadable_weights(
        self, capsys: pytest.CaptureFixture[str], work: Path, tmp_path: Path
    ) -> None:
        bad = tmp_path / "bad.safetensors"
        torch.save({"a": torch.zeros(1)}, bad)  # a pickle under a false name
        start = ("explain", work / "photo.png", "--out", tmp_path, "--model", ARCH, "--weights")
        assert "not a readable safetensors file" in error_of(capsys, work, *start, bad)

    def test_weights_of_another_architecture(
        self, capsys: pytest.CaptureFixture[str], work: Path
    ) -> None:
        start = ("explain", work / "photo.png", "--out", work / "refused", "--model", ARCH)
        message = error_of(capsys, work, *start, "--weights", work / "vit.safetensors")
        assert "do not fit timm:test_resnet" in message
        assert re.search(r"missing \(first: \S+\)", message)
        assert re.search(r"unexpected \(first: \S+\)", message)

    def test_no_network(
        self, capsys: pytest.CaptureFixture[str], work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_network(*_: object, **__: object) -> None:
            raise OSError("Name or service not known")

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
        with pytest.raises(SystemExit, match="2"):
            explain(work, work / "photo.png", "--model", "torchvision:resnet18", model=False)
        progress, error = capsys.readouterr().err.splitlines()
        assert "fetching the weights" in progress
        assert "--weights FILE.safetensors" in error
        assert "Name or service not known" in error

    def test_no_pretrained_weights(self, capsys: pytest.CaptureFixture[str], work: Path) -> None:
        with pytest.raises(SystemExit, match="2"):
            explain(work, work / "photo.png", "--model", "timm:dpn48b", model=False)
        assert "has no pretrained weights" in capsys.readouterr().err

    def test_not_a_classifier_size(self, capsys: pytest.CaptureFixture[str], work: Path) -> None:
        message = error_of(
            capsys, work, "explain", work / "photo.png", "--model", work / "vit.safetensors",
            "--arch", "timm:test_vit", "--size", "77", "--out", work / "refused",
        )  # fmt: skip
        assert "--size 77" in message

    def test_unknown_layer(self, capsys: pytest.CaptureFixture[str], work: Path) -> None:
        message = refused(capsys, work, work / "photo.png", "--layer", "layer44")
        assert "unknown layer 'layer44'; did you mean layer4" in message

    def test_layer_without_a_map(self, capsys: pytest.CaptureFixture[str], work: Path) -> None:
        message = refused(capsys, work, work / "photo.png", "--layer", "fc")
        assert "layer 'fc' cannot be explained" in message
        assert message.endswith("; give another --layer")
        assert "upsampler=" not in message

    def test_unknown_target(self, capsys: pytest.CaptureFixture[str], work: Path) -> None:
        photo, names = work / "photo.png", ("--classes", work / "names.txt")
        for index in ("5", "-1", "--5", "9" * 5000):
            assert "0 to 4" in refused(capsys, work, photo, f"--target={index}")
        assert "--classes" in refused(capsys, work, photo, "--target", "bee")
        assert "there are: <b>ant</b>, bee" in refused(
            capsys, work, photo, "--target", "zzz", *names
        )

    def test_unknown_upsampler(self, capsys: pytest.CaptureFixture[str], work: Path) -> None:
        message = refused(capsys, work, work / "photo.png", "--upsampler", "usu,bilinaer")
        assert "unknown upsampler 'bilinaer'; did you mean bilinear" in message

    def test_class_names(
        self, capsys: pytest.CaptureFixture[str], work: Path, tmp_path: Path
    ) -> None:
        photo = work / "photo.png"
        for name, content, complaint in (
            ("few.txt", "a\nb\n", "2 class names, but the model has 5 outputs"),
            ("bad.json", "{", "cannot read"),
            ("deep.json", "[" * 100_000, "nested too deeply"),
            ("from1.json", '{"1":"a","2":"b","3":"c","4":"d","5":"e"}', "0 to 4, got '5'"),
            ("twice.json", '{"0":"a","00":"b","2":"c","3":"d","4":"e"}', "0 to 4, got '00'"),
            ("short.csv", "id,name\n0,a\n1\n2,c\n3,d\n4,e\n", "row 2 below the header"),
            ("long.csv", "a" * 200_000, "field larger than field limit"),
            ("bad.csv", "a,b\n1,2\n", "no column is headed 'name'"),
            ("names.pkl", "x", ".txt, .csv or .json"),
        ):
            (tmp_path / name).write_text(content)
            assert complaint in refused(capsys, work, photo, "--classes", tmp_path / name)
        assert "No such file" in refused(capsys, work, photo, "--classes", tmp_path / "none.txt")

    @pytest.mark.parametrize(
        "values", [("--mean", "nan", "0", "0"), ("--std", "inf", "inf", "inf")]
    )
    def test_numbers_that_are_none(
        self, capsys: pytest.CaptureFixture[str], work: Path, values: tuple[str, ...]
    ) -> None:
        assert f"argument {values[0]}: must be finite" in refused(
            capsys, work, work / "photo.png", *values
        )

    def test_unwritable_folder(self, capsys: pytest.CaptureFixture[str], work: Path) -> None:
        for out in (work / "photo.png", work / "photo.png" / "below"):
            assert "cannot write to --out" in refused(
                capsys, work, work / "photo.png", "--out", out
            )
            assert "cannot write to --out" in error_of(capsys, work, "demo", "--out", out)

    @pytest.mark.parametrize(
        "command", ["demo", "explain", "compare", "evaluate", "train-explainer"]
    )
    def test_an_empty_folder_name_is_not_the_working_folder(
        self, capsys: pytest.CaptureFixture[str], work: Path, command: str
    ) -> None:
        message = error_of(capsys, work, command, "--out", "")
        assert message.startswith("argument --out: must be a path, got ''; . is the working folder")

    def test_bugs_keep_their_traceback(self, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("usu_cli._explain.upsample_all", broken)
        with pytest.raises(ZeroDivisionError):
            explain(work, work / "photo.png", "--out", work / "broken")


class TestReading:
    """Pictures arrive upright, opaque and in RGB."""

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1"])
    def test_modes(self, tmp_path: Path, mode: str) -> None:
        path = tmp_path / f"image.{'tif' if mode == 'CMYK' else 'png'}"
        Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(path)
        image = read_image(path)
        assert image.mode == "RGB"
        assert image.size == (6, 4)
        assert image.getpixel((1, 1)) == (255, 255, 255)

    def test_transparency_is_white(self, tmp_path: Path) -> None:
        Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
        assert read_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)

    def test_sixteen_bits(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((2, 2), 32768, dtype=np.uint16)).save(tmp_path / "deep.png")
        assert read_image(tmp_path / "deep.png").getpixel((0, 0)) == (127, 127, 127)

    @pytest.mark.parametrize("dtype", [np.int32, np.float32])
    def test_greys_of_no_known_range(self, tmp_path: Path, dtype: type) -> None:
        Image.fromarray(np.ones((2, 2), dtype=dtype)).save(tmp_path / "deep.tif")
        with pytest.raises(UsageError, match=r"cannot read image .* which say not what white is"):
            read_image(tmp_path / "deep.tif")

    def test_orientation(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
        assert read_image(tmp_path / "turned.jpg").size == (4, 8)

    def test_huge_picture_is_refused(self, tmp_path: Path) -> None:
        header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + header
        path = tmp_path / "bomb.png"
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + struct.pack(">I", 13)
            + chunk
            + struct.pack(">I", zlib.crc32(chunk))
        )
        with pytest.raises(UsageError, match="bomb"):
            read_image(path)


def test_class_name_files(tmp_path: Path) -> None:
    for name, content in {
        "a.txt": "ant\nbee\n",
        "a.csv": "index,name\n0,ant\n1,bee\n",
        "b.csv": "ant\nbee\n",
        "a.json": '["ant", "bee"]',
        "b.json": '{"1": "bee", "0": "ant"}',
    }.items():
        (tmp_path / name).write_text(content)
        assert read_class_names(tmp_path / name, 2) == ("ant", "bee")


def test_a_shared_class_name_is_not_guessed() -> None:
    with pytest.raises(UsageError, match="indices 0, 2"):
        find_target("crane", 3, ("crane", "bee", "Crane"))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (20, 33), (1000, 7)])
def test_crop_is_square_and_central(size: tuple[int, int]) -> None:
    crop = Preprocessing(size=64, resize=73).crop(Image.new("RGB", size))
    assert crop.size == (64, 64)


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_of_a_strip(turn: bool, interpolation: str) -> None:
    rng = np.random.default_rng(0)
    # Far from black and white, where bicubic overshoots are clipped between Pillow's two passes.
    pixels = rng.integers(80, 176, (9, 401, 3), dtype=np.uint8)
    image = Image.fromarray(pixels.swapaxes(0, 1).copy() if turn else pixels)
    look = Preprocessing(size=64, resize=73, interpolation=interpolation)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("usu_cli._preprocessing._LONGEST", 100)
        whole = np.asarray(look.crop(image), dtype=int)
    assert np.abs(whole - np.asarray(look.crop(image))).max() <= 1


def test_crop_resizes_no_more_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    resize = Image.Image.resize

    def noting(image: Image.Image, size: tuple[int, int], *args: Any, **options: Any) -> Any:
        sizes.append(size)
        return resize(image, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", noting)
    Preprocessing(size=64, resize=73).crop(Image.new("RGB", (1, 3000)))
    Preprocessing(size=64, resize=73).crop(Image.new("RGB", (100, 1600)))
    assert sizes == [(64, 64), (73, 1168)]


def timm_model(**recorded: Any) -> torch.nn.Module:
    """Return a model of which timm records how its input looks."""
    model = torch.nn.Identity()
    model.pretrained_cfg = {"mean": (0.5, 0.25, 0.75), "std": (0.5, 0.25, 0.5), **recorded}
    return model


@pytest.mark.parametrize("size", [(900, 300), (300, 900), (50, 100)])
@pytest.mark.parametrize("share", [1.0, 0.8])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_a_model_sees_what_timm_shows_it(mode: str, share: float, size: tuple[int, int]) -> None:
    from timm.data import create_transform, resolve_model_data_config

    model = timm_model(input_size=(3, 64, 64), crop_pct=share, crop_mode=mode)
    thirds = np.random.default_rng(0).integers(0, 255, (3, 3, 3), dtype=np.uint8)
    image = Image.fromarray(thirds).resize(size, Image.Resampling.NEAREST)
    look = for_timm(model)
    theirs = create_transform(**resolve_model_data_config(model))(image)
    torch.testing.assert_close(look.normalise(look.crop(image))[0], theirs)


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1)])
@pytest.mark.parametrize("mode", ["squash", "border"])
def test_crop_of_a_strip_that_is_not_cut(mode: str, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "white")
    assert Preprocessing(size=64, resize=64, crop_mode=mode).crop(image).size == (64, 64)


def test_beyond_a_masks_border_is_no_object() -> None:
    look = Preprocessing(size=90, resize=90, crop_mode="border")
    mask = np.asarray(look.crop(Image.new("L", (900, 300), 255)))
    assert (mask[30:60] == 255).all()
    assert not mask[:30].any()
    assert not mask[60:].any()


def test_only_square_inputs() -> None:
    with pytest.raises(UsageError, match="takes images 48 pixels wide and 64 high"):
        for_timm(timm_model(input_size=(3, 64, 48)))


@pytest.fixture(scope="module")
def data() -> Path:
    root = Path(__file__).parent.parent
    folder = Path(os.environ.get("USU_DATA", root.parent / "shared" / "data"))
    if not (folder / "load_models.py").is_file():
        pytest.skip(f"no real models and images in {folder}: set USU_DATA")
    return folder


def loaders(data: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("load_models", data / "load_models.py")
    if spec is None or spec.loader is None:
        raise ImportError(data)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.data
@pytest.mark.parametrize(
    ("spec", "weights"),
    [
        ("torchvision:resnet18", "imagenet/resnet18.safetensors"),
        ("timm:deit_tiny_patch16_224", "vit/deit_tiny_patch16_224.safetensors"),
        ("torchvision:mobilenet_v2", "imagenet/mobilenet_v2.safetensors"),
        ("torchvision:resnet50", None),
    ],
)
def test_real_models(data: Path, tmp_path: Path, spec: str, weights: str | None) -> None:
    file = tmp_path / "resnet50.safetensors" if weights is None else data / weights
    if weights is None:
        model, _ = loaders(data).imagenet("resnet50")
        save_file(model.state_dict(), file)
    image = data / "imagenet" / "images" / "n01440764_tench.jpg"
    main([
        str(a)
        for a in (
            "explain", image, "--model", spec, "--weights", file,
            "--upsampler", "nearest,usu-fast", "--out", tmp_path,
        )
    ])  # fmt: skip
    found = json.loads((tmp_path / "manifest.json").read_text())["images"][0]
    assert found["top"][0]["name"] == "tench"
    assert found["grid"] == ([14, 14] if "deit" in spec else [7, 7])
    assert found["figures"]["usu-fast"]["mass_error"] < 1e-5


def test_methods_lists_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    main(["methods"])
    said = capsys.readouterr().out
    for name in ("usu", "score-map", "LayerGradCam", "RISE", "deletion", "pointing-game"):
        assert re.search(rf"^{name} ", said, re.M), name
    upsamplers = said.split("\n\n")[1].splitlines()[2:]
    about = [re.split(r" {2,}", line, maxsplit=2)[2] for line in upsamplers]
    assert len(about) > 10
    assert len(set(about)) == len(about), "two names cannot be told apart"


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    for command, wanted in {
        "demo": ("usu-demo", "6"),
        "explain": ("usu-explain",),
        "evaluate": ("usu-evaluate", "160", "16", "96", "64"),
        "train-explainer": ("usu-explainer", "100", "2000", "0.001", "0"),
    }.items():
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        said = " ".join(capsys.readouterr().out.split())
        for default in wanted:
            assert f"(default {default})" in said, (command, default)


def test_doctor_says_what_works(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    said = capsys.readouterr().out
    assert re.search(r"^Grad-CAM with usu +works$", said, re.M)
    assert torch.__version__.partition("+")[0] in said


def test_doctor_knows_all_that_is_needed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = ["jinja2>=3.1", "opencv-python", "scipy>=1.15; extra == 'evaluate'"]
    monkeypatch.setattr("usu_cli._doctor.requires", lambda _: needed)
    monkeypatch.setattr("usu_cli._doctor._version", lambda name: {"jinja2": "3.9"}.get(name))
    with pytest.raises(SystemExit, match="2"):
        main(["doctor"])
    said = capsys.readouterr()
    assert re.search(r"^jinja2 +3.9$", said.out, re.M)
    assert re.search(r"^opencv-python +missing$", said.out, re.M)
    assert re.search(r"^extra evaluate +missing: pip install scipy$", said.out, re.M)
    assert said.err == "usu: error: missing: pip install opencv-python\n"


def test_doctor_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = ("pandas", "tabulate")
    monkeypatch.setattr("usu_cli._doctor._version", lambda name: None if name in missing else "1")
    monkeypatch.setattr(
        "usu_cli._doctor.requires",
        lambda _: (
            [f"{name}; extra == 'evaluate'" for name in ("scipy", *missing)]
            + ['diffusers>=0.30; extra == "manifold"']
        ),
    )
    main(["doctor"])
    said = capsys.readouterr().out
    assert re.search(r"^extra evaluate +missing: pip install pandas tabulate$", said, re.M)
    assert re.search(r"^extra manifold +installed$", said, re.M)


def test_doctor_fails_where_a_check_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usu_core.usu", lambda cells, scores: scores)
    with pytest.raises(SystemExit) as caught:
        main(["doctor"])
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert re.search(r"^mass of cells +fails: ", said.out, re.M)
    assert "1 of 3 checks failed: mass of cells" in said.err


def test_upsamplers_with_different_scores_each_show_theirs() -> None:
    segmenter = Quadtree((2,))
    ways = {
        "plain": Interpolation("nearest"),
        "drop": USU(segmenter=segmenter),
        "drop, moved": IWMR(segmenter=segmenter),
        "keep": USU(segmenter=segmenter, scorer=MaskedPerturbation(mode="keep")),
    }
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    score = model_score(lambda x: x.square().mean((1, 2, 3)))
    found = upsample_all(torch.ones(1, 1, 2, 2), image, score, ways)
    assert list(found.score_maps) == ["drop", "keep"]
    assert not torch.equal(found.score_maps["drop"], found.score_maps["keep"])


class TestPages:
    """What a page says is of what it shows."""

    def test_only_the_upsamplers_shown_are_explained(self, work: Path, tmp_path: Path) -> None:
        explain(work, work / "photo.png", "--upsampler", "bilinear,tilted", "--out", tmp_path)
        page = (tmp_path / "report.html").read_text()
        assert "tilted: Multiply the smooth" in page
        assert "Scores of segments have colours of their own" in page
        assert "iwmr" not in page.lower()
        assert "usu: " not in page
        assert re.search(r"<dt>Preprocessing</dt><dd>size 64; .*; interpolation ", page)
        explain(work, work / "photo.png", "--upsampler", "bilinear", "--out", tmp_path)
        assert "Scores of segments" not in (tmp_path / "report.html").read_text()

    def test_maps_without_a_zero_are_drawn_from_their_lowest_value(self) -> None:
        image = np.full((8, 8, 3), 128, dtype=np.uint8)
        ramp = np.linspace(0, 1, 64).reshape(8, 8)
        shifted = map_panel("RISE", "auc 1", 0.8 + 0.1 * ramp, image)
        assert shifted.caption == "auc 1, drawn from its lowest value"
        plain = map_panel("m", "", ramp, image)
        assert plain.caption == ""
        assert np.abs(shifted.picture.astype(int) - plain.picture).max() <= 3
        near = map_panel("m", "", 0.1 + ramp, image)  # it has a zero, if not in the image
        assert near.caption == ""
        assert near.picture[0, 0].tolist() != plain.picture[0, 0].tolist()

    def test_empty_maps_say_so(self) -> None:
        image = np.full((8, 8, 3), 128, dtype=np.uint8)
        for value in (0.0, -1.0):
            panel = map_panel("m", "", np.full((8, 8), value), image)
            assert panel.caption == "no positive values"
            assert len(np.unique(panel.picture)) == 1
        assert map_panel("m", "", np.ones((8, 8)), image).caption == ""

    def test_long_titles_have_room(self) -> None:
        image = np.zeros((8, 8, 3), dtype=np.uint8)
        title = "LayerIntegratedGradients, bilinear"
        sizes = []
        for names in ([title] * 4, ["a"] * 4):
            with Image.open(io.BytesIO(panel_png("t", [Panel(n, "c", image) for n in names]))) as p:
                sizes.append(p.size)
        assert sizes[0][0] == sizes[1][0]
        assert sizes[0][1] > sizes[1][1], "a second line has its height"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = set()
    forward = timm.models.ResNet.forward
    monkeypatch.setattr(
        timm.models.ResNet, "forward",
        lambda net, x: (devices.add(x.device.type), forward(net, x))[1],
    )  # fmt: skip
    explain(work, work / "photo.png", "--out", tmp_path)
    assert "cuda" in devices
