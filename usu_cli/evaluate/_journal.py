"""Results as lines of JSON that survive being killed: none lost, none twice."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from usu_cli._errors import UsageError, one_line

Key = tuple[str, str, str, str]
_PATTERN = "records-*.jsonl"


@dataclass(frozen=True)
class Record:
    """One metric of one map of one image.

    Args:
        image: The item's name.
        method: What explained it.
        upsampler: What brought the coarse map to the image's size; ``"-"`` for maps that are fine.
        metric: Name in ``MEASURES``.
        value: ``None`` where the metric has no value; ``error`` says why.
        target: The explained class.
        evaluations: Model evaluations spent on the map, scores included, metrics excluded.
        curve: Score after each step, for deletion and insertion.
        error: The reason for having no value.
    """

    image: str
    method: str
    upsampler: str
    metric: str
    value: float | None
    target: int
    evaluations: int
    curve: tuple[float, ...] | None = None
    error: str | None = None

    @property
    def key(self) -> Key:
        """What no two records that :func:`read_records` returns share."""
        return self.image, self.method, self.upsampler, self.metric

    def line(self) -> str:
        """Return one line of strict JSON, newline included."""
        fields = {k: v for k, v in asdict(self).items() if v is not None or k == "value"}
        return json.dumps(fields, allow_nan=False, ensure_ascii=False) + "\n"


class Journal:
    """The one writer of a shard's records. Use as a context manager.

    Lines are appended whole, in one write each batch, and synchronised to disk. A line cut off by
    a crash is removed before the first one is added.

    Args:
        folder: Where all shards write, a file each.
        shard: Which one this is.

    Raises:
        UsageError: On entering, if another process writes this shard.
    """

    def __init__(self, folder: Path, shard: int = 0) -> None:
        self._path = folder / f"records-{shard:03d}.jsonl"
        self._lock = FileLock(folder / f"records-{shard:03d}.lock")
        self._file = -1

    def __enter__(self) -> "Journal":
        """Lock the shard, open its file, and cut off what is no whole line."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(f"another run is writing to {str(self._path.parent)!r}") from None
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        content = self._path.read_bytes()
        os.truncate(self._file, content.rfind(b"\n") + 1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file and let others write."""
        os.close(self._file)
        self._lock.release()

    def append(self, records: Iterable[Record]) -> None:
        """Add records."""
        content = "".join(record.line() for record in records).encode()
        written = os.write(self._file, content)
        while written < len(content):  # a full pipe or disk may take only a part
            written += os.write(self._file, content[written:])
        os.fsync(self._file)


def read_records(folder: Path) -> list[Record]:
    """Return all shards' records, one of each key, without a last line that is being written.

    What could not be measured is tried again by the next run, maybe in another shard: a value
    counts wherever it is, and of failures the last.

    Raises:
        UsageError: If a file cannot be read, or a line is not a record.
    """
    records: dict[Key, Record] = {}
    for path in sorted(folder.glob(_PATTERN)):
        for number, line in enumerate(_lines(path), start=1):
            try:
                fields = json.loads(line)
                fields["curve"] = tuple(fields["curve"]) if "curve" in fields else None
                record = Record(**fields)
                earlier = records.get(record.key)
            except (ValueError, TypeError, KeyError):
                raise UsageError(f"{str(path)!r}, line {number}, is not a record") from None
            if record.value is not None or earlier is None or earlier.value is None:
                records[record.key] = record
    return list(records.values())


def _lines(path: Path) -> list[str]:
    try:
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the records {str(path)!r}: {one_line(error)}") from error
    # Not splitlines, which also splits at characters that JSON leaves as they are.
    return whole.split("\n") if whole else []


def keys(records: Sequence[Record]) -> set[Key]:
    """Return what has been measured: what has a value."""
    return {record.key for record in records if record.value is not None}
