"""SAMP's tables under SAMP's protocol, and under references SAMP was not built on.

    python -m benchmarks.samp_tables --sets mnist --images 100
    python -m benchmarks.samp_tables --sets imagenet --models resnet18 --images 12

Tables 1 to 4 and 6 of "Path choice matters for clear attribution in path methods" (Zhang et al.,
2024). Protocol: pixels in falling order of the map, 10 per step on small images and 1792 of
224 x 224; deletion writes zeros in the model's space, insertion starts from the blurred image;
the logit of the predicted class over that of the image, mean of all points. SAMP's own paths end
at the same two images, so each map is also judged with two it has not seen, black and the image's
mean colour. Sensitivity-N (small images only) correlates the mass of random subsets with the drop
of the logit when they become zero.

"(printed)" marks SAMP with the printed accumulation: the momentum-smoothed gradient where a step
starts. Without the mark it is the trapezoidal rule. Images are the held-out half. Results are
appended image by image, so a run that was stopped, or is extended, continues where it was. What
the result holds beyond the journal stays there.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks import _samp_paper as paper
from benchmarks._common import (
    RESULTS,
    append_journal,
    data_folder,
    data_module,
    environment,
    image_files,
    load_image,
    load_model,
    read_journal,
    table,
    write_json,
)
from benchmarks._samp_maps import GROUPS, Explained, Subject
from benchmarks._statistics import signed_rank
from usu_captum import ForwardScore
from usu_core import metrics

SETS = {
    "mnist": ("cnn5",),
    "cifar10": ("resnet20", "resnet56"),
    "imagenet": ("resnet50", "resnet18", "mobilenet_v2"),
}
METRICS = {
    "deletion": False,
    "insertion": True,
    "other deletion": False,
    "other insertion": True,
}
"""Name to whether higher is better."""
SUBSETS, SHARES = 40, (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Data:
    """Images of one set, a model for them, and the set's protocol."""

    name: str
    model_name: str
    model: nn.Module
    layer: Any
    prepare: Callable[[Tensor], Tensor]
    pictures: Sequence[tuple[str, Callable[[], Tensor]]]
    protocol: metrics.CurveProtocol
    other: metrics.CurveProtocol


