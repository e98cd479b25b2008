"""Train the network that ``usu demo`` explains, and record how well it does.

Right for the right reasons: besides the cross-entropy, the loss punishes the squared gradient of
the summed log-probabilities with respect to pixels outside the shape, times lambda (0.1 in the
paper). The first epochs run at a quarter and at half of the resolution, where shapes look alike,
fit the receptive field and cost a sixteenth and a quarter; the last run at the full 224 x 224.
Writes the weights (fp16), which ``usu demo`` ships, and the figures in ``benchmarks/results``:

    python -m benchmarks.train_shapes
"""

import argparse
import json
import platform

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from benchmarks._common import RESULTS, ROOT
from benchmarks._shapes_networks import CNN_STAGES, shapes_cnn
from benchmarks._shapes_training import Recipe, Training, train
from usu_cli._shapes import ASSET, CLASSES

WEIGHTS = ROOT / "usu_cli" / "_assets" / ASSET
FIGURES = RESULTS / "train_shapes.json"


def main() -> None:
    """Parse the options, train, evaluate, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--penalty", type=float, default=0.1, help="lambda of the gradient penalty")
    options = parser.parse_args()
    recipe = Recipe(CNN_STAGES, options.penalty, options.images, options.batch_size, options.seed)
    trained = train(shapes_cnn, recipe, notify=lambda figures: tqdm.write(json.dumps(figures)))
    _save(trained, vars(options))


def _save(trained: Training, options: dict[str, int | float]) -> None:
    record = {
        "options": options,
        "stages": CNN_STAGES,
        "classes": CLASSES,
        "test": trained.test,
        "validation_curve": trained.curve,
        "seconds": round(trained.seconds, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "architecture": "usu_cli._shapes.ShapesCNN",
        "classes": ",".join(CLASSES),
        "trained_by": "benchmarks/train_shapes.py",
        "options": json.dumps(options),
        "test": json.dumps(trained.test),
    }
    save_file(
        {name: tensor.half().contiguous() for name, tensor in trained.model.state_dict().items()},
        WEIGHTS,
        metadata=metadata,
    )
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    FIGURES.write_text(json.dumps(record, indent=2) + "\n")
    tqdm.write(f"test: {json.dumps(trained.test)}\nwrote {WEIGHTS}\nwrote {FIGURES}")


if __name__ == "__main__":
    main()
