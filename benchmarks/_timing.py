"""Times as ratios: subject and peer in turn, so that a machine that slows down slows both."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Comparison:
    """A subject, the peer it is measured against, and the ratio it should stay below."""

    name: str
    peer_name: str
    subject: Callable[[], Any]
    peer: Callable[[], Any]
    bound: float | None


def clock(device: torch.device) -> float:
    """Return the time in seconds, once the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(
    case: Comparison, repeats: int, *, warm_up: int, device: torch.device
) -> dict[str, Any]:
    """Time subject and peer in turn, after ``warm_up`` rounds that do not count."""
    pairs = []
    for repeat in range(repeats + warm_up):
        seconds = []
        for call in (case.subject, case.peer):
            start = clock(device)
            call()
            seconds.append(clock(device) - start)
        if repeat >= warm_up:
            pairs.append(seconds)
    ratios = [subject / peer for subject, peer in pairs]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "subject": case.name,
        "peer": case.peer_name,
        "subject_ms": 1e3 * statistics.median(subject for subject, _ in pairs),
        "peer_ms": 1e3 * statistics.median(peer for _, peer in pairs),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [low, high],
        "bound": case.bound,
    }
