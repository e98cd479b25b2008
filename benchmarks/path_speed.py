"""Time the path methods against named peers, in one run: ``python -m benchmarks.path_speed``.

Every row is a ratio of wall times on the same model, images, steps and rule, and states how far
apart the two results are. Peer and subject run in turn, so that a machine that slows down slows
both. Then: how time grows with the number of steps, and that memory does not.

Peers: Captum; ``saliency`` of PAIR (whose call of ``np.quantile`` NumPy 2 refuses, mended here at
run time), which explains one image at a time; and SAMP++ as its authors' code is described.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import captum.attr
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks._common import (
    RESULTS,
    data_folder,
    data_module,
    environment,
    image_files,
    load_image,
    load_model,
    table,
    write_json,
)
from benchmarks._pair import pair_maps
from benchmarks._samp_reference import samp_plus_plus
from benchmarks._timing import Comparison, measure
from usu_captum.paths import BlurIG, GuidedIG, IntegratedGradients, SAMPPlusPlus
from usu_core.metrics import Blur

MODELS = ("cnn5", "resnet20", "resnet18")
STEPS = {"cnn5": 50, "resnet20": 20, "resnet18": 10}
REPEATS = {"cnn5": 9, "resnet20": 7, "resnet18": 3}
BATCH = 8
ROWS = {"cnn5": 32, "resnet20": 32, "resnet18": 8}
"""Images per model call, in our classes and in Captum's."""
SAMP_PIXELS = {"cnn5": 10, "resnet20": 40, "resnet18": 3584}
SAMP_IMAGES = {"cnn5": 8, "resnet20": 8, "resnet18": 2}
LINEAR_STEPS, MEMORY_STEPS = (20, 40, 80, 160), (10, 100, 1000)


def main() -> None:
    """Run all comparisons, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, help="by default fewer for slower models")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--steps", action="store_true", help="time and memory by steps, again")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "path_speed.json")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.probe:
        _probe(options.probe[0], int(options.probe[1]))
        return
    stored = _stored(options.out)
    rows = [row for row in stored["comparisons"] if row["model"] not in options.models]
    for name in options.models:
        exact = _comparisons(name, torch.float64)
        for case in tqdm(_comparisons(name, torch.float32), desc=name, unit="comparison"):
            row = measure(
                case,
                options.repeats or REPEATS[name],
                warm_up=1,
                device=torch.device("cpu"),
            )
            rows.append({"model": name, **row, "apart": _apart(next(exact))})
    rows.sort(key=lambda row: MODELS.index(row["model"]))
    header = ("model", "subject", "peer", "subject ms", "peer ms", "ratio", "spread", "apart")
    print(
        table(
            header,
            [
                (
                    row["model"],
                    row["subject"],
                    row["peer"],
                    f"{row['subject_ms']:.1f}",
                    f"{row['peer_ms']:.1f}",
                    f"{row['ratio']:.3f}" + (f" of {row['bound']:.2f}" if row["bound"] else ""),
                    f"{row['ratio_quartiles'][0]:.3f} to {row['ratio_quartiles'][1]:.3f}",
                    f"{row['apart']:.1e}",
                )
                for row in rows
            ],
        )
    )
    linear, memory = stored["milliseconds_per_image_by_steps"], stored["extra_mebibytes_by_steps"]
    if options.steps or not linear:
        linear = {name: _linear(name) for name in ("IG", "SAMP++")}
        memory = {name: _memory(name) for name in ("IG", "SAMP++")}
    for title, found in (("ms per image", linear), ("extra MiB at the peak", memory)):
        for name, values in found.items():
            print(f"{name}, {title} by steps: {values}")
    write_json(
        options.out,
        {
            "environment": environment(),
            "repeats": options.repeats or REPEATS,
            "batch": BATCH,
            "steps": STEPS,
            "images_per_model_call": ROWS,
            "samp_images": SAMP_IMAGES,
            "samp_pixels_per_step": SAMP_PIXELS,
            "apart": "largest difference of the results in double precision, where choices along "
            "a path do not hang on rounding, over the peer's largest value",
            "comparisons": rows,
            "milliseconds_per_image_by_steps": linear,
            "extra_mebibytes_by_steps": memory,
        },
    )


def _stored(path: Path) -> dict[str, Any]:
    """Return an earlier result, whose other models' rows are kept."""
    nothing: dict[str, Any] = {
        "comparisons": [],
        "milliseconds_per_image_by_steps": {},
        "extra_mebibytes_by_steps": {},
    }
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else nothing
    return found


