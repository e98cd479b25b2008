"""Soft deletion and insertion against hard: ``python -m benchmarks.ranking_relaxation``.

The ranking objective sorts cells softly; what counts is the metric on pixels, sorted hard. Maps of
five kinds on two classifiers are scored both ways, across temperatures, grids and iterations:

* ``grid``: the same cells sorted hard, so that softness is the only difference;
* ``pixels``: the metric itself, without cells and without smoothing.

Then the gradient: how much its direction turns as the temperature is annealed.
"""

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from captum.attr import IntegratedGradients
from scipy.stats import spearmanr
from torch import Tensor, nn

from benchmarks._common import (
    RESULTS,
    ROOT,
    data_folder,
    data_module,
    environment,
    table,
    write_json,
)
from usu_captum import IMAGENET, ForwardScore, ImageSpace
from usu_captum.ranking._objective import RankingObjective
from usu_captum.ranking._refine import refine
from usu_captum.ranking._sinkhorn import GumbelSinkhorn
from usu_captum.ranking._transport import RankTransport
from usu_core.metrics import deletion, insertion

PICTURE = ROOT / "docs" / "images" / "ranking_relaxation.png"
TEMPERATURES = (3.0, 1.0, 0.6, 0.3, 0.1, 0.03, 0.01)
GRIDS = (7, 8, 14, 20, 28)
ITERATIONS = (5, 10, 30, 100, 300)
RATIOS = (33, 100, 300)
MAPS = ("ig", "ig absolute", "random", "centre", "refined")
NAMES = ("deletion", "insertion")


class HardSorter:
    """Masks of the exact sort."""

    score_range = None

    def top_masks(self, scores: Tensor, fractions: Tensor, **_: Any) -> Tensor:
        """Return masks of the highest scores; the item that a share ends in is shared."""
        ranks = scores.argsort(1, descending=True).argsort(1)
        counts = fractions.to(scores)[:, None] * scores.shape[1]
        return (counts - ranks[:, None, :]).clamp(0.0, 1.0)


