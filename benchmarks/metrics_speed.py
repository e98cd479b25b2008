"""Time metrics against Quantus on the same work: ``python -m benchmarks.metrics_speed``.

Each row is a ratio of medians, ours over theirs, the model's own time included; below 1 is faster.
Both take the same images, maps and settings, and run in turn, so that a machine that slows down
slows both. Quantus is no dependency of the project: ``pip install quantus`` first.
"""

import argparse
import importlib
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from benchmarks._common import RESULTS, environment, table, write_json
from usu_core import metrics

BATCH = 2
PERCENTAGES = list(range(10, 100, 10))


def main() -> None:
    """Time every case, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", type=int, default=64, help="side of the images, divisible by 8")
    parser.add_argument("--out", type=Path, default=RESULTS / "metrics_speed.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = _Grey(torchvision.models.resnet18(weights=None)).eval()
    rows = [
        _measure(name, ours, theirs, options.repeats)
        for name, ours, theirs in _cases(model, options.side)
    ]
    header = ("metric", "ours ms", "Quantus ms", "ratio")
    lines = [
        (row["metric"], f"{row['ours_ms']:.1f}", f"{row['quantus_ms']:.1f}", f"{row['ratio']:.3f}")
        for row in rows
    ]
    print(table(header, lines))
    write_json(
        options.out,
        {
            "schema": 1,
            "what": "median milliseconds, and the ratio of medians, ours over Quantus's",
            "environment": environment(),
            "quantus": version("quantus"),
            "model": "resnet18 of grey images, random weights",
            "batch": BATCH,
            "side": options.side,
            "repeats": options.repeats,
            "rows": rows,
        },
    )


class _Grey(nn.Module):
    """A colour model that takes grey images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def forward(self, images: Tensor) -> Any:
        """Repeat the channel and run the model."""
        return self._model(images.expand(-1, 3, -1, -1))


class _Label:
    """The label's logit, or whether the label wins."""

    def __init__(self, model: nn.Module, labels: Tensor, *, wins: bool = False) -> None:
        self._model, self._labels, self._wins = model, labels, wins

    def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
        logits, wanted = self._model(images), self._labels[example]
        if self._wins:
            won: Tensor = (logits.argmax(1) == wanted).float()
            return won
        chosen: Tensor = logits.gather(1, wanted[:, None]).squeeze(1)
        return chosen


def _cases(model: nn.Module, side: int) -> list[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    quantus: Any = importlib.import_module("quantus")
    # Quantus sums its curves with a function that recent NumPy no longer has.
    vars(np).setdefault("trapz", np.trapezoid)
    # One channel: of more, Quantus flips channels one by one, and its ROAD fails.
    images, maps = torch.randn(BATCH, 1, side, side), torch.rand(BATCH, side, side)
    labels = torch.arange(BATCH)
    logit, wins = _Label(model, labels), _Label(model, labels, wins=True)
    step = side * side // 32
    black = images.amin((1, 2, 3), keepdim=True)
    quiet = {"disable_warnings": True, "normalise": False, "abs": False}

    def run(metric: Any, **further: Any) -> Callable[[], Any]:
        return lambda: metric(
            model=model,
            x_batch=images.numpy(),
            y_batch=labels.numpy(),
            a_batch=maps[:, None].numpy().copy(),
            softmax=False,
            device="cpu",
            **further,
        )

    return [
        (
            "infidelity, 8 x 8 patches",
            lambda: metrics.quantus_infidelity(logit, images, maps, patch=8),
            run(quantus.Infidelity(perturb_patch_sizes=[8], n_perturb_samples=1, **quiet)),
        ),
        (
            "pixel flipping, 32 steps",
            lambda: metrics.pixel_flipping(logit, images, maps, pixels_per_step=step, black=black),
            run(quantus.PixelFlipping(features_in_step=step, **quiet)),
        ),
        (
            "ROAD, 9 shares",
            lambda: metrics.road(wins, images, maps, shares=[p / 100 for p in PERCENTAGES]),
            run(quantus.ROAD(percentages=PERCENTAGES, **quiet)),
        ),
        (
            "sparseness",
            lambda: metrics.sparseness(maps),
            run(quantus.Sparseness(**quiet)),
        ),
    ]


def _measure(
    name: str, ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int
) -> dict[str, Any]:
    """Time both in turn, after one call each that allocates."""
    calls = {"ours": ours, "quantus": theirs}
    times: dict[str, list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for key, call in calls.items():
            started = time.perf_counter()
            call()
            times[key].append(1e3 * (time.perf_counter() - started))
    medians = {key: statistics.median(values) for key, values in times.items()}
    pairs = [a / b for a, b in zip(times["ours"], times["quantus"], strict=True)]
    return {
        "metric": name,
        "ours_ms": medians["ours"],
        "quantus_ms": medians["quantus"],
        "ratio": medians["ours"] / medians["quantus"],
        "ratio_range": [min(pairs), max(pairs)],
    }


if __name__ == "__main__":
    main()
