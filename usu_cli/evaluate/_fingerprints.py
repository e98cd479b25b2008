"""What the pictures and masks were that results are of: a name may come to stand for others."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from usu_captum.ranking._checkpoint import write_text
from usu_cli._errors import UsageError
from usu_cli._folder import read_own
from usu_cli.evaluate._items import Item
from usu_cli.evaluate._journal import Record
from usu_cli.evaluate._measures import MEASURES

IMAGES = "images.json"

Digests = dict[str, dict[str, str]]
"""Of each item's ``picture`` and ``mask``, by its name."""


def check_same(out: Path, items: Iterable[Item], records: Sequence[Record]) -> Digests:
    """Check that what was measured before are these pictures, and these masks.

    Of what a folder says nothing of, as one of an earlier version does, nothing can be checked.

    Args:
        out: Folder of the records.
        items: The images to measure now.
        records: What has been measured.

    Returns:
        The digests of all that have been or will be measured, for :func:`write_digests`.

    Raises:
        UsageError: If one of them has changed, naming the first.

    Cost:
        Reads every picture and mask once.
    """
    known = _read(out / IMAGES)
    valued = [record for record in records if record.value is not None]
    measured = {
        "picture": {record.image for record in valued},
        # Until a metric has compared with it, a mask may be corrected.
        "mask": {r.image for r in valued if r.metric in MEASURES and MEASURES[r.metric].needs_mask},
    }
    for item in items:
        before, now = known.get(item.name, {}), _digests(item)
        for part, digest in now.items():
            if item.name in measured[part] and before.get(part, digest) != digest:
                raise UsageError(
                    f"{str(out)!r} holds results of another {part} by the name {item.name!r}; "
                    "give another --out"
                )
        known[item.name] = before | now
    return known


def write_digests(out: Path, digests: Digests) -> None:
    """Write down what results in ``out`` are of. Processes that share a run write the same."""
    write_text(out / IMAGES, json.dumps(digests, indent=1) + "\n")


def _digests(item: Item) -> dict[str, str]:
    found = {}
    for part, path in (("picture", item.path), ("mask", item.mask)):
        try:
            if path is not None:
                with path.open("rb") as file:
                    found[part] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            continue  # it is said where the picture is read
    return found


def _read(path: Path) -> Digests:
    def parse(digests: Digests) -> Digests:
        return {name: dict(parts) for name, parts in digests.items()}

    return read_own(path, "digests of usu evaluate", parse) if path.exists() else {}