def main() -> None:
    """Score every map softly and hard, print the tables, write the JSON and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", type=int, default=10, help="photographs; three times the digits"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "ranking_relaxation.json")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    torch.manual_seed(0)
    result = {
        "environment": environment(),
        "maps": MAPS,
        "models": {
            "CIFAR-10 ResNet-56": _measure(*_cifar(options.images)),
            "MNIST CNN": _measure(*_mnist(3 * options.images)),
        },
        "iterations": _iterations(),
    }
    write_json(options.out, result)
    _print(result)
    _draw(result, options.picture)


def _cifar(count: int) -> tuple[nn.Module, Tensor, ImageSpace]:
    model, prepare = data_module().cifar("resnet56")
    stored = np.load(data_folder() / "cifar10" / "test-100-lossless.npz")["images"][:count]
    return model, prepare(torch.from_numpy(stored).permute(0, 3, 1, 2)), IMAGENET


def _mnist(count: int) -> tuple[nn.Module, Tensor, ImageSpace]:
    model, prepare = data_module().mnist()
    stored = np.load(data_folder() / "mnist" / "test-1000.npz")["images"]
    chosen = stored[np.linspace(0, len(stored) - 1, count).round().astype(int)]
    return model, prepare(torch.from_numpy(chosen)[:, None]), ImageSpace((0.1307,), (0.3081,))


def _measure(model: nn.Module, images: Tensor, space: ImageSpace) -> dict[str, Any]:
    """Compare soft and hard scores of every map of every image."""
    with torch.no_grad():
        targets = model(images).argmax(1)
    maps = _maps(model, images, targets, space)
    every = images.repeat(len(MAPS), 1, 1, 1)
    labels = targets.repeat(len(MAPS))
    reference = space.mean_colour(every).contiguous()
    objective = RankingObjective(peak_penalty=0.0, chunk_size=256)
    ends = objective.ends(model, every, labels, references=reference)

    def evaluate(sorter: Any, grid: int, smoothing: float = 1.0) -> Tensor:
        with torch.no_grad():
            value = replace(objective, sorter=sorter, smoothing=smoothing)(
                model, every, maps, labels, grid=grid, references=reference, ends=ends
            )
        return torch.stack([value.deletion, value.insertion])

    score = ForwardScore(model, target=labels)
    hard: Any = {"reference": reference, "steps": 20, "chunk_size": 256}
    pixels = torch.stack(
        [metric(score, every, maps[:, 0], **hard).auc for metric in (deletion, insertion)]
    )
    on_grid = {grid: evaluate(HardSorter(), grid) for grid in GRIDS}
    rows: list[dict[str, Any]] = []

    def compare(soft: Tensor, grid: int, **about: Any) -> None:
        for k, name in enumerate(NAMES):
            rows.append(
                {
                    **about,
                    "grid": grid,
                    "score": name,
                    "to_grid": _agreement(soft[k], on_grid[grid][k]),
                    "to_pixels": _agreement(soft[k], pixels[k]),
                }
            )

    for temperature in TEMPERATURES:
        compare(evaluate(GumbelSinkhorn(temperature), 14), 14, sorter="sinkhorn",
                temperature=temperature)  # fmt: skip
    for grid in GRIDS:
        if grid != 14:
            compare(evaluate(GumbelSinkhorn(), grid), grid, sorter="sinkhorn", temperature=0.3)
        compare(evaluate(RankTransport(), grid), grid, sorter="transport", temperature=0.3)
        compare(on_grid[grid], grid, sorter="hard", temperature=0.0)
    side = images.shape[-1]
    fine = evaluate(RankTransport(), side, 0.0)
    on_grid[side] = pixels
    compare(fine, side, sorter="transport, every pixel, no smoothing", temperature=0.3)
    means = {m: pixels.view(2, len(MAPS), -1).mean(2)[:, i].tolist() for i, m in enumerate(MAPS)}
    return {
        "examples": len(every),
        "hard_mean_by_map": means,
        "rows": rows,
        "annealing": _annealing(model, images, maps[: len(images)], targets, space),
    }


def _maps(model: nn.Module, images: Tensor, targets: Tensor, space: ImageSpace) -> Tensor:
    """Return maps (kinds x B, 1, H, W): good ones, useless ones, and one made for the objective."""
    gradients = IntegratedGradients(model).attribute(
        images,
        space.mean_colour(images).contiguous(),
        target=targets,
        n_steps=20,
        method="gausslegendre",
    )
    signed = gradients.detach().float().sum(1, keepdim=True)
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(signed.shape, generator=generator)
    place = torch.linspace(-1, 1, images.shape[-1]).square()
    centre = torch.exp(-2 * (place[:, None] + place)).expand_as(signed)
    goal = RankingObjective(chunk_size=256)
    refined = refine(
        model, images, target=targets, references="mean", space=space, objective=goal
    ).maps
    return torch.cat([signed, signed.abs(), random, centre, refined])


def _agreement(soft: Tensor, hard: Tensor) -> dict[str, float]:
    a, b = soft.double(), hard.double()
    return {
        "gap": float((a - b).abs().mean()),
        "bias": float((a - b).mean()),
        "pearson": float(torch.corrcoef(torch.stack([a, b]))[0, 1]),
        "spearman": float(spearmanr(a.numpy(), b.numpy()).statistic),
    }


def _annealing(
    model: nn.Module, images: Tensor, maps: Tensor, targets: Tensor, space: ImageSpace
) -> list[dict[str, float]]:
    """Turn of the gradient and drift of the value from one temperature to the next."""
    few = slice(0, min(len(images), 8))
    images, maps, targets = images[few], maps[few], targets[few]
    reference = space.mean_colour(images).contiguous()
    objective = RankingObjective(peak_penalty=0.0, chunk_size=256)
    rows: list[dict[str, float]] = []
    before = None
    for temperature in TEMPERATURES:
        leaf = maps.clone().requires_grad_()
        value = objective(
            model, images, leaf, targets, grid=14, references=reference, temperature=temperature
        )
        flat = torch.autograd.grad([value.total.sum()], [leaf])[0].flatten(1)
        row = {
            "temperature": temperature,
            "total": float(value.total.detach().mean()),
            "gradient_norm": float((flat.norm(dim=1) * maps.flatten(1).std(1)).mean()),
        }
        if before is not None:
            row["cosine_to_previous"] = float(torch.cosine_similarity(flat, before).mean())
        rows.append(row)
        before = flat
    return rows


def _iterations() -> list[dict[str, Any]]:
    """Share of the soft top quarter's mass that lies on the true top quarter of 400 scores."""
    scores = torch.rand(8, 400, generator=torch.Generator().manual_seed(0))
    top = scores.topk(100).indices
    rows = []
    for ratio in RATIOS:
        for start in ("published", "hard sort"):
            for count in ITERATIONS:
                sorter = GumbelSinkhorn(
                    1.0, n_iterations=count, score_range=None, warm_start=start == "hard sort"
                )
                share, error = _share(sorter, scores * ratio, top)
                rows.append(
                    {
                        "range_over_temperature": ratio,
                        "start": start,
                        "n_iterations": count,
                        "top_share": share,
                        "column_error": error,
                    }
                )
    return rows


