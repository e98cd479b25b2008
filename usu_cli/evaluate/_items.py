"""The images to evaluate on: a folder, or a list with targets and masks."""

import csv
import io
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from usu_captum.ranking._images import image_files
from usu_captum.ranking._pictures import DAMAGE, in_eight_bits
from usu_cli._errors import UsageError, one_line
from usu_cli._folder import check_apart
from usu_cli._images import utf8

_COLUMNS = ("image", "target", "mask")
_MASK_SUFFIXES = (".png", ".PNG", ".Png")


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


def list_items(
    data: Path, masks: Path | None = None, count: int | None = None, out: Path | None = None
) -> list[Item]:
    """Return the items of a folder, a ``.txt`` with a path per line, or a ``.csv``.

    A CSV file has a column ``image`` and may have ``target`` and ``mask``. Paths in lists are
    relative to the list.

    Args:
        data: The folder or list.
        masks: A folder with, for ``a/b.jpg``, ``a/b.png``, or ``PNG``; images without one have no
            mask. Of a list, images that are not below its folder go by the names of their files.
        count: Take so many, evenly spaced.
        out: Where results go. Neither it nor ``masks`` is searched for images.

    Raises:
        UsageError: If there is nothing to take, a list does not make sense, or an image would be
            its own mask.
    """
    if data.is_dir():
        if out is not None:
            check_apart(out, data)
        files = image_files(data, [folder for folder in (masks, out) if folder is not None])
        items = [Item(utf8(file.relative_to(data).as_posix()), file) for file in files]
    elif data.suffix.lower() in (".txt", ".csv"):
        items = _listed(data)
    elif not data.exists():
        raise UsageError(f"--data {str(data)!r} does not exist")
    else:
        raise UsageError(f"--data must be a folder, a .txt or a .csv list, got {str(data)!r}")
    if not items:
        raise UsageError(f"no images in {str(data)!r}")
    for keys in ([i.name for i in items], [(_plain(i.path), i.target) for i in items]):
        double = _first_repeated(keys)
        if double is not None:
            raise UsageError(f"{str(data)!r} names {items[double].name!r} twice")
    if masks is not None:
        items = _with_masks(items, masks, data if data.is_dir() else data.parent)
    own = next((item for item in items if _is_own_mask(item)), None)
    if own is not None:
        raise UsageError(
            f"the mask of {own.name!r} would be the image itself, {str(own.path)!r}; give masks "
            "in a folder of their own"
        )
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
            mask = in_eight_bits(image, image.format).convert("L")
    except DAMAGE as error:
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
    rows: Sequence[Mapping[str | None, str]]
    if path.suffix.lower() == ".txt":
        # Not splitlines, which also splits at characters that names of files may contain.
        rows = [{"image": line.strip()} for line in text.split("\n") if line.strip()]
    else:
        reader = csv.DictReader(io.StringIO(text), strict=True)
        try:
            rows = list(reader)
        except csv.Error as error:
            raise UsageError(
                f"cannot read the list {str(path)!r}: {one_line(error)}; check its quotes"
            ) from error
        extra = sorted(set(reader.fieldnames or ()) - set(_COLUMNS))
        if "image" not in (reader.fieldnames or ()) or extra:
            raise UsageError(
                f"the columns of {str(path)!r} must be image and, if known, target and mask, got "
                f"{', '.join(reader.fieldnames or ()) or 'none'}"
            )
    return [_from_row(path, place, row) for place, row in enumerate(rows, start=1)]


def _from_row(path: Path, place: int, row: Mapping[str | None, str]) -> Item:
    image, target, mask = ((row.get(column) or "").strip() for column in _COLUMNS)
    # Cells beyond the header come under None: most often, a comma in a name without quotes.
    if not image or None in row:
        fault = (
            "names no image" if not image else "has more cells than the header; check its quotes"
        )
        raise UsageError(f"row {place} below the header of {str(path)!r} {fault}")
    folder, name = path.parent, Path(image).as_posix()  # ./a.png is a.png
    return Item(
        name=f"{name}#{target}" if target else name,
        path=folder / image,
        target=target or None,
        mask=folder / mask if mask else None,
    )


def _first_repeated(keys: Iterable[Hashable]) -> int | None:
    """Return the place of the first key that was there before."""
    seen: set[Hashable] = set()
    for place, key in enumerate(keys):
        if key in seen:
            return place
        seen.add(key)
    return None


def _with_masks(items: list[Item], masks: Path, base: Path) -> list[Item]:
    found = []
    folders: dict[Path, Path] = {}  # of the images that a mask was found for
    for item in items:
        mask = None if item.mask else _mask_of(item, masks, base)
        if mask is not None:
            folder = _plain(item.path).parent
            if folders.setdefault(mask, folder) != folder:
                raise UsageError(
                    f"{str(mask)!r} would be the mask of images in two folders, "
                    f"{str(folders[mask])!r} and {str(folder)!r}; name masks in a .csv"
                )
        found.append(replace(item, mask=item.mask or mask))
    if not any(item.mask for item in found):
        raise UsageError(
            f"no masks in {str(masks)!r}: for the image a/b.jpg it should hold a/b.png"
        )
    return found


def _mask_of(item: Item, masks: Path, base: Path) -> Path | None:
    image, base = _plain(item.path), _plain(base)
    # The path of an image elsewhere would lead out of the masks, maybe to the image itself.
    place = image.relative_to(base) if image.is_relative_to(base) else Path(image.name)
    if not place.name:
        return None
    paths = (masks / place.with_suffix(suffix) for suffix in _MASK_SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _plain(path: Path) -> Path:
    """Return a path without ``..``, through links: masks are laid out as the images appear."""
    return Path(os.path.normpath(path.absolute()))


def _is_own_mask(item: Item) -> bool:
    mask = item.mask
    return mask is not None and mask.is_file() and item.path.is_file() and mask.samefile(item.path)
