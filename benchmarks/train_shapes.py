"""Train the network that ``usu demo`` explains, and record how well it does.

Right for the right reasons: besides the cross-entropy, the loss punishes the squared gradient of
the summed log-probabilities with respect to pixels outside the shape, times lambda (0.1 in the
paper). The first epochs run at a quarter and at half of the resolution, where shapes look alike,
fit the receptive field and cost a sixteenth and a quarter; the last run at the full 224 x 224.
Writes the weights (fp16), which ``usu demo`` ships, and the figures in ``benchmarks/results``:

    python benchmarks/train_shapes.py
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from usu_cli._shapes import ASSET, CLASSES, SIZE, Shapes, ShapesCNN, balanced_labels, draw_shapes

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "usu_cli" / "_assets" / ASSET
FIGURES = ROOT / "benchmarks" / "results" / "train_shapes.json"
# Resolution, epochs, peak learning rate.
STAGES = ((SIZE // 4, 6, 2e-3), (SIZE // 2, 4, 1e-3), (SIZE, 3, 5e-4))


def main() -> None:
    """Parse the options, train, evaluate, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--penalty", type=float, default=0.1, help="lambda of the gradient penalty")
    options = parser.parse_args()

    started = time.perf_counter()
    torch.manual_seed(options.seed)
    labels = balanced_labels(options.images, np.random.default_rng(options.seed))
    first, second = round(0.70 * options.images), round(0.85 * options.images)
    model = ShapesCNN().to(memory_format=torch.channels_last)
    curve: list[dict[str, float]] = []
    for size, epochs, rate in STAGES:
        shapes = draw_shapes(labels, np.random.default_rng(options.seed + 1), size=size)
        training, validation = _part(shapes, 0, first), _part(shapes, first, second)
        optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
        steps = epochs * -(-first // options.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, rate, total_steps=steps, pct_start=0.15
        )
        for epoch in range(epochs):
            loss = _train_epoch(
                model, training, optimiser, schedule, options.batch_size, options.penalty
            )
            figures = {"size": size, "epoch": epoch, "loss": loss, **_evaluate(model, validation)}
            curve.append(figures)
            tqdm.write(json.dumps(figures))
    model = _as_saved(model)
    test = _evaluate(model, _part(shapes, second, options.images))
    _save(model, test, curve, vars(options), time.perf_counter() - started)


def _part(shapes: Shapes, start: int, stop: int) -> Shapes:
    return Shapes(shapes.images[start:stop], shapes.masks[start:stop], shapes.labels[start:stop])


def _train_epoch(
    model: ShapesCNN,
    shapes: Shapes,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    batch_size: int,
    penalty: float,
) -> float:
    """Train once over ``shapes`` in random order and return the mean loss."""
    total = 0.0
    batches = torch.randperm(len(shapes.labels)).split(batch_size)
    for index in tqdm(batches, leave=False, desc=f"{shapes.masks.shape[-1]} px"):
        images, masks, labels = _tensors(shapes, index.numpy())
        images, masks = _flipped(images, masks)
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(images).float(), labels)
        # Punishing a random quarter of the batch is an unbiased estimate at a quarter of the cost.
        some = slice(0, max(1, len(images) // 4))
        inside = masks[some, None]
        outside = _input_gradient(model, images[some], create_graph=True).masked_fill(inside, 0.0)
        loss = loss + penalty * outside.square().sum((1, 2, 3)).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        total += loss.item() * len(images)
    return total / len(shapes.labels)


def _tensors(
    shapes: Shapes, index: np.ndarray | slice
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.from_numpy(shapes.images[index]),
        torch.from_numpy(shapes.masks[index]),
        torch.from_numpy(shapes.labels[index]),
    )


def _flipped(images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror and turn a batch at random: neither changes the class."""
    turns = int(torch.randint(4, ()))
    images, masks = images.rot90(turns, (-2, -1)), masks.rot90(turns, (-2, -1))
    if torch.rand(()) < 0.5:
        images, masks = images.flip(-1), masks.flip(-1)
    return images, masks


def _input_gradient(
    model: ShapesCNN, images: torch.Tensor, *, create_graph: bool = False
) -> torch.Tensor:
    """Gradient of the summed log-probabilities with respect to the pixels."""
    images = images.detach().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16, enabled=create_graph):
        logits = model(images)
    (gradient,) = torch.autograd.grad(
        logits.float().log_softmax(1).sum(), images, create_graph=create_graph
    )
    return gradient


def _evaluate(model: ShapesCNN, shapes: Shapes, *, batch_size: int = 50) -> dict[str, float]:
    """Accuracy, and the share of the squared input gradient that falls outside the shape."""
    correct, outside, everywhere = 0, 0.0, 0.0
    for start in range(0, len(shapes.labels), batch_size):
        images, masks, labels = _tensors(shapes, slice(start, start + batch_size))
        with torch.inference_mode():
            correct += int((model(images).argmax(1) == labels).sum())
        squared = _input_gradient(model, images).square()
        everywhere += float(squared.sum())
        outside += float(squared.masked_fill(masks[:, None], 0.0).sum())
    return {
        "accuracy": correct / len(shapes.labels),
        "background_gradient_share": outside / everywhere,
        "background_share_of_pixels": float(1.0 - shapes.masks.mean()),
    }


def _as_saved(model: ShapesCNN) -> ShapesCNN:
    """Round the weights to fp16 and back, so that the figures are those of the shipped file."""
    saved = ShapesCNN()
    saved.load_state_dict({name: t.half().float() for name, t in model.state_dict().items()})
    return saved.eval()


def _save(
    model: ShapesCNN,
    test: dict[str, float],
    curve: list[dict[str, float]],
    options: dict[str, int | float],
    seconds: float,
) -> None:
    record = {
        "options": options,
        "stages": STAGES,
        "classes": CLASSES,
        "test": test,
        "validation_curve": curve,
        "seconds": round(seconds, 1),
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
        "test": json.dumps(test),
    }
    save_file(
        {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()},
        WEIGHTS,
        metadata=metadata,
    )
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    FIGURES.write_text(json.dumps(record, indent=2) + "\n")
    tqdm.write(f"test: {json.dumps(test)}\nwrote {WEIGHTS}\nwrote {FIGURES}")


if __name__ == "__main__":
    main()
