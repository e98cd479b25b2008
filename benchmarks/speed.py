"""Time the project against named peers, in one run: ``python -m benchmarks.speed``.

Every row is a ratio. Peer and subject run in turn, so that a machine that slows down slows both;
the table gives the medians, the spread between the quartiles, and the median of the pairwise
ratios, of wall time.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import captum.attr
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks._common import RESULTS, environment, table, write_json
from benchmarks._timing import Comparison, clock, measure
from usu_captum import LayerGradCam
from usu_core import resolve, usu


def main() -> None:
    """Run all comparisons, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="speed.json among the results, or speed_gpu.json")
    options = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(options.device)
    name = "speed_gpu.json" if device.type == "cuda" else "speed.json"
    options.out = options.out or RESULTS / name
    model = torchvision.models.resnet18(weights=None).eval().to(device)
    rows = [
        measure(case, options.repeats, warm_up=2, device=device)
        for case in (*_operators(device), *_attributions(model, device))
    ]
    share = _model_share(model, device)
    memory = _extra_buffers(device)
    header = ("subject", "peer", "subject ms", "peer ms", "ratio", "spread", "bound")
    print(
        table(
            header,
            [
                (
                    row["subject"],
                    row["peer"],
                    f"{row['subject_ms']:.2f}",
                    f"{row['peer_ms']:.2f}",
                    f"{row['ratio']:.2f}",
                    f"{row['ratio_quartiles'][0]:.2f} to {row['ratio_quartiles'][1]:.2f}",
                    "" if row["bound"] is None else f"{row['bound']:g}",
                )
                for row in rows
            ],
        )
    )
    print("\nLayerGradCam with usu on ResNet-18, share of the wall time:")
    for part, value in share.items():
        print(f"  {part:<14}{value:7.1%}")
    print(f"\nusu, peak extra memory on even grids: {memory:.2f} output-sized buffers")
    write_json(
        options.out,
        {
            "environment": environment(),
            "device": str(device),
            "repeats": options.repeats,
            "comparisons": rows,
            "share_of_wall_time": share,
            "extra_buffers": memory,
        },
    )


def _operators(device: torch.device) -> tuple[Comparison, ...]:
    cells = torch.rand(32, 7, 7, device=device)
    scores = torch.rand(32, 224, 224, device=device)
    size = (224, 224)

    def interpolate(mode: str) -> Callable[[], Tensor]:
        return lambda: F.interpolate(cells[:, None], size, mode=mode)

    def redistribute() -> Tensor:
        return usu(cells, scores)

    case = "usu, 32 maps 7x7 to 224x224"
    bicubic = 2.0 if device.type == "cpu" else None
    bilinear = 3.0 if device.type == "cuda" else None
    rows = [
        Comparison(case, "F.interpolate bicubic", redistribute, interpolate("bicubic"), bicubic),
        Comparison(case, "F.interpolate bilinear", redistribute, interpolate("bilinear"), bilinear),
    ]
    if device.type == "cuda":  # On the CPU it needs a compiler, which not every machine has.
        compiled = torch.compile(usu)
        rows.append(
            Comparison(
                f"{case}, compiled",
                "F.interpolate bilinear",
                lambda: compiled(cells, scores),
                interpolate("bilinear"),
                bilinear,
            )
        )
    return tuple(rows)


def _attributions(model: nn.Module, device: torch.device) -> tuple[Comparison, ...]:
    images = _pictures(8, device)
    ours = LayerGradCam(model, model.layer4)
    plain = captum.attr.LayerGradCam(model, model.layer4)

    def captum_map(count: int = 8) -> Tensor:
        result: Tensor = plain.attribute(images[:count], target=0)
        return result

    def ours_with(name: str, count: int = 8) -> Callable[[], Tensor]:
        return lambda: ours.attribute(images[:count], target=0, upsampler=name)

    peer = "Captum LayerGradCam"
    return (
        Comparison("LayerGradCam, usu-fast", peer, ours_with("usu-fast"), captum_map, 2.0),
        Comparison("LayerGradCam, bilinear", peer, ours_with("bilinear"), captum_map, None),
        Comparison(
            "LayerGradCam, usu, one image", peer, ours_with("usu", 1), lambda: captum_map(1), None
        ),
    )


def _pictures(count: int, device: torch.device) -> Tensor:
    """Draw smooth noise, which has as many superpixels as a photograph; plain noise has one."""
    return F.interpolate(torch.rand(count, 3, 7, 7, device=device), (224, 224), mode="bilinear")


def _model_share(model: nn.Module, device: torch.device) -> dict[str, float]:
    """Return where the time of a guided map goes."""
    images = _pictures(2, device)
    spent = {"model": 0.0, "segments": 0.0}
    upsampler = resolve("usu")
    segmenter = upsampler.segmenter

    def timed_model(inputs: Tensor) -> Tensor:
        start = clock(device)
        result: Tensor = model(inputs)
        spent["model"] += clock(device) - start
        return result

    attribution = LayerGradCam(timed_model, model.layer4)
    attribution.attribute(images, target=0, upsampler=upsampler)
    spent["model"] = 0.0
    start = clock(device)
    attribution.attribute(images, target=0, upsampler=upsampler)
    total = clock(device) - start
    start = clock(device)
    segmenter(images)
    spent["segments"] = clock(device) - start
    shares = {part: seconds / total for part, seconds in spent.items()}
    return {**shares, "everything else": 1.0 - sum(shares.values())}


def _extra_buffers(device: torch.device) -> float:
    """Return the peak memory of ``usu`` beyond its inputs, in output-sized buffers."""
    cells, scores = torch.rand(32, 7, 7, device=device), torch.rand(32, 224, 224, device=device)
    output = scores.numel() * scores.element_size()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        usu(cells, scores)
        return (torch.cuda.max_memory_allocated(device) - before) / output
    with torch.profiler.profile(profile_memory=True) as profile:
        usu(cells, scores)
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak / output


if __name__ == "__main__":
    main()
