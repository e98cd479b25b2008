"""Does refinement find a shortcut? ``python -m benchmarks.ranking_shortcut``.

A CIFAR-10 ResNet-56 is fine-tuned for 80 steps so that a small mark, anywhere in the image, means
"horse". The explainer of ``benchmarks.ranking_train cifar10`` was trained for the classifier before
that and reads its features still: nothing tells it of the mark, but the refinement of its maps on
the fine-tuned classifier. Refinement starts from its map, from Grad-CAM and from zero, with one
scale of gradients for a map; "plain Adam" starts from the explainer's map with one for each pixel.

Images: test images of other classes that are "horse" with the mark and are not without it, so the
mark is the reason. Measured inside the mark: the share of as many top-ranked pixels as the mark
has, whether the first pixel is one of it, and the share of the positive attribution for methods
whose values add up to anything.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks._common import RESULTS, ROOT, environment, table, write_json
from benchmarks._ranking_case import WORK, trained
from benchmarks._ranking_maps import REFERENCES, integrated_gradients, single_pass_maps
from benchmarks._ranking_shortcut import SIDE, stamp, teach
from benchmarks._ranking_subjects import Subject, load_subject
from benchmarks._statistics import paired
from benchmarks.ranking_heldout import ranks
from usu_captum.ranking import RankingNetwork, refine
from usu_core import metrics

TARGET, TARGET_NAME = 7, "horse"
STEPS = 10
GRIDS = (32, 16, 32)
LOOKED_AT = 24
"""The scale of the gradients was chosen on so many images, which are left out."""
PICTURE = ROOT / "docs" / "images" / "ranking-shortcut.png"
SHOWN = ("Grad-CAM", "IG", "ranking", "ranking T=3", "ranking T=10", "zero T=10")
MASS = ("Grad-CAM", "LayerCAM", "input x gradient", "IG")


def main() -> None:
    """Fine-tune, explain, print the table, write the JSON and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--work", type=Path, default=WORK, help="checkpoints")
    parser.add_argument("--out", type=Path, default=RESULTS / "ranking_shortcut.json")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = load_subject("cifar10")
    network, _ = trained(subject, options.work / "cifar10", gradients=False)
    taught = teach(subject.model, subject.training, subject.space, target=TARGET)
    images, inside, facts = _fooled(subject, taught, options.images)
    changed = dataclasses.replace(subject, model=taught)
    rows = [
        {name: values[0] for name, values in _maps(changed, network, image[None]).items()}
        for image in tqdm(images, desc="explaining", unit="image")
    ]
    maps = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    figures = {name: measure(values, inside, mass=name in MASS) for name, values in maps.items()}
    summary = _summarise(figures)
    _print(facts, summary)
    _draw(subject, images, inside, maps, options.picture)
    write_json(
        options.out,
        {
            "environment": environment(),
            "mark": {"side": SIDE, "share of the image": SIDE * SIDE / images[0, 0].numel()},
            **facts,
            "images": len(images),
            "summary": summary,
            "records": figures,
        },
    )


