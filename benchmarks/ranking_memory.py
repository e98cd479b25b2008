"""Time and memory of the sorters: ``python -m benchmarks.ranking_memory``.

Each sorter makes the 28 masks of deletion and insertion and takes a gradient. The peer of
Gumbel-Sinkhorn is the published form: 30 iterations through autograd, for the scores and once more
for their negative. Peak memory is that of a fresh process per sorter, which takes the sizes in
rising order, above what it held before.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._common import RESULTS, environment, table, write_json
from usu_captum.ranking._sinkhorn import GumbelSinkhorn
from usu_captum.ranking._transport import RankTransport

GRIDS = (7, 14, 20, 28)
PIXELS = (784, 3136, 12_544, 50_176)
SHARES = torch.linspace(0, 1, 16)[1:-1]
MEGABYTE = 2**20


def main() -> None:
    """Measure every size, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "ranking_memory.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    _masks_and_gradient(_sinkhorn, _scores(1, 49))  # Load whatever is loaded on first use.
    sizes = [side * side for side in GRIDS]
    peaks = {name: _peaks(name, options.batch, sizes) for name in SORTERS}
    grids = [_grid(side, options.batch, options.repeats, peaks) for side in GRIDS]
    held = _peaks("transport", 1, PIXELS)
    pixels = [
        _pixels(count, options.repeats, megabytes)
        for count, megabytes in zip(PIXELS, held, strict=True)
    ]
    first = pixels[0]
    for row in pixels:
        row["time_over_smallest"] = row["seconds"] / first["seconds"]
        row["pixels_over_smallest"] = row["pixels"] / first["pixels"]
    write_json(
        options.out,
        {
            "environment": environment(),
            "batch": options.batch,
            "repeats": options.repeats,
            "masks": len(SHARES),
            "grids": grids,
            "pixels": pixels,
        },
    )
    print(
        table(
            ("G", "ours ms", "MB", "published / ours: time", "memory", "transport / ours: time"),
            [
                [
                    str(row["grid"]),
                    f"{1e3 * row['sinkhorn']['seconds']:.1f}",
                    f"{row['sinkhorn']['megabytes']:.1f}",
                    f"{row['published_time_ratio']:.1f}",
                    _ratio(row["published_memory_ratio"]),
                    f"{row['transport_time_ratio']:.2f}",
                ]
                for row in grids
            ],
        )
    )
    print(
        table(
            ("pixels", "transport ms", "MB", "MB / (15 bins x pixels)", "square matrix MB / MB"),
            [
                [
                    str(row["pixels"]),
                    f"{1e3 * row['seconds']:.1f}",
                    f"{row['megabytes']:.1f}",
                    _ratio(row["copies_of_plan"]),
                    _ratio(row["square_over_peak"]),
                ]
                for row in pixels
            ],
        )
    )


def _grid(side: int, batch: int, repeats: int, peaks: dict[str, list[float]]) -> dict[str, Any]:
    """Compare the sorters on one grid; times are of pairs that ran in turn."""
    scores = _scores(batch, side * side)
    runs: dict[str, list[float]] = {name: [] for name in SORTERS}
    for _ in range(repeats):
        for name, masks in SORTERS.items():
            runs[name].append(_timed(masks, scores))
    row: dict[str, Any] = {"grid": side}
    for name in SORTERS:
        row[name] = {
            "seconds": statistics.median(runs[name]),
            "megabytes": peaks[name][GRIDS.index(side)],
        }
    for name in ("published", "transport"):
        pairs = zip(runs[name], runs["sinkhorn"], strict=True)
        row[f"{name}_time_ratio"] = statistics.median(a / b for a, b in pairs)
        row[f"{name}_memory_ratio"] = _over(row[name]["megabytes"], row["sinkhorn"]["megabytes"])
    return row


def _pixels(count: int, repeats: int, megabytes: float) -> dict[str, Any]:
    scores = _scores(1, count)
    plan = (len(SHARES) + 1) * count * 4 / MEGABYTE
    return {
        "pixels": count,
        "seconds": statistics.median(_timed(_transport, scores) for _ in range(repeats)),
        "megabytes": megabytes,
        "copies_of_plan": _over(megabytes, plan),
        "square_over_peak": _over(count * count * 4 / MEGABYTE, megabytes),
    }


def _over(top: float, bottom: float) -> float | None:
    """Return a ratio of megabytes; below one, the allocator's own pages are all that is seen."""
    return top / bottom if top > 1 and bottom > 1 else None


def _scores(batch: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, count, generator=generator).requires_grad_()


def _sinkhorn(scores: Tensor) -> Tensor:
    highest = GumbelSinkhorn().top_masks(scores, SHARES)
    return torch.cat([highest, 1 - highest.flip(1)], 1)


def _transport(scores: Tensor) -> Tensor:
    highest = RankTransport().top_masks(scores, SHARES)
    return torch.cat([highest, 1 - highest.flip(1)], 1)


def _published(scores: Tensor) -> Tensor:
    masks = []
    for signed in (scores, -scores):
        anchors = torch.linspace(1, 0, scores.shape[1])
        log_plan = -((signed[:, None, :] - anchors[:, None]) ** 2) / 0.3
        for _ in range(30):
            log_plan = log_plan - log_plan.logsumexp(1, keepdim=True)
            log_plan = log_plan - log_plan.logsumexp(2, keepdim=True)
        rows = log_plan.exp().cumsum(1)
        masks.append(rows[:, (SHARES * scores.shape[1]).long().clamp(min=1) - 1])
    return torch.cat(masks, 1)


SORTERS: dict[str, Callable[[Tensor], Tensor]] = {
    "sinkhorn": _sinkhorn,
    "published": _published,
    "transport": _transport,
}


def _masks_and_gradient(masks: Callable[[Tensor], Tensor], scores: Tensor) -> None:
    torch.autograd.grad(masks(scores).square().sum(), scores)


def _timed(masks: Callable[[Tensor], Tensor], scores: Tensor) -> float:
    start = time.perf_counter()
    _masks_and_gradient(masks, scores)
    return time.perf_counter() - start


def _peaks(name: str, batch: int, counts: Sequence[int]) -> list[float]:
    """Return the megabytes that each size, in rising order, needs in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, batch, counts, sender))
    process.start()
    sender.close()  # Else a child that fails leaves this waiting.
    try:
        found: list[float] = receiver.recv()
    finally:
        process.join()
    return found


def _child(name: str, batch: int, counts: Sequence[int], sender: "Connection[Any, Any]") -> None:
    torch.set_num_threads(1)
    _masks_and_gradient(SORTERS[name], _scores(1, 16))  # Load what is loaded on first use.
    found = []
    for count in counts:
        scores = _scores(batch, count)
        Path("/proc/self/clear_refs").write_text("5")  # Forget the peak so far (Linux).
        before = _held("VmRSS")
        _masks_and_gradient(SORTERS[name], scores)
        found.append(_held("VmHWM") - before)
    sender.send(found)


def _held(field: str) -> float:
    """Return a line of this process's status in megabytes."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    main()
