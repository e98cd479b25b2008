"""Time the ranking explainer against named peers: ``python -m benchmarks.ranking_speed``.

- **One attribution**: the explainer with the small network, against one forward pass of its
  classifier without gradients. The explainer contains such a pass. The explainer that reads
  gradients, against input x gradient: a forward and a backward pass.
- **One training step**: the network's maps, deletion and insertion for two classes per image, and
  all gradients, against the form that is published: the classifier run anew for each class and
  order, on all 16 percentiles, though the same images serve both classes and the first and last
  percentile no order. Same sorter, masks and network on both sides; ``apart`` is the largest
  difference of the two gradients over the largest gradient, with a sorter exact to 1e-5,
  for its tolerance is what the two orders differ by.

Peer and subject run in turn, so that a machine that slows down slows both.
"""

import argparse
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import InputXGradient
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
from benchmarks._timing import Comparison, measure
from usu_captum.ranking import (
    NetworkConfig,
    RankingExplainer,
    RankingNetwork,
    RankingObjective,
    RankTransport,
    build_network,
    masks_to_pixels,
    pool_to_grid,
)

MODELS = ("resnet56", "resnet18", "deit_tiny")
BATCH = {"resnet56": 32, "resnet18": 4, "deit_tiny": 4}
STEP_BATCH = {"resnet56": 4, "resnet18": 1, "deit_tiny": 1}
REPEATS = {"attribution": 15, "step": 5}
GRID = 16
OBJECTIVE = RankingObjective(RankTransport(0.02, normalise="range"), peak_penalty=0.0)
EXACT = RankingObjective(RankTransport(0.02, normalise="range", tolerance=1e-5), peak_penalty=0.0)


def main() -> None:
    """Run all comparisons, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repeats", type=int, help="by default 15 attributions and 5 steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "ranking_speed.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in tqdm(options.models, unit="model"):
        for kind, case, more in _comparisons(name):
            repeats = options.repeats or REPEATS[kind]
            found = measure(case, repeats, warm_up=1, device=torch.device("cpu"))
            rows.append({"model": name, **found, **more})
    header = ("model", "subject", "peer", "subject ms", "peer ms", "ratio", "spread")
    print(table(header, [_row(row) for row in rows]))
    write_json(
        options.out,
        {
            "environment": environment(),
            "repeats": options.repeats or REPEATS,
            "percentiles": OBJECTIVE.n_percentiles,
            "comparisons": rows,
        },
    )


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["ratio_quartiles"]
    return (
        row["model"],
        row["subject"],
        row["peer"],
        f"{row['subject_ms']:.0f}",
        f"{row['peer_ms']:.0f}",
        f"{row['ratio']:.2f} of {row['bound']:.2f}",
        f"{low:.2f} to {high:.2f}",
    )


def _comparisons(name: str) -> Iterator[tuple[str, Comparison, dict[str, Any]]]:
    model, images = _case(name, BATCH[name])
    with torch.no_grad():
        targets = model(images).topk(2).indices
    torch.manual_seed(0)
    network, reading = (_network(model, images, gradients=reads) for reads in (False, True))

    def forward() -> Tensor:
        with torch.no_grad():
            result: Tensor = model(images)
        return result

    inputs = images.clone().requires_grad_()
    for subject, subjects_network, peer, run_peer in (
        ("attribution", network, "classifier forward", forward),
        (
            "attribution with gradients",
            reading,
            "input x gradient",
            functools.partial(InputXGradient(model).attribute, inputs, target=targets[:, 0]),
        ),
    ):
        run = functools.partial(
            RankingExplainer(model, subjects_network).attribute, images, target=targets[:, 0]
        )
        yield "attribution", Comparison(subject, peer, run, run_peer, 2.0), {"batch": len(images)}
    count = STEP_BATCH[name]
    some, both = images[:count], targets[:count]
    ours, theirs = (
        functools.partial(step, network, model, some, both, loss)
        for loss in (shared_loss, separate_loss)
    )
    gradients = (
        step(network, model, some, both, functools.partial(loss, objective=EXACT))
        for loss in (shared_loss, separate_loss)
    )
    yield (
        "step",
        Comparison("training step", "separate passes", ours, theirs, 0.6),
        {"batch": count, "apart": apart(*gradients)},
    )


def _network(model: nn.Module, images: Tensor, *, gradients: bool) -> RankingNetwork:
    shape = (images.shape[1], images.shape[2], images.shape[3])
    with torch.no_grad():
        classes = int(model(images[:1]).shape[1])
    return build_network(NetworkConfig(classes, shape, gradients=gradients), model).eval()


def step(
    network: RankingNetwork,
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    loss: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Return the gradient of all the network's weights, as one vector."""
    weights = [p for p in network.parameters() if p.requires_grad]
    maps = network(images, targets[:, 0])
    gradients = torch.autograd.grad(loss(model, images, maps, targets), weights)
    return torch.cat([gradient.flatten() for gradient in gradients])


def shared_loss(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    objective: RankingObjective = OBJECTIVE,
) -> Tensor:
    """Return the objective of maps (B, 1, H, W) for classes (B, 2)."""
    references = torch.zeros_like(images)
    value = objective(model, images, maps, targets, grid=GRID, references=references)
    return value.total.mean()


def separate_loss(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    objective: RankingObjective = OBJECTIVE,
) -> Tensor:
    """Return the same with a pass of the classifier for each class and order, as published."""
    count = objective.n_percentiles
    shares = torch.linspace(0, 1, count, dtype=torch.float64)
    scores = pool_to_grid(maps, GRID)
    size = (images.shape[2], images.shape[3])
    total = maps.new_zeros(())
    for sign in (1, -1):
        masks = objective.sorter.top_masks(sign * scores, shares)
        pixels = masks_to_pixels(masks, GRID, size, objective.smoothing)
        for column in range(targets.shape[1]):
            faded = (images[:, None] * (1 - pixels)).flatten(0, 1)
            chosen = targets[:, column].repeat_interleave(count)
            rows = []
            for some, wanted in zip(faded.split(64), chosen.split(64), strict=True):
                rows.append(model(some).softmax(1).gather(1, wanted[:, None]))
            curve = torch.cat(rows).view(len(images), count)
            area = torch.trapezoid(curve, dx=1 / (count - 1)).mean()
            total = total + sign * area / targets.shape[1]
    return total + 1.0


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference over the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _case(name: str, count: int) -> tuple[nn.Module, Tensor]:
    if name == "resnet56":
        model, prepare = data_module().cifar(name)
        with np.load(data_folder() / "cifar10" / "test-100-lossless.npz") as content:
            stored = torch.from_numpy(content["images"][:count]).permute(0, 3, 1, 2)
    else:
        model, prepare = load_model(name)
        stored = torch.stack([load_image(file) for file in image_files("held-out", count)])
    model = model.to(memory_format=torch.channels_last).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model, prepare(stored).contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
