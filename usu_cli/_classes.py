"""Names for a classifier's outputs, from a person's file or from ImageNet."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

from usu_cli._errors import UsageError, one_line, unknown


def imagenet_names(outputs: int) -> tuple[str, ...] | None:
    """Return the ImageNet names for a model of 1000 outputs; any other count says nothing."""
    if outputs != 1000:
        return None
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def read_class_names(path: Path, outputs: int) -> tuple[str, ...]:
    """Read one name per output, in order.

    Text: a name per line. CSV: the column headed ``name``, or else the only column. JSON: a list,
    or an object from index to name.

    Raises:
        UsageError: if the file cannot be read so, or holds another number of names.
    """
    readers = {".txt": _from_text, ".csv": _from_csv, ".json": _from_json}
    if path.suffix.lower() not in readers:
        raise UsageError(f"class names {str(path)!r} must be a .txt, .csv or .json file")
    try:
        names = readers[path.suffix.lower()](path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise UsageError(f"cannot read class names {str(path)!r}: nested too deeply") from None
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"cannot read class names {str(path)!r}: {one_line(error)}") from error
    if len(names) != outputs:
        raise UsageError(
            f"{str(path)!r} holds {len(names)} class names, but the model has {outputs} outputs"
        )
    return names


def find_target(given: str, outputs: int, classes: Sequence[str] | None) -> int:
    """Return the output a person means by an index or a class name.

    Raises:
        UsageError: if the index is out of range, or the name unknown or shared by two classes.
    """
    # No model has outputs of more digits, and Python reads no number of thousands of them.
    if re.fullmatch(r"[+-]?\d{1,18}", given):
        index = int(given)
        if not 0 <= index < outputs:
            raise UsageError(f"unknown target {given}; the model has outputs 0 to {outputs - 1}")
        return index
    if classes is None:
        raise UsageError(
            f"unknown target {given!r}: the class names of this model are not known; "
            f"give --classes FILE or an index from 0 to {outputs - 1}"
        )
    found = [i for i, name in enumerate(classes) if name.casefold() == given.casefold()]
    if not found:
        raise unknown("target", given, classes)
    if len(found) > 1:
        indices = ", ".join(map(str, found))
        raise UsageError(
            f"target {given!r} names several classes; give one of the indices {indices}"
        )
    return found[0]


def class_name(index: int, classes: Sequence[str] | None) -> str:
    """Return what to call output ``index``."""
    return f"class {index}" if classes is None else classes[index]


def _from_text(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _from_csv(text: str) -> tuple[str, ...]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if "name" in header:
        column = header.index("name")
        short = [line for line, row in enumerate(rows[1:], 1) if len(row) <= column]
        if short:
            raise ValueError(f"row {short[0]} below the header has no name")
        return tuple(row[column].strip() for row in rows[1:])
    if len(header) > 1:
        raise ValueError(f"no column is headed 'name' among {', '.join(rows[0])}")
    return tuple(row[0].strip() for row in rows)


def _from_json(text: str) -> tuple[str, ...]:
    data = json.loads(text)
    if isinstance(data, dict):
        indices = [str(index) for index in range(len(data))]
        strange = sorted(set(data).difference(indices))
        if strange:
            raise ValueError(
                f"the keys of {len(data)} names must be the indices 0 to {len(data) - 1}, got "
                f"{strange[0]!r}"
            )
        data = [data[index] for index in indices]
    if not isinstance(data, list) or not all(isinstance(name, str) for name in data):
        raise ValueError("expected a list of names, or an object from index to name")
    return tuple(data)
