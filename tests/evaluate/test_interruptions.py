"""Killed at any moment, and shared among processes: nothing lost, nothing twice."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from usu_cli.evaluate import Record, read_records

SMALL = ("--methods", "LayerGradCam,LayerIntegratedGradients,random",
         "--upsamplers", "nearest,bilinear,usu,tilted",
         "--metrics", "deletion,insertion,infidelity,model-randomisation")  # fmt: skip
RECORDS = 6 * (2 * 4 + 1) * 4
ALONE = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
ALONE["OMP_NUM_THREADS"] = "1"


def by_key(folder: Path) -> dict[tuple[str, ...], Record]:
    found = {record.key: record for record in read_records(folder)}
    lines = sum(len(p.read_text().splitlines()) for p in folder.glob("records-*.jsonl"))
    assert len(found) == lines, "a record is there twice"
    return dict(found)


@pytest.fixture(scope="module")
def undisturbed(work: Path, arguments: Callable[..., list[str]]) -> Path:
    """Return the folder of a run that nothing disturbed."""
    out = work / "undisturbed"
    subprocess.run(  # noqa: S603
        [sys.executable, "-m", "usu_cli", *arguments(out, *SMALL)], check=True, env=ALONE,
        capture_output=True,
    )  # fmt: skip
    return out


def test_killed_again_and_again(
    undisturbed: Path, arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "usu_cli", *arguments(tmp_path, *SMALL)]
    chance = random.Random(0)  # noqa: S311
    counts = [0]
    for _ in range(4):
        process = subprocess.Popen(  # noqa: S603
            command, env=ALONE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Killed soon after it has written something new, at no particular moment.
        deadline = time.monotonic() + 120
        while process.poll() is None and len(read_records(tmp_path)) <= counts[-1]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        process.wait()
        counts.append(len(read_records(tmp_path)))
    assert counts == sorted(counts), "a record was lost"
    assert counts[2] < RECORDS, "the run was over before it could be killed twice"
    subprocess.run(command, check=True, env=ALONE, capture_output=True)  # noqa: S603
    expected, found = by_key(undisturbed), by_key(tmp_path)
    assert len(expected) == RECORDS
    assert found.keys() == expected.keys()
    for key, record in found.items():
        assert record.value == pytest.approx(expected[key].value, abs=1e-6)
    assert (tmp_path / "report.html").is_file()


def test_two_processes_share_the_images(
    undisturbed: Path, arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "usu_cli", *arguments(tmp_path, *SMALL),
    ]  # fmt: skip
    subprocess.run(  # noqa: S603
        command, check=True, env=ALONE, capture_output=True, timeout=300
    )
    expected, found = by_key(undisturbed), by_key(tmp_path)
    assert found.keys() == expected.keys()
    for key, record in found.items():
        assert record.value == pytest.approx(expected[key].value, abs=1e-6)
    files = sorted(tmp_path.glob("records-*.jsonl"))
    assert [len(file.read_text().splitlines()) for file in files] == [RECORDS // 2] * 2
    assert (tmp_path / "report.html").is_file()
