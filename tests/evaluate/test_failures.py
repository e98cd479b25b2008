"""What fails for one image, what fails for all, and what stands in the way in the folder."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from usu_cli.evaluate import Record, read_records, summarise
from usu_cli.evaluate._plan import read_settings
from usu_cli.evaluate._sources import Explanation, Setting, Subject

Run = Callable[..., None]
QUICK = ("--methods", "random", "--metrics", "sparseness", "--images", "2")


@pytest.fixture
def refused(run: Run, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs the command, expects it to refuse, and returns what it says."""

    def call(out: Path, *more: str, data: Path | None = None) -> str:
        with pytest.raises(SystemExit) as caught:
            run(out, *more, data=data)
        assert caught.value.code == 2
        error = capsys.readouterr().err.strip().rpartition("\r")[2]
        assert "Traceback" not in error
        return error.splitlines()[-1]

    return call


@pytest.fixture
def explains(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Subject], bool]], None]:
    """Return a function that says which images the method ``random`` can explain."""

    def choose(can: Callable[[Subject], bool]) -> None:
        def method(name: str, setting: Setting, subject: Subject) -> Explanation:
            if not can(subject):
                raise ValueError("not this one")
            return Explanation(fine=torch.rand((1, *subject.inputs.shape[2:])))

        monkeypatch.setattr("usu_cli.evaluate._sources._random", method)

    return choose


def is_noise(subject: Subject) -> bool:
    """Whether this is what a method that failed is tried on: no picture is without dark pixels."""
    return float(subject.inputs.min()) >= 0


def table(work: Path, name: str, *targets: int) -> Path:
    path = work / "images" / f"{name}.csv"
    path.write_text("image,target\n" + "".join(f"a/1.png,{target}\n" for target in targets))
    return path


def test_a_method_that_fails_for_an_image_goes_on_and_is_tried_again(
    work: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    explains: Callable[[Callable[[Subject], bool]], None],
) -> None:  # fmt: skip
    data = table(work, "one_fails", 1, 2, 3)
    wanted = ("--methods", "random,LayerGradCam", "--upsamplers", "nearest",
              "--metrics", "deletion,sparseness", "--against", "random")  # fmt: skip
    explains(lambda subject: subject.target != 1 or is_noise(subject))
    run(tmp_path, *wanted, data=data)
    said = capsys.readouterr().out
    assert "2 values could not be measured, and will be tried again next time; the first: " in said
    assert "deletion of a/1.png#1: method 'random' cannot explain this: not this one" in said
    records = read_records(tmp_path)
    assert {r.key[:2] for r in records if r.value is None} == {("a/1.png#1", "random")}
    assert len(records) == 3 * 2 * 2
    before = (tmp_path / "records-000.jsonl").read_bytes()
    run(tmp_path, *wanted, data=data)
    assert (tmp_path / "records-000.jsonl").read_bytes() == before, "the same failure is no news"
    explains(lambda subject: True)
    run(tmp_path, *wanted, data=data)
    assert "could not be measured" not in capsys.readouterr().out.rpartition("next time")[2]
    assert all(r.value is not None for r in read_records(tmp_path))
    assert len(read_records(tmp_path)) == 3 * 2 * 2


def test_a_method_that_cannot_explain_the_model_ends_the_run_and_binds_no_other(
    run: Run, tmp_path: Path, refused: Callable[..., str],
    explains: Callable[[Callable[[Subject], bool]], None],
) -> None:  # fmt: skip
    explains(lambda subject: False)
    assert "'random' cannot explain this" in refused(tmp_path, *QUICK, "--layer", "layer1")
    assert read_records(tmp_path) == []
    explains(lambda subject: True)
    run(tmp_path, *QUICK, "--layer", "layer2")
    assert read_settings(tmp_path)["layer"] == "layer2"
    assert len(read_records(tmp_path)) == 2
    assert "results of another layer" in refused(tmp_path, *QUICK, "--layer", "layer1")


def test_when_every_image_fails_it_says_why(
    work: Path, tmp_path: Path, refused: Callable[..., str],
    explains: Callable[[Callable[[Subject], bool]], None],
) -> None:  # fmt: skip
    explains(is_noise)
    said = refused(tmp_path, *QUICK, data=table(work, "all_fail", 1, 2))
    assert "nothing could be measured; the first: sparseness of a/1.png#" in said
    assert "not this one" in said


