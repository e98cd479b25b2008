"""The folder that a command writes to: nobody's files are lost there but its own earlier ones."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from usu_cli._errors import UsageError, one_line

PAGE = "report.html"
MANIFEST = "manifest.json"

Parsed = TypeVar("Parsed")


def prepare_folder(out: Path) -> Path:
    """Create ``out`` and check that files can be written there, before any work is done.

    Raises:
        UsageError: if not.
    """
    probe = out / f".usu-probe-{os.getpid()}"  # several processes may prepare one folder
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write to --out {str(out)!r}: {one_line(error)}") from error
    return out


def check_apart(out: Path, data: Path) -> None:
    """Raise a UsageError if pictures would be written among the images that are read."""
    if out.resolve() == data.resolve():
        raise UsageError(
            f"--out {str(out)!r} is the folder of images, and pictures are written there; "
            "give another --out"
        )


def check_free(
    out: Path,
    command: str,
    names: Iterable[str],
    *,
    own: Iterable[str] = (),
    inputs: Iterable[Path] = (),
) -> None:
    """Check that writing files costs a person none of theirs.

    Args:
        out: The folder, which need not exist.
        command: Whose results are to be written.
        names: The files to be written.
        own: Those that an earlier run of the command wrote, which may be replaced or removed.
        inputs: What is read, and may be neither.

    Raises:
        UsageError: If it would.
    """
    names, own = tuple(names), set(own)
    read = {path.resolve() for path in inputs}
    for name in dict.fromkeys((*names, *sorted(own))):
        path = out / name
        if path.resolve() in read:
            raise UsageError(
                f"{str(path)!r} is read, and would be replaced in --out; give another --out"
            )
        if name not in own and (path.exists() or path.is_symlink()):
            raise UsageError(
                f"{str(path)!r} exists, and is not of an earlier usu {command}; give another --out"
            )


def earlier_report(out: Path, command: str) -> tuple[str, ...]:
    """Return the names of the files of an earlier report of a command in ``out``, if any."""
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        if manifest["command"] != command:
            return ()
        names = [manifest["files"]["page"], *manifest["files"]["pictures"]]
        # Only what lies in the folder itself: this is what may be removed.
        return (MANIFEST, *(name for name in names if Path(name).name == name))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return ()  # there is none, or one of somebody else


def read_own(path: Path, what: str, parse: Callable[[Any], Parsed]) -> Parsed:
    """Read a JSON file that an earlier run has left in ``out``.

    Args:
        path: The file.
        what: What it should hold, in words.
        parse: Returns it as it is used, or fails as Python does on what has another form.

    Raises:
        UsageError: If it cannot be read, or holds something else.
    """
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {one_line(error)}") from error
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UsageError(f"{str(path)!r} does not hold {what}; give another --out") from None


def prepare_report(
    out: Path, command: str, stems: Sequence[str], inputs: Iterable[Path] = ()
) -> None:
    """Prepare a folder for a report with a picture of each stem.

    Raises:
        UsageError: If it cannot be written to, or files of others would be lost.
    """
    names = (*(f"{stem}.png" for stem in stems), PAGE, MANIFEST)
    check_free(out, command, names, own=earlier_report(out, command), inputs=inputs)
    prepare_folder(out)
