"""Folders and lists of images."""

from pathlib import Path

import pytest

from usu_cli._errors import UsageError
from usu_cli.evaluate import Item, list_items


def test_a_folder_is_listed_below_and_in_order(work: Path) -> None:
    names = [item.name for item in list_items(work / "images")]
    assert names == ["a/1.png", "a/3.png", "a/5.png", "b/0.png", "b/2.png", "b/4.png"]


def test_some_are_taken_evenly(work: Path) -> None:
    names = [item.name for item in list_items(work / "images", count=3)]
    assert names == ["a/1.png", "a/5.png", "b/4.png"]


def test_masks_are_found_by_name(work: Path) -> None:
    items = list_items(work / "images", work / "masks")
    assert [item.mask is not None for item in items] == [True, True, False, True, True, False]


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