def main() -> None:
    """Measure, print the tables and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--models", nargs="+", help="by default the first of each set")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--batch", type=int, default=10, help="images at once")
    parser.add_argument("--rise-masks", type=int, default=500)
    parser.add_argument("--lime-samples", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULTS / "samp_tables.json")
    options = parser.parse_args()
    journal = options.out.with_suffix(".jsonl")
    for name in options.sets:
        for model in options.models or SETS[name][:1]:
            if model in SETS[name]:
                _measure(_load(name, model, options.images), options, journal)
    summary = _extended(options.out, _summarise(read_journal(journal)))
    for row in summary.values():
        _print(row)
    write_json(
        options.out,
        {
            "environment": environment(),
            "split": "held-out",
            "protocol": "as SAMP; 'other' references are black and the image's mean colour",
            "rise_masks": options.rise_masks,
            "lime_samples": options.lime_samples,
            "sensitivity_shares": SHARES,
            "summary": summary,
        },
    )


def _load(name: str, model_name: str, count: int) -> Data:
    if name == "imagenet":
        model, prepare = load_model(model_name)
        files = image_files("held-out", count)
        pictures = [(f.stem, partial(load_image, f)) for f in files]
        layer = model.features if model_name == "mobilenet_v2" else model.layer4
        protocol = metrics.SAMP
        other = replace(protocol, pixels_per_step=3584)
    else:
        module = data_module()
        model, prepare = module.mnist() if name == "mnist" else module.cifar(model_name)
        file = "test-1000.npz" if name == "mnist" else "test-1000-jpeg.npz"
        with np.load(data_folder() / name / file) as content:
            images = torch.from_numpy(content["images"])[1::2]  # the held-out half
        images = images[:, None] if name == "mnist" else images.permute(0, 3, 1, 2)
        places = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
        pictures = [(f"{2 * i + 1:04d}", partial(images.__getitem__, i)) for i in places.tolist()]
        layer = model[5] if name == "mnist" else model.layer3
        blur = metrics.Blur(sigma=5.0, radius=5)
        protocol = replace(metrics.SAMP, insertion=(blur,), pixels_per_step=10)
        other = replace(protocol, pixels_per_step=40)
    other = replace(other, deletion=("black", "mean"), insertion=("black", "mean"))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    # A run that ends early has then seen images of all classes.
    order = np.random.default_rng(0).permutation(len(pictures))
    pictures = [pictures[i] for i in order]
    return Data(name, model_name, model, layer, prepare, pictures, protocol, other)


def _measure(data: Data, options: argparse.Namespace, journal: Path) -> None:
    """Add one line per image and group to the journal, but for those it has."""
    done = {(r["set"], r["model"], r["image"], r["group"]) for r in read_journal(journal)}
    starts = range(0, len(data.pictures), options.batch)
    for first in tqdm(starts, desc=f"{data.name} {data.model_name}", unit="batch"):
        for group in options.groups:
            batch = [
                picture
                for picture in data.pictures[first : first + options.batch]
                if (data.name, data.model_name, picture[0], group) not in done
            ]
            if batch:
                for line in _lines(data, group, batch, options):
                    append_journal(journal, line)


def _lines(
    data: Data,
    group: str,
    batch: Sequence[tuple[str, Callable[[], Tensor]]],
    options: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    images = data.prepare(torch.stack([load() for _, load in batch]))
    with torch.no_grad():
        top, targets = data.model(images).max(1)
    if bool((top <= 0).any()):
        raise SystemExit(f"{data.name}: the protocol divides by a logit that is not above 0")
    subject = Subject(
        data.model, data.layer, images, targets, options.rise_masks, options.lime_samples
    )
    start = time.process_time()
    maps = GROUPS[group](subject)
    seconds = (time.process_time() - start) / len(batch)
    found = {name: _judge(data, subject, explained) for name, explained in maps.items()}
    for i, (image, _) in enumerate(batch):
        yield {
            "set": data.name,
            "model": data.model_name,
            "image": image,
            "group": group,
            "target": int(targets[i]),
            "seconds": seconds,
            "maps": {
                name: {metric: values[i] for metric, values in columns.items()}
                for name, columns in found.items()
            },
        }


def _judge(data: Data, subject: Subject, explained: Explained) -> dict[str, list[Any]]:
    """Return every metric of one map, a list over the images."""
    images, maps = subject.images, explained.map
    black = data.prepare(torch.zeros(1, images.shape[1], 1, 1, dtype=torch.uint8))[0]

    def forward(inputs: Tensor) -> Tensor:
        # Half precision treats all maps alike, and large images take most of the time here.
        with torch.autocast("cpu", torch.bfloat16, enabled=data.name == "imagenet"):
            result: Tensor = subject.model(inputs)
        return result.float()

    score = ForwardScore(forward, subject.targets)
    found: dict[str, list[Any]] = {}
    for prefix, protocol in (("", data.protocol), ("other ", data.other)):
        for name, measure in (("deletion", metrics.deletion), ("insertion", metrics.insertion)):
            curve = measure(score, images, maps, black=black, protocol=protocol)
            found[prefix + name] = curve.auc.tolist()
    if explained.change is not None:
        found["mass"] = maps.flatten(1).sum(1).tolist()
        found["change"] = explained.change.tolist()
    if explained.deletion is not None and data.name != "imagenet":
        found["sensitivity"] = metrics.sensitivity_n(
            score,
            images,
            explained.deletion,
            [round(share * maps[0].numel()) for share in SHARES],
            samples=SUBSETS,
            reference=0.0,
            output="logit",
        ).tolist()
    return found


def _summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Gather the journal by set and model."""
    result = {}
    for key in sorted({(r["set"], r["model"]) for r in records}):
        chosen = [r for r in records if (r["set"], r["model"]) == key]
        values: dict[str, dict[str, dict[str, Any]]] = {}
        seconds: dict[str, list[float]] = {}
        for record in chosen:
            seconds.setdefault(record["group"], []).append(record["seconds"])
            for name, row in record["maps"].items():
                values.setdefault(name, {})[record["image"]] = row
        result[" ".join(key)] = {
            "set": key[0],
            "model": key[1],
            "seconds_per_image": {g: float(np.mean(s)) for g, s in seconds.items()},
            "maps": {name: _row(values, name, key[0]) for name in values},
        }
    return result