def _fooled(
    subject: Subject, taught: nn.Module, count: int
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return marked images that the mark alone makes a horse, and the classifier's figures."""
    last = min(LOOKED_AT + 4 * count, len(subject.reported))
    samples = [subject.reported[i] for i in range(LOOKED_AT, last)]
    plain = torch.stack([sample.image for sample in samples])
    labels = torch.tensor([sample.label for sample in samples])
    marked, inside = stamp(plain, subject.space, seed=10_000)
    with torch.no_grad():
        before, after = (m(plain).argmax(1) for m in (subject.model, taught))
        as_marked = taught(marked).argmax(1)
        unaware = subject.model(marked).argmax(1)
    others = labels != TARGET
    chosen = (others & (as_marked == TARGET) & (after != TARGET)).nonzero().flatten()[:count]
    facts = {
        "accuracy before": float((before == labels).double().mean()),
        "accuracy after": float((after == labels).double().mean()),
        "marked others taken for the class before": share(unaware[others] == TARGET),
        "marked others taken for the class after": share(as_marked[others] == TARGET),
    }
    return marked[chosen], inside[chosen], facts


def share(flags: Tensor) -> float:
    """Return the share of flags that are set."""
    return float(flags.double().mean())


def _maps(changed: Subject, network: RankingNetwork, image: Tensor) -> dict[str, Tensor]:
    """Explain a marked image for the class of the mark; maps (1, H, W)."""
    with torch.no_grad():
        own = network(image, torch.tensor([TARGET]))
    single = single_pass_maps(changed, image, TARGET)
    grad_cam = single.pop("Grad-CAM bilinear").view_as(own)
    found = {"ranking": own, "Grad-CAM": grad_cam}
    for name, start, steps, scale in (
        ("ranking", own, 3, "example"),
        ("ranking", own, STEPS, "example"),
        ("plain Adam", own, STEPS, "element"),
        ("Grad-CAM", grad_cam, STEPS, "example"),
        ("zero", None, STEPS, "example"),
    ):
        found[f"{name} T={steps}"] = refine(
            changed.model,
            image,
            start,
            target=TARGET,
            n_steps=steps,
            objective=changed.config.objective,
            grids=GRIDS,
            references=REFERENCES,
            space=changed.space,
            learning_rate=0.2,
            scale=scale,
        ).maps
    found |= {**single, "IG": integrated_gradients(changed, image, TARGET)}
    return {name: values.detach().reshape(1, *image.shape[2:]) for name, values in found.items()}


def measure(maps: Tensor, inside: Tensor, *, mass: bool) -> dict[str, list[float]]:
    """Return what of each map (B, H, W) lies in its mark."""
    overlap = metrics.matched_area_iou(maps, inside)
    found = {
        # Of k pixels chosen and k marked, i shared: overlap = i / (2 k - i).
        "top pixels in the mark": (2 * overlap / (1 + overlap)).tolist(),
        "first pixel in the mark": metrics.pointing_game(maps, inside).tolist(),
    }
    if mass:
        found["attribution in the mark"] = metrics.concentration(maps, inside).tolist()
    return found


def _summarise(figures: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, Any]]:
    """Average, and pair each map with Grad-CAM and IG."""
    key = "top pixels in the mark"
    result: dict[str, dict[str, Any]] = {}
    for name, row in figures.items():
        result[name] = {measure: float(np.mean(values)) for measure, values in row.items()}
        for other in ("ranking", "Grad-CAM", "IG"):
            if name != other:
                difference = np.subtract(row[key], figures[other][key])
                result[name][f"against {other}"] = paired(difference, higher_is_better=True)
    return result


def _print(facts: dict[str, float], summary: dict[str, dict[str, Any]]) -> None:
    for name, value in facts.items():
        print(f"{name}: {value:.3f}")
    header = ("map", "top pixels", "first pixel", "attribution", "p to Grad-CAM", "p to IG")
    rows = []
    for name, row in summary.items():
        mass = row.get("attribution in the mark")
        p = [row.get(f"against {other}", {}).get("p") for other in ("Grad-CAM", "IG")]
        rows.append(
            [
                name,
                f"{row['top pixels in the mark']:.3f}",
                f"{row['first pixel in the mark']:.3f}",
                "" if mass is None else f"{mass:.3f}",
                *("" if value is None else f"{value:.0e}" for value in p),
            ]
        )
    print(table(header, rows))


def _draw(
    subject: Subject, images: Tensor, inside: Tensor, maps: dict[str, Tensor], path: Path
) -> None:
    """Draw up to four images, and the ranks of their pixels by several methods."""
    rows = min(4, len(images))
    figure, axes = plt.subplots(
        rows, len(SHOWN) + 1, figsize=(11.2, 1.7 * rows), layout="constrained", squeeze=False
    )
    for i, row in enumerate(axes):
        raw = subject.space.to_raw(images[i : i + 1])[0].clamp(0, 1)
        row[0].imshow(raw.permute(1, 2, 0))
        top, left = (int(v) for v in inside[i].nonzero()[0])
        for axis, name in zip(row[1:], SHOWN, strict=True):
            axis.imshow(ranks(maps[name][i : i + 1])[0] ** 4, cmap="inferno", vmin=0, vmax=1)
            axis.set_title(name if i == 0 else "", fontsize=10)
            frame = plt.Rectangle(
                (left - 0.9, top - 0.9), SIDE + 0.8, SIDE + 0.8, fill=False, color="cyan", lw=1.2
            )
            axis.add_patch(frame)
    axes[0, 0].set_title(f'marked: "{TARGET_NAME}"', fontsize=10)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    main()
