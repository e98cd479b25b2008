"""Time of FullGrad and of a CAM of a volume with ``usu-fast``, relative to the library's own.

Random weights: they take as long as trained ones. Ratios of medians, ours over the library's,
forward and backward passes included; below 1 is faster.

    python -m benchmarks.gradcam_speed --out benchmarks/results/gradcam_speed.json
"""

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_grad_cam as library
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import usu_gradcam
from benchmarks._common import RESULTS, environment, write_json

UPSAMPLERS = ("bilinear", "usu-fast")


def main() -> None:
    """Time both cases and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="small inputs, to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "gradcam_speed.json")
    arguments = parser.parse_args()
    cases = {
        "FullGrad, resnet18": full_grad(64 if arguments.small else 224),
        "GradCAM of a volume, r3d_18": volume((8, 48, 48) if arguments.small else (16, 112, 112)),
    }
    results = {name: measure(case, arguments.repeats) for name, case in cases.items()}
    record = {
        "schema": 2,
        "what": "median seconds, interquartile ranges, and ratios to the library",
        "repeats": arguments.repeats,
        "small": arguments.small,
        "environment": environment(),
        "peers": {name: version(name) for name in ("grad-cam", "scipy", "opencv-python")},
        "cases": results,
    }
    write_json(arguments.out, record)
    for name, result in results.items():
        for upsampler in UPSAMPLERS:
            print(f"{name}, {upsampler}: {result[upsampler]['ratio']:.2f} of the library's time")


def full_grad(size: int) -> Callable[[str | None], Callable[[], Any]]:
    """FullGrad of ResNet-18: 20 layers with biases, 4800 channels."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    net, images = resnet18(weights=None).eval(), torch.rand(1, 3, size, size)

    def make(upsampler: str | None) -> Callable[[], Any]:
        cam = (
            library.FullGrad(net, [])
            if upsampler is None
            else usu_gradcam.FullGrad(net, [], upsampler=upsampler)
        )
        return lambda: cam(images, [ClassifierOutputTarget(1)])

    return make


def volume(size: tuple[int, int, int]) -> Callable[[str | None], Callable[[], Any]]:
    """Grad-CAM of a video network, which the library resizes by cubic splines."""
    from torchvision.models.video import r3d_18

    torch.manual_seed(0)
    net, clips = r3d_18(weights=None).eval(), torch.rand(1, 3, *size)

    def make(upsampler: str | None) -> Callable[[], Any]:
        cam = (
            library.GradCAM(net, [net.layer3])
            if upsampler is None
            else usu_gradcam.GradCAM(net, [net.layer3], upsampler=upsampler)
        )
        return lambda: cam(clips, [ClassifierOutputTarget(1)])

    return make


def measure(case: Callable[[str | None], Callable[[], Any]], repeats: int) -> dict[str, Any]:
    """Time the library and ours in turn, so that a busy machine slows both."""
    with contextlib.redirect_stdout(io.StringIO()):
        calls = {"library": case(None), **{name: case(name) for name in UPSAMPLERS}}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # first calls allocate
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    base = statistics.median(seconds["library"])
    return {
        name: {
            "median_seconds": statistics.median(values),
            "interquartile_seconds": float(np.subtract(*np.percentile(values, [75, 25]))),
            "ratio": statistics.median(values) / base,
        }
        for name, values in seconds.items()
    }


if __name__ == "__main__":
    main()
