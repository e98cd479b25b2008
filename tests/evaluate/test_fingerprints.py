"""Results are of pictures and masks, not of names: others by the same names are refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from usu_cli._errors import UsageError
from usu_cli.evaluate import Item, Record, read_records
from usu_cli.evaluate._fingerprints import check_same, write_digests

Run = Callable[..., None]
QUICK = ("--methods", "random", "--metrics", "sparseness")


@pytest.fixture
def data(work: Path, tmp_path: Path) -> Path:
    """Return a folder with three pictures."""
    shutil.copytree(work / "images" / "a", tmp_path / "data")
    return tmp_path / "data"


def test_another_picture_by_the_same_name_is_refused(
    work: Path, data: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(out, *QUICK, data=data)
    before = (out / "records-000.jsonl").read_bytes()
    run(out, *QUICK, data=work / "images" / "a")  # the same pictures elsewhere
    shutil.copy(data / "1.png", data / "3.png")
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(out, *QUICK, "--upsamplers", "lanczos", data=data)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "holds results of another picture by the name '3.png'; give another --out" in said
    assert (out / "records-000.jsonl").read_bytes() == before
    assert "lanczos" not in (out / "settings.json").read_text(), "what is refused binds nothing"


def test_a_folder_of_an_earlier_version_is_gone_on_with(
    data: Path, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(out, *QUICK, "--images", "2", data=data)
    (out / "images.json").unlink()
    run(out, *QUICK, data=data)
    assert len(read_records(out)) == 3
    assert (out / "images.json").is_file()


def record(metric: str, value: float | None) -> Record:
    return Record("a", "random", "-", metric, value, 0, 0)


@pytest.mark.parametrize(
    ("records", "changed"),
    [
        ([], ""),
        ([record("deletion", None)], ""),
        ([record("deletion", 1.0)], "picture"),
        ([record("iou", None), record("retired-metric", 1.0)], "picture"),
        ([record("iou", 1.0)], "picture mask"),
    ],
)
def test_only_what_was_measured_must_not_change(
    tmp_path: Path, records: list[Record], changed: str
) -> None:
    item = Item("a", tmp_path / "a.png", mask=tmp_path / "m.png")
    for path in (item.path, tmp_path / "m.png"):
        Image.new("L", (4, 4)).save(path)
    write_digests(tmp_path, check_same(tmp_path, [item], []))
    assert check_same(tmp_path, [item], records)
    for part, path in (("picture", item.path), ("mask", tmp_path / "m.png")):
        kept = path.read_bytes()
        Image.new("L", (4, 4), "white").save(path)
        if part in changed:
            with pytest.raises(UsageError, match=f"another {part} by the name 'a'"):
                check_same(tmp_path, [item], records)
        else:
            assert check_same(tmp_path, [item], records)
        path.write_bytes(kept)
    item.path.unlink()  # said where it is read
    assert check_same(tmp_path, [item], records)["a"].keys() == {"picture", "mask"}


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 3}', "\udcff"])
def test_digests_of_something_else_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "images.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match="does not hold digests of usu evaluate"):
        check_same(tmp_path, [], [])