def _comparisons(name: str, dtype: torch.dtype) -> Iterator[Comparison]:
    """Same model, images, steps and rule on both sides."""
    model, images, targets = _case(name)
    model, images = model.to(dtype), images.to(dtype)
    steps, rows = STEPS[name], ROWS[name]
    plain = captum.attr.IntegratedGradients(model)
    ig = {
        "target": targets,
        "n_steps": steps,
        "method": "gausslegendre",
        "internal_batch_size": rows,
    }
    yield Comparison(
        "IntegratedGradients",
        "Captum",
        lambda: _tensor(IntegratedGradients(model).attribute(images, **ig)),
        lambda: _tensor(plain.attribute(images, **ig)),
        1.0,
    )
    guided = GuidedIG(model)
    yield Comparison(
        "GuidedIG",
        "PAIR saliency",
        lambda: _tensor(
            guided.attribute(
                images,
                target=targets,
                n_steps=steps,
                method="riemann_left",
                internal_batch_size=rows,
            )
        ),
        lambda: pair_maps("GuidedIG", model, images, targets, x_steps=steps),
        1 / 3,
    )
    blur = BlurIG(model, power=1, border="zero", truncate=4, grad_step=0.01)
    # Whole numbers, at which no radius of a blur hangs on rounding.
    sigma = round(50 * min(images.shape[2:]) / 224)
    yield Comparison(
        "BlurIG",
        "PAIR saliency",
        lambda: _tensor(
            blur.attribute(images, targets, n_steps=steps, max_sigma=sigma, method="riemann_right")
        ),
        lambda: pair_maps("BlurIG", model, images, targets, steps=steps, max_sigma=sigma),
        1 / 3,
    )
    size, count = SAMP_PIXELS[name], SAMP_IMAGES[name]
    samp = SAMPPlusPlus(model, accumulate="momentum", pixels_per_step=size)
    some, classes = images[:count], targets[:count]
    blurred = Blur(5.0, 15 if name == "resnet18" else 5)(some)
    for peer, batch in (("reference, image by image", 1), ("reference, whole batch", count)):
        yield Comparison(
            "SAMPPlusPlus",
            peer,
            lambda: _tensor(samp.attribute(some, target=classes, internal_batch_size=rows)).sum(1),
            functools.partial(_reference, model, some, classes, blurred, size, batch),
            1 / 3,
        )


def _reference(
    model: nn.Module, images: Tensor, targets: Tensor, blurred: Tensor, size: int, batch: int
) -> Tensor:
    parts = zip(images.split(batch), targets.split(batch), blurred.split(batch), strict=True)
    return torch.cat([samp_plus_plus(model, *part, pixels_per_step=size) for part in parts])


def _case(name: str, count: int = BATCH) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a model, images and predicted classes."""
    if name == "resnet18":
        model, prepare = load_model(name)
        stored = torch.stack([load_image(f) for f in image_files("held-out", count)])
    else:
        loaders = data_module()
        mnist = name == "cnn5"
        model, prepare = loaders.mnist() if mnist else loaders.cifar(name)
        file = ("mnist", "test-1000.npz") if mnist else ("cifar10", "test-1000-jpeg.npz")
        with np.load(data_folder().joinpath(*file)) as content:
            stored = torch.from_numpy(content["images"][1 :: 997 // count][:count])
        stored = stored[:, None] if mnist else stored.permute(0, 3, 1, 2)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    images = prepare(stored)
    with torch.no_grad():
        return model, images, model(images).argmax(1)


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"a tensor was expected, got {type(value).__name__}")
    return value


def _apart(case: Comparison) -> float:
    ours, theirs = case.subject(), case.peer()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _run(name: str, steps: int, model: nn.Module, images: Tensor, targets: Tensor) -> None:
    """Explain with about so many gradients per image and direction."""
    if name == "IG":
        IntegratedGradients(model).attribute(
            images,
            target=targets,
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=32,
        )
        return
    explainer = SAMPPlusPlus(model, step_bound=1 / steps, pixels_per_step=images[0, 0].numel())
    explainer.attribute(images, target=targets, internal_batch_size=32)


def _linear(name: str) -> dict[str, float]:
    """Return the milliseconds per image for several numbers of steps, medians of 5 runs."""
    case = _case("resnet20", 4)
    found: dict[int, list[float]] = {steps: [] for steps in LINEAR_STEPS}
    for _ in range(5):
        for steps in LINEAR_STEPS:
            start = time.perf_counter()
            _run(name, steps, *case)
            found[steps].append(1e3 * (time.perf_counter() - start) / len(case[1]))
    return {str(steps): round(statistics.median(t), 2) for steps, t in found.items()}


def _memory(name: str) -> dict[str, float]:
    """Return what a process of its own needs at the peak, beyond what it had before."""
    found = {}
    for steps in MEMORY_STEPS:
        command = [sys.executable, "-m", "benchmarks.path_speed", "--probe", name, str(steps)]
        result = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
        found[str(steps)] = round(float(result.stdout), 1)
    return found


def _probe(name: str, steps: int) -> None:
    case = _case("cnn5", 4)
    _run(name, 2, *case)
    # Loading needs more than running does, so the system's peak is set back first (Linux).
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _resident("VmRSS")
    _run(name, steps, *case)
    print((_resident("VmHWM") - before) / 1024)


def _resident(field: str) -> int:
    """Return a field of the process's status in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