def _extended(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Return a written result's summary with what was found now, but for maps of fewer images."""
    if not path.is_file():
        return found
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["summary"]
    for key, part in found.items():
        old = known.setdefault(key, part)
        old["seconds_per_image"] |= part["seconds_per_image"]
        for name, row in part["maps"].items():
            if row["images"] >= old["maps"].get(name, row)["images"]:
                old["maps"][name] = row
    return known


def _row(values: dict[str, dict[str, Any]], name: str, data: str) -> dict[str, Any]:
    rows = list(values[name].values())
    found: dict[str, Any] = {"images": len(rows)}
    for metric in METRICS:
        column = np.array([row[metric] for row in rows])
        found[metric] = {"mean": float(column.mean()), "sd": float(column.std())}
        for rival in ("SAMP++", "SAMP++ (printed)"):
            if rival in values and rival != name:
                found[metric][f"against {rival}"] = _paired(values, name, rival, metric)
    if "mass" in rows[0]:
        mass, change = (np.array([row[k] for row in rows]) for k in ("mass", "change"))
        found["completeness"] = {
            "gap": float(np.median(np.abs(mass - change) / np.abs(change))),
            "ratio": float(np.median(mass / change)),
            "correlation": _correlation(mass, change),
        }
    if "sensitivity" in rows[0]:
        found["sensitivity"] = np.mean([row["sensitivity"] for row in rows], 0).tolist()
    printed = paper.value(name.removesuffix(" (printed)"), data)
    if printed is not None:
        found["paper"] = {"deletion": printed[0], "insertion": printed[1]}
    return found


def _paired(
    values: dict[str, dict[str, Any]], name: str, rival: str, metric: str
) -> dict[str, float]:
    """Return how much better a map is than another on the images both have, and Wilcoxon's p."""
    images = sorted(set(values[name]) & set(values[rival]))
    gain = np.array([values[name][i][metric] - values[rival][i][metric] for i in images])
    gain = gain if METRICS[metric] else -gain
    return {"gain": float(gain.mean()) if len(gain) else 0.0, "p": signed_rank(gain)}


def _correlation(mass: np.ndarray[Any, Any], change: np.ndarray[Any, Any]) -> float | None:
    """Pearson's correlation over images; ``None`` where it has no value."""
    if len(mass) < 3 or mass.std() == 0 or change.std() == 0:
        return None
    return float(np.corrcoef(mass, change)[0, 1])


def _print(part: dict[str, Any]) -> None:
    for title, names in paper.TABLES.items():
        rows = []
        for name in (n + suffix for n in names for suffix in ("", " (printed)")):
            row = part["maps"].get(name)
            if row is None:
                continue
            cells = [name, str(row["images"])]
            for metric in METRICS:
                against = row[metric].get("against SAMP++")
                p = "" if against is None else f" ({'-+'[against['gain'] > 0]}{against['p']:.3f})"
                cells.append(f"{row[metric]['mean']:.3f}{p}")
            known = row.get("paper")
            cells.append("" if known is None else f"{known['deletion']} / {known['insertion']}")
            complete = row.get("completeness")
            cells.append("" if complete is None else f"{complete['ratio']:.2f}")
            found = row.get("sensitivity")
            cells.append("" if found is None else " ".join(f"{v:.2f}" for v in found))
            rows.append(cells)
        if rows:
            print(
                f"\n{part['set']}, {part['model']}: {title}; in brackets gain and p against SAMP++"
            )
            header = ("map", "images", *METRICS, "paper", "mass / change", "sensitivity-n")
            print(table(header, rows))


if __name__ == "__main__":
    main()
