"""Folders and lists of images."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usu_cli._errors import UsageError
from usu_cli.evaluate import Item, list_items
from usu_cli.evaluate._items import read_mask


def test_a_folder_is_listed_below_and_in_order(work: Path) -> None:
    names = [item.name for item in list_items(work / "images")]
    assert names == ["a/1.png", "a/3.png", "a/5.png", "b/0.png", "b/2.png", "b/4.png"]


def test_some_are_taken_evenly(work: Path) -> None:
    names = [item.name for item in list_items(work / "images", count=3)]
    assert names == ["a/1.png", "a/5.png", "b/4.png"]


def test_masks_are_found_by_name(work: Path) -> None:
    items = list_items(work / "images", work / "masks")
    assert [item.mask is not None for item in items] == [True, True, False, True, True, False]


def test_masks_may_have_a_capital_suffix(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "1.png")
    mask = picture(tmp_path / "masks" / "1.PNG")
    assert list_items(tmp_path / "images", tmp_path / "masks")[0].mask == mask


def test_lists_are_relative_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("x/1.png\n\n2.png\n")
    items = list_items(tmp_path / "list.txt")
    assert items == [
        Item("x/1.png", tmp_path / "x" / "1.png"),
        Item("2.png", tmp_path / "2.png"),
    ]


def test_a_table_gives_targets_and_masks(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image,target,mask\n1.png,3,m.png\n1.png,4,\n2.png,,\n")
    assert list_items(tmp_path / "list.csv") == [
        Item("1.png#3", tmp_path / "1.png", "3", tmp_path / "m.png"),
        Item("1.png#4", tmp_path / "1.png", "4"),
        Item("2.png", tmp_path / "2.png"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "no images"),
        ("a.txt", "1.png\n1.png\n", "twice"),
        ("a.csv", "file\n1.png\n", "columns"),
        ("a.csv", "image,label\n1.png,2\n", "columns"),
        ("a.json", "[]", "must be a folder"),
        ("a.txt", "a/1.png\n./a/1.png\n", "names 'a/1.png' twice"),
        ("a.txt", "a/1.png\na/../a/1.png\n", r"names 'a/\.\./a/1.png' twice"),
        ("a.csv", "image,target\n1.png,\n,3\n", "row 2 below the header of .* names no image"),
        ("a.csv", "image,target\na, b.png,3\n", "row 1 below the header of .* has more cells"),
    ],
)
def test_lists_that_make_no_sense(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        list_items(tmp_path / name)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the list"):
        list_items(tmp_path / "missing.txt")
    with pytest.raises(UsageError, match="no images"):
        list_items(tmp_path)
    with pytest.raises(UsageError, match=r"--data .*nodir' does not exist"):
        list_items(tmp_path / "nodir")


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, value, value)).save(path)
    return path


@pytest.mark.parametrize("way", ["{}", "../images/a/1.png", "../lists/../images/a/1.png"])
def test_the_mask_of_a_listed_image_elsewhere_is_never_the_image(tmp_path: Path, way: str) -> None:
    image = picture(tmp_path / "images" / "a" / "1.png")
    mask = picture(tmp_path / "masks" / "1.png")
    table = tmp_path / "lists" / "list.txt"
    table.parent.mkdir()
    table.write_text(way.format(image))
    (item,) = list_items(table, tmp_path / "masks")
    assert item.mask == mask


def test_an_absolute_path_below_the_list_is_as_good_as_a_relative_one(tmp_path: Path) -> None:
    image = picture(tmp_path / "a" / "1.png")
    mask = picture(tmp_path / "masks" / "a" / "1.png")
    (tmp_path / "list.txt").write_text(str(image))
    assert list_items(tmp_path / "list.txt", tmp_path / "masks")[0].mask == mask


def test_an_image_is_not_its_own_mask(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    (tmp_path / "list.csv").write_text("image,mask\n1.png,1.png\n")
    with pytest.raises(UsageError, match=r"mask of '1\.png' would be the image itself"):
        list_items(tmp_path / "list.csv")
    with pytest.raises(UsageError, match=r"mask of '1\.png' would be the image itself"):
        list_items(tmp_path, tmp_path)


def test_one_mask_is_not_taken_for_images_in_two_folders(tmp_path: Path) -> None:
    images = [picture(tmp_path / side / "1.png") for side in "ab"]
    picture(tmp_path / "masks" / "1.png")
    table = tmp_path / "lists" / "list.txt"
    table.parent.mkdir()
    table.write_text("\n".join(map(str, images)))
    with pytest.raises(UsageError, match="would be the mask of images in two folders"):
        list_items(table, tmp_path / "masks")


def test_a_number_sign_is_part_of_a_files_name(tmp_path: Path) -> None:
    for name in ("cat.png", "cat#2.png"):
        picture(tmp_path / "images" / name)
        picture(tmp_path / "masks" / name)
    masks = [item.mask for item in list_items(tmp_path / "images", tmp_path / "masks")]
    assert masks == [tmp_path / "masks" / "cat#2.png", tmp_path / "masks" / "cat.png"]
    table = tmp_path / "images" / "list.csv"
    table.write_text("image,target\ncat.png,2\n")
    assert list_items(table, tmp_path / "masks")[0].mask == tmp_path / "masks" / "cat.png"


def test_results_and_masks_are_no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("1.png", "masks/1.png", "out/curves.png", "outer/2.png"):
        picture(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for given in (Path(), tmp_path):  # relative and absolute paths name the same folders
        items = list_items(Path(), given / "masks", out=given / "out")
        assert [item.name for item in items] == ["1.png", "outer/2.png"]
    with pytest.raises(UsageError, match=r"--out '\.' is the folder of images"):
        list_items(tmp_path, out=Path())
    # Images may lie below the results.
    assert [item.name for item in list_items(tmp_path / "outer", out=tmp_path)] == ["2.png"]


@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_only_line_feeds_end_lines(tmp_path: Path, suffix: str) -> None:
    name = "a\u2028b\x85c.png"
    path = tmp_path / f"list.{suffix}"
    path.write_text(("image\n" if suffix == "csv" else "") + name + "\n2.png\n", encoding="utf-8")
    assert [item.name for item in list_items(path)] == [name, "2.png"]


def test_an_open_quote_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('image,target\n"1.png,3\n')
    with pytest.raises(UsageError, match=r"cannot read the list .*list.csv'.*check its quotes"):
        list_items(tmp_path / "list.csv")


def test_a_name_that_is_not_utf8_can_be_written(tmp_path: Path) -> None:
    try:
        picture(tmp_path / os.fsdecode(b"\xff.png"))
    except (OSError, ValueError):
        pytest.skip("this file system takes no such name")
    (item,) = list_items(tmp_path)
    assert item.name == r"\udcff.png"
    assert item.path.is_file()
    picture(tmp_path / item.name)
    with pytest.raises(UsageError, match="twice"):
        list_items(tmp_path)


def test_a_mask_that_is_no_picture_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    with pytest.raises(UsageError, match="cannot read mask"):
        read_mask(tmp_path / "m.png", (4, 4))


@pytest.mark.parametrize("bits", [8, 16])
def test_masks_of_any_depth_are_cut_at_half(tmp_path: Path, bits: int) -> None:
    greys = np.array([[0.0, 0.4, 0.6, 1.0]]) * (2**bits - 1)
    kind = np.uint8 if bits == 8 else np.uint16
    Image.fromarray(greys.astype(kind)).save(tmp_path / "m.png")
    mask = np.asarray(read_mask(tmp_path / "m.png", (4, 1)))
    assert (mask >= 128).tolist() == [[False, False, True, True]]


def test_some_are_taken_at_the_nearest_places_and_never_twice(work: Path) -> None:
    names = [item.name for item in list_items(work / "images", count=4)]
    assert names == ["a/1.png", "a/5.png", "b/0.png", "b/4.png"]  # 0, 1.67, 3.33 and 5 of 6
    assert len(list_items(work / "images", count=9)) == 6


def test_a_mask_on_its_side_is_of_another_size(tmp_path: Path) -> None:
    Image.new("L", (6, 4)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", (6, 4)).size == (6, 4)
    with pytest.raises(UsageError, match="is 6x4 for an image of 4x6"):
        read_mask(tmp_path / "m.png", (4, 6))


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_list_may_begin_with_a_byte_order_mark(tmp_path: Path, name: str) -> None:
    header = "image,target\n" if name.endswith("csv") else ""
    (tmp_path / name).write_text(header + "1.png\n", encoding="utf-8-sig")
    assert [item.name for item in list_items(tmp_path / name)] == ["1.png"]
