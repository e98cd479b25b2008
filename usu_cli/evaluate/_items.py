"""The images to evaluate on: a folder, or a list with targets and masks."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from usu_captum.ranking._images import SUFFIXES
from usu_cli._errors import UsageError, one_line

_COLUMNS = ("image", "target", "mask")


@dataclass(frozen=True)
class Item:
    """One image to explain.

    Args:
        name: What its records call it; no other item has the same.
        path: The picture.
        target: The class to explain, by index or name; the model's first if ``None``.
        mask: A picture of the same size whose bright pixels are the object.
    """

    name: str
    path: Path
    target: str | None = None
    mask: Path | None = None


def list_items(data: Path, masks: Path | None = None, count: int | None = None) -> list[Item]:
    """Return the items of a folder, a ``.txt`` with a path per line, or a ``.csv``.

    A CSV file has a column ``image`` and may have ``target`` and ``mask``. Paths in lists are
    relative to the list.

    Args:
        data: The folder or list.
        masks: A folder with, for ``a/b.jpg``, ``a/b.png``; images without one have no mask.
        count: Take so many, evenly spaced.

    Raises:
        UsageError: If there is nothing to take, or a list does not make sense.
    """
    if data.is_dir():
        files = sorted(p for p in data.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        items = [Item(file.relative_to(data).as_posix(), file) for file in files]
    elif data.suffix.lower() in (".txt", ".csv"):
        items = _listed(data)
    else:
        raise UsageError(f"--data must be a folder, a .txt or a .csv list, got {str(data)!r}")
    if not items:
        raise UsageError(f"no images in {str(data)!r}")
    if masks is not None:
        items = _with_masks(items, masks)
    if count is not None and count < len(items):
        places = np.linspace(0, len(items) - 1, count).round().astype(int)
        items = [items[place] for place in places]
    return items


def read_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """Read a mask as a greyscale picture of ``size`` (width, height).

    Raises:
        UsageError: If it cannot be read, or has another size.
    """
    try:
        with Image.open(path) as image:
            mask = image.convert("L")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read mask {str(path)!r}: {one_line(error)}") from error
    if mask.size != size:
        raise UsageError(
            f"mask {str(path)!r} is {mask.size[0]}x{mask.size[1]} for an image of "
            f"{size[0]}x{size[1]}"
        )
    return mask


def _listed(path: Path) -> list[Item]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the list {str(path)!r}: {one_line(error)}") from error
    rows: list[dict[str, str]]
    if path.suffix.lower() == ".txt":
        rows = [{"image": line.strip()} for line in text.splitlines() if line.strip()]
    else:
        reader = csv.DictReader(text.splitlines(), strict=True)
        rows = list(reader)
        extra = sorted(set(reader.fieldnames or ()) - set(_COLUMNS))
        if "image" not in (reader.fieldnames or ()) or extra:
            raise UsageError(
                f"the columns of {str(path)!r} must be image and, if known, target and mask, got "
                f"{', '.join(reader.fieldnames or ()) or 'none'}"
            )
    items = [_from_row(path.parent, row) for row in rows]
    names = [item.name for item in items]
    double = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if double is not None:
        raise UsageError(f"{str(path)!r} names {double!r} twice")
    return items


def _from_row(folder: Path, row: dict[str, str]) -> Item:
    image, target, mask = ((row.get(column) or "").strip() for column in _COLUMNS)
    return Item(
        name=f"{image}#{target}" if target else image,
        path=folder / image,
        target=target or None,
        mask=folder / mask if mask else None,
    )


def _with_masks(items: list[Item], masks: Path) -> list[Item]:
    found = [
        Item(item.name, item.path, item.target, item.mask or _mask_of(item, masks))
        for item in items
    ]
    if not any(item.mask for item in found):
        raise UsageError(
            f"no masks in {str(masks)!r}: for the image a/b.jpg it should hold a/b.png"
        )
    return found


def _mask_of(item: Item, masks: Path) -> Path | None:
    path = (masks / item.name.partition("#")[0]).with_suffix(".png")
    return path if path.is_file() else None
