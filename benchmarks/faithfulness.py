"""All upsamplers on several CAMs, against explanations that spend the same model evaluations.

    python -m benchmarks.faithfulness --models resnet18 --images 12

Held-out photographs, each model's first class. HiResCAM is left out on the CNNs: before a global
average it is Grad-CAM. RISE, LIME and occlusion spend 150 model evaluations, about what the scores
of the guided upsamplers cost. Records are kept per model beside the result; a run that was stopped
goes on.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks._common import MODELS, RESULTS, ROOT
from benchmarks._grid import photographs, plan, publish, run
from usu_cli.evaluate import Summary, _plots
from usu_cli.evaluate._maps import AS_IS
from usu_cli.evaluate._statistics import Array, paired

METRICS = ("deletion", "insertion", "correlation", "infidelity", "mass-error", "sparseness")
PEERS = ("bilinear", "nearest", "score-map", "RISE", "Lime", "Occlusion")
CONTROLS = ("RISE", "Lime", "Occlusion", "random")


def main() -> None:
    """Measure what is missing, and publish what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--records", type=Path, default=RESULTS / "faithfulness")
    parser.add_argument("--out", type=Path, default=RESULTS / "faithfulness.json")
    options = parser.parse_args()
    for name in options.models:
        cams = ("GradCAM", "LayerCAM") + (("HiResCAM",) if name == "deit_tiny" else ())
        chosen = plan(name, (*cams, *CONTROLS), METRICS)
        run(name, photographs(options.images), chosen, options.records / name)
    folders = {name: options.records / name for name in MODELS}
    found = publish(folders, PEERS, options.out)
    print(differences(found))
    if "resnet18" in found:
        _draw(found["resnet18"])


def differences(summaries: Mapping[str, Summary]) -> str:
    """Return Markdown: insertion minus deletion of Grad-CAM's maps, and p against each peer."""
    summaries = {name: s for name, s in summaries.items() if "infidelity" in s.metrics}
    lines = [f"\n| insertion - deletion | {' | '.join(summaries)} |"]
    lines.append("|---|" + "---|" * len(summaries))
    peers = {p: (p, AS_IS) if p in CONTROLS else ("GradCAM", p) for p in PEERS}
    rows = {upsampler: ("GradCAM", upsampler) for upsampler in ("usu", "iwmr-mass", "tilted")}
    for name, place in (peers | rows | {"random": ("random", AS_IS)}).items():
        means = [f"{_gap(s, place).mean():.3f}" for s in summaries.values()]
        lines.append(f"| {name} | {' | '.join(means)} |")
    for subject, place in rows.items():
        for peer, other in peers.items():
            cells = []
            for summary in summaries.values():
                result = paired(_gap(summary, place) - _gap(summary, other))
                cells.append(f"{result.gain:+.3f}, p {result.p:.3f}")
            lines.append(f"| {subject} over {peer} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _draw(summary: Summary) -> None:
    """Draw the two pictures that the page on the command shows."""
    for name, picture in (
        ("curves", _plots.curves(summary)),
        ("ranks", _plots.ranks(summary, "insertion")),
    ):
        if picture is not None:
            (ROOT / "docs" / "images" / f"evaluate-{name}.png").write_bytes(picture)


def _gap(summary: Summary, name: tuple[str, str]) -> Array:
    """Insertion minus deletion of a map, on the images that a run has finished."""
    done = set.intersection(*(set(summary.values[m, name]) for m in METRICS[:4]))
    high, low = (summary.values[metric, name] for metric in ("insertion", "deletion"))
    return np.array([high[image] - low[image] for image in sorted(done)])


if __name__ == "__main__":
    main()
