"""The networks of the tables of shapes: trained when absent, and kept out of the repository.

``cnn`` and ``mlp`` are the paper's architectures; ``rrr`` ones are punished for gradients outside
the shape with the paper's lambda, ``vanilla`` ones are not. The right CNN is the one that is
shipped; the others are trained by the first run of ``benchmarks.shapes_tables``.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks._common import RESULTS
from benchmarks._shapes_patterns import PATTERNS, draw_patterns, pattern_labels
from benchmarks._shapes_training import Recipe, train
from usu_cli._shapes import CLASSES, SIZE, ShapesCNN, load_shapes_cnn

NETWORKS: Final = ("rrr-cnn", "vanilla-cnn", "rrr-mlp", "vanilla-mlp")
# Side, epochs, peak learning rate.
CNN_STAGES: Final = ((SIZE // 4, 6, 2e-3), (SIZE // 2, 4, 1e-3), (SIZE, 3, 5e-4))
MLP_STAGES: Final = ((SIZE // 8, 120, 2e-3), (SIZE // 4, 20, 5e-4), (SIZE, 4, 1e-4))
PATTERN_STAGES: Final = ((SIZE // 4, 15, 2e-3), (SIZE // 2, 6, 1e-3), (SIZE, 3, 1e-3))


class ShapesMLP(nn.Module):
    """The paper's network: the pixels, 256, 64 and one unit per class, with ReLU between."""

    def __init__(self, size: int = SIZE) -> None:
        super().__init__()
        self.size = size
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(size * size, 256),
            nn.ReLU(),
            nn.Linear(256, 64),
            nn.ReLU(),
            nn.Linear(64, len(CLASSES)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 3) for pictures (N, 1, size, size) in [0, 1]."""
        logits: Tensor = self.layers(images)
        return logits


def enlarged(model: nn.Module, size: int) -> ShapesMLP:
    """Return the network of larger pictures that answers as ``model`` does of their block means.

    Every weight of the first layer is shared out among the pixels of its block.
    """
    if not isinstance(model, ShapesMLP):
        raise TypeError(f"model must be a ShapesMLP, got {type(model).__name__}.")
    if size % model.size:
        raise ValueError(f"size must be a multiple of {model.size}, got {size}.")
    times = size // model.size
    weights = dict(model.state_dict())
    first = weights["layers.1.weight"].view(-1, model.size, model.size) / times**2
    first = first.repeat_interleave(times, 1).repeat_interleave(times, 2)
    weights["layers.1.weight"] = first.flatten(1)
    larger = ShapesMLP(size)
    larger.load_state_dict(weights)
    return larger


def turned(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Turn each picture by any angle, mirror half of them, and change size by up to a tenth."""
    count = len(images)
    angle, zoom = 2 * torch.pi * torch.rand(count), 0.9 + 0.2 * torch.rand(count)
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    sine, cosine, zero = angle.sin() * zoom, angle.cos() * zoom, torch.zeros(count)
    rows = (cosine * mirror, -sine, zero, sine * mirror, cosine, zero)
    theta = torch.stack(rows, 1).view(-1, 2, 3)
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    sample = partial(
        nn.functional.grid_sample, grid=grid, padding_mode="reflection", align_corners=False
    )
    return sample(images), sample(masks[:, None].float(), mode="nearest")[:, 0] > 0.5


def shapes_cnn() -> ShapesCNN:
    """Return the untrained CNN, laid out for speed."""
    return ShapesCNN().to(memory_format=torch.channels_last)


def pattern_cnn() -> ShapesCNN:
    """Return the CNN with one output per pattern."""
    model = shapes_cnn()
    model.head[2] = nn.Linear(128, len(PATTERNS))
    return model


_RECIPES: Final[dict[str, tuple[Callable[[], nn.Module], Recipe]]] = {
    "vanilla-cnn": (shapes_cnn, Recipe(CNN_STAGES, penalty=0.0)),
    **{
        f"{kind}-mlp": (
            lambda: ShapesMLP(MLP_STAGES[0][0]),
            Recipe(MLP_STAGES, penalty, augmentation=turned, fit=enlarged, weight_decay=1e-2),
        )
        for kind, penalty in (("rrr", 0.1), ("vanilla", 0.0))
    },
    "rrr-patterns": (
        pattern_cnn,
        Recipe(PATTERN_STAGES, images=1000, draw=draw_patterns, label=pattern_labels),
    ),
}


def load_network(name: str, folder: Path = RESULTS) -> tuple[nn.Module, dict[str, Any]]:
    """Return a network and what is known of its training; train it if it is not in ``folder``."""
    if name == "rrr-cnn":
        record = json.loads((RESULTS / "train_shapes.json").read_text(encoding="utf-8"))
        chosen = {key: record[key] for key in ("stages", "test", "seconds")}
        shipped = load_shapes_cnn().to(memory_format=torch.channels_last)
        return shipped, {**chosen, "penalty": record["options"]["penalty"]}
    path = folder / f"shapes_{name}.safetensors"
    if not path.exists():
        _train(name, path)
    model = pattern_cnn() if name == "rrr-patterns" else _blank(name)
    model.load_state_dict({key: tensor.float() for key, tensor in load_file(path).items()})
    with safe_open(path, framework="pt") as file:
        return model.eval(), json.loads(file.metadata()["record"])


def _blank(name: str) -> nn.Module:
    return ShapesMLP() if name.endswith("mlp") else shapes_cnn()


def _train(name: str, path: Path) -> None:
    """Train a network and write its weights (fp16) and record."""
    make, recipe = _RECIPES[name]
    tqdm.write(f"training {name}")
    trained = train(make, recipe, notify=lambda figures: tqdm.write(json.dumps(figures)))
    record = {
        "stages": recipe.stages,
        "penalty": recipe.penalty,
        "test": trained.test,
        "seconds": round(trained.seconds, 1),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {key: t.half().contiguous() for key, t in trained.model.state_dict().items()}
    save_file(weights, path, metadata={"record": json.dumps(record)})