def _share(sorter: GumbelSinkhorn, scores: Tensor, top: Tensor) -> tuple[float, float]:
    every = torch.linspace(0, 1, scores.shape[1] + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # The error is what is measured.
        masks = sorter.top_masks(scores, every)
    columns = masks[:, -1]
    share = float(masks[:, 100].gather(1, top).sum(1).mean()) / 100
    return share, float((columns - 1).abs().max())


def _print(result: dict[str, Any]) -> None:
    header = ("sorter", "t", "G", "score", "gap to hard G", "r", "gap to pixels", "r", "rank r")
    for model, measured in result["models"].items():
        print(f"\n{model}, {measured['examples']} maps")
        rows = [
            [
                row["sorter"],
                f"{row['temperature']:g}",
                str(row["grid"]),
                row["score"],
                f"{row['to_grid']['gap']:.3f}",
                f"{row['to_grid']['pearson']:.3f}",
                f"{row['to_pixels']['gap']:.3f}",
                f"{row['to_pixels']['pearson']:.3f}",
                f"{row['to_pixels']['spearman']:.3f}",
            ]
            for row in measured["rows"]
        ]
        print(table(header, rows))
        steps = [[f"{v:.4g}" for v in row.values()] for row in measured["annealing"][1:]]
        print(table(("temperature", "total", "gradient", "cosine to previous"), steps))
    rows = [
        [f"{row['range_over_temperature']}", row["start"], str(row["n_iterations"]),
         f"{row['top_share']:.2f}", f"{row['column_error']:.3g}"]
        for row in result["iterations"]
    ]  # fmt: skip
    print(table(("range/temperature", "start", "iterations", "top share", "column error"), rows))


def _draw(result: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(16, 3.8), layout="constrained")
    colours = dict(zip(result["models"], ("tab:blue", "tab:orange"), strict=True))
    for model, measured in result["models"].items():
        for name, style in zip(NAMES, ("-", "--"), strict=True):
            rows = [row for row in measured["rows"] if row["score"] == name]
            warm = [row for row in rows if row["sorter"] == "sinkhorn" and row["grid"] == 14]
            look: Any = {"color": colours[model], "linestyle": style, "marker": "o"}
            axes[0].plot(
                [row["temperature"] for row in warm],
                [row["to_grid"]["gap"] for row in warm],
                label=f"{model}, {name}",
                **look,
            )
            for sorter, alpha in (("sinkhorn", 1.0), ("hard", 0.35)):
                line = sorted(
                    (
                        row
                        for row in rows
                        if row["sorter"] == sorter and row["temperature"] in (0.0, 0.3)
                    ),
                    key=lambda row: int(row["grid"]),
                )
                axes[1].plot(
                    [row["grid"] for row in line],
                    [row["to_pixels"]["pearson"] for row in line],
                    alpha=alpha,
                    **look,
                )
        turn = measured["annealing"][1:]
        axes[3].plot(
            [row["temperature"] for row in turn],
            [row["cosine_to_previous"] for row in turn],
            color=colours[model],
            marker="o",
        )
    for start, style in (("published", "--"), ("hard sort", "-")):
        for ratio, colour in zip(RATIOS, ("tab:green", "tab:red", "tab:purple"), strict=True):
            line = [
                row
                for row in result["iterations"]
                if row["start"] == start and row["range_over_temperature"] == ratio
            ]
            axes[2].plot(
                [row["n_iterations"] for row in line],
                [row["top_share"] for row in line],
                color=colour,
                linestyle=style,
                marker="o",
                label=f"range/temperature {ratio}, {start}",
            )
    _label(axes[0], "temperature (G = 14)", "mean gap, soft to hard cells", log=True)
    _label(axes[1], "grid G", "correlation with hard pixels\n(pale: hard cells)", log=False)
    _label(axes[2], "iterations", "top quarter found", log=True)
    _label(axes[3], "temperature, annealed", "cosine to the gradient before", log=True)
    for axis in (axes[0], axes[3]):
        axis.invert_xaxis()
    axes[0].legend(fontsize=7)
    axes[2].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"drawn: {path.name}")


def _label(axis: Any, across: str, up: str, *, log: bool) -> None:
    axis.set_xlabel(across)
    axis.set_ylabel(up)
    if log:
        axis.set_xscale("log")
    axis.grid(alpha=0.3)


if __name__ == "__main__":
    main()
