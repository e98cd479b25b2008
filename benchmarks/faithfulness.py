"""Nine CAMs and all upsamplers, against explanations that spend the same model evaluations.

    python -m benchmarks.faithfulness --models resnet18 --images 23

Held-out photographs, each model's first class. RISE, LIME and occlusion spend 160 model
evaluations, what the scores of the guided upsamplers cost. Records are kept per model beside
the result; a run that was stopped goes on, and a run with other images adds them.
"""

import argparse
import dataclasses
from pathlib import Path

from benchmarks._common import MODELS, RESULTS, ROOT
from benchmarks._grid import cams, photographs, plan, publish, run
from benchmarks._grid_tables import CONTROLS
from usu_cli.evaluate import Summary, _plots

METRICS = ("deletion", "insertion", "correlation", "infidelity", "mass-error", "sparseness")
PEERS = ("bilinear", "nearest", "bicubic")


def main() -> None:
    """Measure what is missing, and publish what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--images", type=int, default=23)
    parser.add_argument("--records", type=Path, default=RESULTS / "faithfulness")
    parser.add_argument("--out", type=Path, default=RESULTS / "faithfulness.json")
    options = parser.parse_args()
    for name in options.models:
        chosen = plan(name, (*cams(name), *CONTROLS), METRICS)
        run(name, photographs(options.images), chosen, options.records / name)
    folders = {name: options.records / name for name in MODELS}
    found = publish(folders, PEERS, options.out)
    if "resnet18" in found:
        _draw(found["resnet18"])


def _draw(summary: Summary) -> None:
    """Draw the two pictures that the page on the command shows."""
    shown = tuple(n for n in summary.maps if n[0] in ("GradCAM", "LayerCAM", *CONTROLS))
    for name, picture in (
        ("curves", _plots.curves(dataclasses.replace(summary, maps=shown))),
        ("ranks", _plots.ranks(summary, "insertion")),
    ):
        if picture is not None:
            (ROOT / "docs" / "images" / f"evaluate-{name}.png").write_bytes(picture)


if __name__ == "__main__":
    main()