def test_a_map_that_cannot_be_upsampled_fails_for_its_image(
    work: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def layer_map(name: str, setting: Setting, subject: Subject) -> Explanation:
        cells = torch.ones(1, 1, 4, 4)
        return Explanation(cells=(cells / 0 if subject.target == 1 else cells,))

    monkeypatch.setattr("usu_cli.evaluate._sources._layer_map", layer_map)
    run(tmp_path, "--upsamplers", "usu", "--metrics", "sparseness",
        data=table(work, "infinite", 1, 2))  # fmt: skip
    by_image = {r.image: r for r in read_records(tmp_path)}
    assert by_image["a/1.png#2"].value is not None
    assert by_image["a/1.png#1"].value is None
    assert by_image["a/1.png#1"].error


def test_an_image_that_a_method_fails_for_costs_nothing_in_the_mean() -> None:
    made = Record("a", "RISE", "-", "deletion", 0.5, target=0, evaluations=100)
    failed = Record("b", "RISE", "-", "deletion", None, target=0, evaluations=0, error="no")
    undefined = Record("c", "RISE", "-", "deletion", None, target=0, evaluations=50, error="no")
    summary = summarise([made, failed, undefined], ())
    assert summary.images == 1
    assert summary.evaluations == {("RISE", "-"): 75}
    assert summarise([failed], ()).evaluations == {("RISE", "-"): 0}


def test_a_corrected_mask_is_measured_again(
    work: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = tmp_path / "masks"
    shutil.copytree(work / "masks" / "a", masks)
    good = (masks / "1.png").read_bytes()
    Image.new("L", (64, 64)).save(masks / "1.png")  # no object
    wanted = ("--methods", "random", "--metrics", "iou", "--masks", str(masks))
    out = tmp_path / "out"
    run(out, *wanted, data=work / "images" / "a")
    assert "1 value could not be measured" in (said := capsys.readouterr().out)
    assert "1 image; tables" in said, "an image without a value is not counted"
    (masks / "1.png").write_bytes(good)
    run(out, *wanted, data=work / "images" / "a")
    assert "2 images; tables" in capsys.readouterr().out
    assert all(r.value is not None for r in read_records(out))


@pytest.mark.parametrize(
    "text",
    [
        '{"model": ',
        "[]",
        "3",
        "{}",
        '{"upsamplers": {}, "versions": {}}',
        '{"upsamplers": [], "versions": {"usu-attribution": "1"}}',
        "\udcff",
    ],
)
def test_settings_of_something_else_are_left_alone(
    tmp_path: Path, refused: Callable[..., str], text: str
) -> None:
    content = text.encode("utf-8", "surrogateescape")
    (tmp_path / "settings.json").write_bytes(content)
    assert "does not hold settings of usu evaluate; give another --out" in refused(tmp_path, *QUICK)
    assert (tmp_path / "settings.json").read_bytes() == content


@pytest.mark.parametrize(
    "name", ["report.html", "settings.json", "records-000.jsonl", "ranks-sparseness.png"]
)
def test_a_folder_in_the_place_of_a_file_is_seen_before_any_work(
    tmp_path: Path, refused: Callable[..., str], name: str
) -> None:
    (tmp_path / name).mkdir()
    said = refused(tmp_path, *QUICK)
    assert f"{name}' is a folder" in said
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("target", ["--5", "+-1", "9" * 5000])
def test_a_listed_target_that_looks_like_a_number(
    work: Path, tmp_path: Path, refused: Callable[..., str], target: str
) -> None:
    path = work / "images" / "number.csv"
    path.write_text(f"image,target\na/1.png,{target}\n")
    assert "unknown target" in refused(tmp_path, *QUICK, data=path)


def test_names_of_all_kinds_are_measured_once(work: Path, run: Run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    names = ["a\u2028b.png", "c#2.png"]
    try:
        shutil.copy(work / "images" / "a" / "1.png", data / os.fsdecode(b"\xff.png"))
        names.append(r"\udcff.png")
    except (OSError, ValueError):
        pass  # this file system takes no such name
    for name in names[:2]:
        shutil.copy(work / "images" / "a" / "1.png", data / name)
    for _ in range(2):
        run(tmp_path / "out", *QUICK[:4], data=data)
        assert {r.image for r in read_records(tmp_path / "out")} == set(names)
    lines = (tmp_path / "out" / "records-000.jsonl").read_bytes().split(b"\n")
    assert len(lines) == len(names) + 1


def test_plots_are_not_measured_the_next_time(
    work: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(work / "images" / "a" / "1.png", tmp_path)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        run(Path("out"), *QUICK[:2], "--metrics", "deletion", data=Path())
        assert {r.image for r in read_records(Path("out"))} == {"1.png"}


def test_maps_of_a_method_stand_together() -> None:
    maps = [("b", "usu"), ("a", "usu"), ("b", "nearest"), ("a", "nearest")]
    records = [Record("1", *name, "deletion", 0.5, 0, 0) for name in maps]
    found = summarise(records, ()).maps
    assert found == (("b", "usu"), ("b", "nearest"), ("a", "usu"), ("a", "nearest"))


def test_marks_say_what_is_better_after_correction() -> None:
    from usu_cli.evaluate._statistics import Paired
    from usu_cli.evaluate._summary import Comparison, Summary
    from usu_cli.evaluate._tables import means

    def against(way: str, gain: float, holm: float) -> Comparison:
        result = Paired(9, gain, gain, gain, 0.01, 1.0, 1.0, 1.0)
        return Comparison("deletion", ("m", way), ("m", "bilinear"), result, holm, holm)

    ways = ("bilinear", "usu", "iwmr", "nearest")
    summary = Summary(
        images=9,
        metrics=("deletion",),
        maps=tuple(("m", way) for way in ways),
        values={("deletion", ("m", way)): {"a": 0.5} for way in ways},
        curves={},
        evaluations={("m", way): 0.0 for way in ways},
        comparisons=(against("usu", 0.1, 0.02), against("iwmr", -0.1, 0.02),
                     against("nearest", 0.1, 0.06)),
        errors=(),
    )  # fmt: skip
    marks = {row[1]: row[-1].lstrip("0.5") for row in means(summary, "bilinear")[1]}
    assert marks == {"bilinear": "", "usu": "+", "iwmr": "-", "nearest": ""}
