"""The ranking explainer by measures it was not trained on, and whether it follows the classifier.

    python -m benchmarks.ranking_heldout cifar10
    python -m benchmarks.ranking_heldout mnist
    python -m benchmarks.ranking_heldout cifar10 --gradients
    python -m benchmarks.ranking_heldout resnet18 --gradients --images 12
    python -m benchmarks.ranking_heldout deit_tiny --gradients --images 12

Takes the network of ``benchmarks.ranking_train`` (which trains it if it is not there) and its
reported images.

- Deletion and insertion with another reference, random colours, and other numbers of steps; with
  imputed pixels (ROAD), most important first and least important first.
- Infidelity: the share of what hiding boxes costs that the map's sums over the boxes do not
  explain, at the map's best scale. An order has no scale or offset, so every map is also measured
  by its ranks, from 0 to 1.
- Sanity: the rank correlation with the map of the intact classifier, after its layers are drawn
  anew one after another, from the last to the first. The explainer reads the drawn features.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks._common import RESULTS, environment, table, write_json
from benchmarks._ranking_case import ask, journalled
from benchmarks._ranking_maps import (
    first_class,
    integrated_gradients,
    refined_maps,
    single_pass_maps,
)
from benchmarks._ranking_subjects import Subject
from benchmarks._statistics import paired
from usu_captum import ForwardScore
from usu_captum.ranking import RankingNetwork, build_network
from usu_core import metrics

HIGHER = {
    "deletion, random colours": False,
    "insertion, random colours": True,
    "deletion, 7 steps": False,
    "insertion, 7 steps": True,
    "deletion, 50 steps": False,
    "insertion, 50 steps": True,
    "ROAD, most important first": False,
    "ROAD, least important first": True,
    "infidelity": False,
    "infidelity of ranks": False,
}
"""The measures, and whether more is better."""
BOXES = 200
SANITY_IMAGES = 20
LAYERS = {
    "cifar10": ("linear", "layer3", "layer2", "layer1", "conv1"),
    "mnist": ("9", "7", "4", "2", "0"),
    "resnet18": ("fc", "layer4", "layer3", "layer2", "layer1"),
    "deit_tiny": ("head", "blocks.11", "blocks.10", "blocks.9", "blocks"),
}


def main() -> None:
    """Measure, print the tables and write the JSON."""
    case = ask(__doc__, tuple(LAYERS), images=60)
    subject, network = case.subject, case.network
    records = journalled(case, "heldout", _judge)
    summary = summarise([record["metrics"] for record in records])
    count = min(SANITY_IMAGES, len(records))
    sanity = _sanity(subject, network, LAYERS[case.name], count)
    _print(summary, sanity)
    write_json(
        case.out or RESULTS / f"ranking_heldout_{case.stem}.json",
        {
            "environment": environment(),
            "images": len(records),
            "boxes": BOXES,
            "summary": summary,
            "sanity_images": count,
            "sanity": sanity,
            "records": records,
        },
    )


def _judge(subject: Subject, network: RankingNetwork, image: Tensor) -> dict[str, Any]:
    """Measure all maps of one image; the model is run once for what they share."""
    target = first_class(subject, image)
    maps = {
        **refined_maps(subject, network, image, target, (5,)),
        **single_pass_maps(subject, image, target),
        "IG": integrated_gradients(subject, image, target),
    }
    stacked = torch.cat([m.detach().reshape(1, *image.shape[2:]) for m in maps.values()])
    batch = image.expand(len(stacked), -1, -1, -1)
    score = ForwardScore(subject.model, target)
    drawn = torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    colours = subject.space.from_raw(drawn.to(image.device))
    mean = subject.space.mean_colour(image)
    found: dict[str, Tensor] = {}
    for steps, reference, name in (
        (20, colours, "random colours"),
        (7, mean, "7 steps"),
        (50, mean, "50 steps"),
    ):
        options: Any = {"reference": reference.expand_as(batch), "steps": steps, "chunk_size": 256}
        found[f"deletion, {name}"] = metrics.deletion(score, batch, stacked, **options).auc
        found[f"insertion, {name}"] = metrics.insertion(score, batch, stacked, **options).auc
    for sign, name in ((1, "most"), (-1, "least")):
        scores = metrics.road(score, batch, sign * stacked, chunk_size=256)
        found[f"ROAD, {name} important first"] = scores.mean(1)
    boxes = metrics.random_boxes(BOXES, (image.shape[2], image.shape[3]))
    effects = metrics.box_effects(score, image, boxes, chunk_size=256).expand(len(stacked), -1)
    for name, values in (("infidelity", stacked), ("infidelity of ranks", ranks(stacked))):
        sums = metrics.box_sums(values, boxes)
        found[name] = metrics.scale_optimised_infidelity(effects, sums)
    rows = {name: {key: float(found[key][i]) for key in HIGHER} for i, name in enumerate(maps)}
    return {"metrics": rows}


def ranks(maps: Tensor) -> Tensor:
    """Replace the values of maps (B, H, W) by their ranks: 0 for the lowest, 1 for the highest."""
    flat = maps.flatten(1)
    places = flat.argsort(dim=1, stable=True).argsort(1)
    return places.double().div(flat.shape[1] - 1).view_as(maps)


def summarise(
    records: list[dict[str, dict[str, float]]], measures: Mapping[str, bool] = HIGHER
) -> dict[str, dict[str, Any]]:
    """Average over images; pair every method with the explainer's single pass.

    Gains are the explainer's over the method. Of each measure it is told whether more is better.
    """
    values = {
        name: {key: np.array([record[name][key] for record in records]) for key in measures}
        for name in records[0]
    }
    own = values["ranking"]
    return {
        name: {
            key: {"mean": float(value.mean())}
            | ({} if name == "ranking" else paired(own[key] - value, measures[key]))
            for key, value in row.items()
        }
        for name, row in values.items()
    }


def _sanity(
    subject: Subject, network: RankingNetwork, layers: tuple[str, ...], count: int
) -> dict[str, dict[str, float]]:
    """Return each method's mean rank correlation with its map of the intact classifier."""
    images = torch.cat([subject.shown(i) for i in range(count)])
    with torch.no_grad():
        targets = subject.model(images).argmax(1)

    def ranked(model: nn.Module) -> Tensor:
        # Built anew, for the head's rows are read when it is built.
        rebuilt = build_network(network.config, model).eval()
        rebuilt.load_state_dict(network.state_dict())
        with torch.no_grad():
            maps: Tensor = rebuilt(images, targets)
        return maps[:, 0]

    def single(name: str) -> Any:
        def attribute(model: nn.Module) -> Tensor:
            pairs = zip(images, targets.tolist(), strict=True)
            every = [single_pass_maps(subject, i[None], t)[name].flatten(0, -3) for i, t in pairs]
            return torch.cat(every)

        return attribute

    def integrated(model: nn.Module) -> Tensor:
        pairs = zip(images, targets.tolist(), strict=True)
        return torch.cat([integrated_gradients(subject, i[None], t) for i, t in pairs])

    methods = {
        "ranking": ranked,
        **{name: single(name) for name in ("Grad-CAM bilinear", "LayerCAM", "input x gradient")},
        "IG": integrated,
    }
    rows = {}
    for name, attribute in tqdm(methods.items(), desc="sanity", unit="method"):
        result = metrics.model_randomisation(attribute, subject.model, layers=layers)
        means = result.similarity.double().mean(0).tolist()
        rows[name] = {layer: float(v) for layer, v in zip(result.layers, means, strict=True)}
    return rows


def summary_table(summary: dict[str, dict[str, Any]]) -> str:
    """Return the means of a summary, and what tells them from the explainer's."""
    rows = [
        [name, *(f"{found['mean']:.3f} ({found.get('p', 1):.0e})" for found in row.values())]
        for name, row in summary.items()
    ]
    return table(("map", *next(iter(summary.values()))), rows)


def _print(summary: dict[str, dict[str, Any]], sanity: dict[str, dict[str, float]]) -> None:
    print(summary_table(summary))
    layers = list(next(iter(sanity.values())))
    rows = [[name, *(f"{row[layer]:.2f}" for layer in layers)] for name, row in sanity.items()]
    print(table(("drawn anew down to", *layers), rows))


if __name__ == "__main__":
    main()
