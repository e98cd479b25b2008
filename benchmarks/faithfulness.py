"""All upsamplers on several CAMs, against explanations that spend the same model evaluations.

    python -m benchmarks.faithfulness --models resnet18 --images 12

Held-out photographs, each model's first class. HiResCAM is left out on the CNNs: before a global
average it is Grad-CAM. RISE, LIME and occlusion spend 150 model evaluations, about what the scores
of the guided upsamplers cost. Records are kept per model beside the result; a run that was stopped
goes on.
"""

import argparse
from pathlib import Path

from benchmarks._common import MODELS, RESULTS
from benchmarks._grid import photographs, plan, publish, run

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
    publish(folders, PEERS, options.out, dict.fromkeys(MODELS, options.images))


if __name__ == "__main__":
    main()
