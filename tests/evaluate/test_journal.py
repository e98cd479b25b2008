"""Records that survive being killed."""

import json
from pathlib import Path

import pytest

from usu_cli._errors import UsageError
from usu_cli.evaluate import Journal, Record, read_records
from usu_cli.evaluate._journal import keys


def record(image: str, value: float | None = 0.25, **more: object) -> Record:
    return Record(image, "LayerGradCam", "usu", "deletion", value, 3, 10, **more)  # type: ignore[arg-type]


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    given = [record("ä b.png", curve=(1.0, 0.5)), record("c", None, error="no mask")]
    with Journal(tmp_path) as journal:
        journal.append(given[:1])
        journal.append(given[1:])
    assert read_records(tmp_path) == given
    assert len((tmp_path / "records-000.jsonl").read_text().splitlines()) == 2


def test_a_line_cut_off_by_a_crash_is_no_record_and_is_removed(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append([record("a")])
    path = tmp_path / "records-000.jsonl"
    with path.open("a") as stream:
        stream.write(record("b").line()[:20])
    assert [r.image for r in read_records(tmp_path)] == ["a"]
    with Journal(tmp_path) as journal:
        journal.append([record("c")])
    assert [r.image for r in read_records(tmp_path)] == ["a", "c"]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_shards_are_read_together(tmp_path: Path) -> None:
    for shard in range(2):
        with Journal(tmp_path, shard) as journal:
            journal.append([record(str(shard))])
    assert [r.image for r in read_records(tmp_path)] == ["0", "1"]


def test_a_shard_has_one_writer(tmp_path: Path) -> None:
    with (
        Journal(tmp_path),
        pytest.raises(UsageError, match="another run is writing"),
        Journal(tmp_path),
    ):
        pass
    with Journal(tmp_path):
        pass  # the lock is given back


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "records-000.jsonl").write_text('{"image": 3}\n')
    with pytest.raises(UsageError, match="line 1, is not a record"):
        read_records(tmp_path)


def test_a_value_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal, pytest.raises(ValueError, match="JSON"):
        journal.append([record("a", float("nan"))])
    assert read_records(tmp_path) == []


def test_only_line_feeds_end_records(tmp_path: Path) -> None:
    given = [record("a\u2028b.png"), record("c\x85d.png")]
    with Journal(tmp_path) as journal:
        journal.append(given)
    assert read_records(tmp_path) == given


def test_a_value_counts_wherever_it_is_and_of_failures_the_last(tmp_path: Path) -> None:
    failed = record("a", None, error="no mask")
    for shard, found in enumerate((record("a"), failed)):  # measured by fewer processes than before
        with Journal(tmp_path, shard) as journal:
            journal.append([found])
    assert read_records(tmp_path) == [record("a")]
    other = record("b", None, error="empty mask")
    with Journal(tmp_path, 2) as journal:
        journal.append([record("b", None, error="no mask"), other])
    assert read_records(tmp_path) == [record("a"), other]
    assert keys(read_records(tmp_path)) == {record("a").key}


def test_records_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "records-000.jsonl"
    path.write_bytes(b"\xff\n")
    with pytest.raises(UsageError, match=r"cannot read the records .*records-000.jsonl"):
        read_records(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match=r"cannot read the records .*records-000.jsonl"):
        read_records(tmp_path)


def test_a_disk_that_takes_a_part_gets_the_rest_and_is_synchronised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    write, done = os.write, []
    monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:7]))
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.fstat(file).st_size))
    given = [record("a"), record("b")]
    with Journal(tmp_path) as journal:
        journal.append(given[:1])
        journal.append(given[1:])
    assert read_records(tmp_path) == given
    sizes = [len(one.line()) for one in given]
    assert done == [sizes[0], sum(sizes)]
