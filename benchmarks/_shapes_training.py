"""Training on drawn pictures whose truth is known, right for the right reasons or not.

Besides the cross-entropy, the loss punishes the squared gradient of the summed log-probabilities
with respect to pixels outside the mask, times lambda (0.1 in the paper; 0 for a vanilla network).
The first epochs run at a fraction of the resolution, where pictures look alike and cost little.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from usu_cli._shapes import Shapes, balanced_labels, draw_shapes

Augmentation = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Changes images and masks alike, at random, without changing the class."""
Fit = Callable[[nn.Module, int], nn.Module]
"""Makes a network of any size one for pictures of the given side."""


def mirrored(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror and turn a batch at random: neither changes the class."""
    turns = int(torch.randint(4, ()))
    images, masks = images.rot90(turns, (-2, -1)), masks.rot90(turns, (-2, -1))
    if torch.rand(()) < 0.5:
        images, masks = images.flip(-1), masks.flip(-1)
    return images, masks


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        stages: Side of the pictures, epochs and peak learning rate, one stage after the other.
        penalty: lambda of the gradient penalty.
        images: Pictures in all: 70 % train, 15 % validate, 15 % test.
        batch_size: Pictures per step.
        seed: Of the weights, the pictures and their order.
        weight_decay: Of AdamW.
        augmentation: What varies the training pictures.
        fit: Fits the network to the pictures' side before each stage.
        draw: Draws the pictures.
        label: Chooses their classes.
    """

    stages: tuple[tuple[int, int, float], ...]
    penalty: float = 0.1
    images: int = 2000
    batch_size: int = 20
    seed: int = 0
    weight_decay: float = 1e-4
    augmentation: Augmentation = mirrored
    fit: Fit = lambda model, size: model
    draw: Callable[..., Shapes] = draw_shapes
    label: Callable[[int, np.random.Generator], npt.NDArray[np.int64]] = balanced_labels


@dataclass(frozen=True)
class Training:
    """A trained network, its figures on the test pictures, those of every epoch, and the time."""

    model: nn.Module
    test: dict[str, float]
    curve: list[dict[str, float]]
    seconds: float


def train(
    make: Callable[[], nn.Module],
    recipe: Recipe,
    *,
    notify: Callable[[dict[str, float]], None] = lambda figures: None,
) -> Training:
    """Train what ``make`` returns, and evaluate it as it will be saved, in half precision.

    Args:
        make: Makes the untrained network; called after the seed is set.
        recipe: How.
        notify: Told the figures of every epoch.
    """
    started = time.perf_counter()
    torch.manual_seed(recipe.seed)
    labels = recipe.label(recipe.images, np.random.default_rng(recipe.seed))
    first, second = round(0.70 * recipe.images), round(0.85 * recipe.images)
    model = make()
    curve: list[dict[str, float]] = []
    for size, epochs, rate in recipe.stages:
        model = recipe.fit(model, size)
        shapes = recipe.draw(labels, np.random.default_rng(recipe.seed + 1), size=size)
        training, validation = _part(shapes, 0, first), _part(shapes, first, second)
        optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            rate,
            total_steps=epochs * -(-first // recipe.batch_size),
            pct_start=0.15,
        )
        for epoch in range(epochs):
            loss = train_epoch(model, training, optimiser, schedule, recipe)
            figures = {"size": size, "epoch": epoch, "loss": loss, **evaluate(model, validation)}
            curve.append(figures)
            notify(figures)
    round_weights(model)
    test = evaluate(model, _part(shapes, second, recipe.images))
    return Training(model.eval(), test, curve, time.perf_counter() - started)


def train_epoch(
    model: nn.Module,
    shapes: Shapes,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    recipe: Recipe,
) -> float:
    """Train once over ``shapes`` in random order and return the mean loss."""
    total = 0.0
    batches = torch.randperm(len(shapes.labels)).split(recipe.batch_size)
    for index in tqdm(batches, leave=False, desc=f"{shapes.masks.shape[-1]} px"):
        images, masks, labels = _tensors(shapes, index.numpy())
        images, masks = recipe.augmentation(images, masks)
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images).float(), labels)
        if recipe.penalty:
            loss = loss + recipe.penalty * _outside(model, images, masks)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        total += loss.item() * len(images)
    return total / len(shapes.labels)


def evaluate(model: nn.Module, shapes: Shapes, *, batch_size: int = 50) -> dict[str, float]:
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


def round_weights(model: nn.Module) -> None:
    """Round the weights to fp16 and back, so that figures are those of a file of them."""
    model.load_state_dict({name: t.half().float() for name, t in model.state_dict().items()})


def _outside(model: nn.Module, images: Tensor, masks: Tensor) -> Tensor:
    """The squared gradient outside the mask, summed over pixels, mean over pictures."""
    # Punishing a random quarter of the batch is an unbiased estimate at a quarter of the cost.
    some = slice(0, max(1, len(images) // 4))
    inside = masks[some, None]
    outside = _input_gradient(model, images[some], create_graph=True).masked_fill(inside, 0.0)
    return outside.square().sum((1, 2, 3)).mean()


def _input_gradient(model: nn.Module, images: Tensor, *, create_graph: bool = False) -> Tensor:
    """Gradient of the summed log-probabilities with respect to the pixels."""
    images = images.detach().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16, enabled=create_graph):
        logits = model(images)
    (gradient,) = torch.autograd.grad(
        logits.float().log_softmax(1).sum(), images, create_graph=create_graph
    )
    return gradient


def _part(shapes: Shapes, start: int, stop: int) -> Shapes:
    return Shapes(shapes.images[start:stop], shapes.masks[start:stop], shapes.labels[start:stop])


def _tensors(shapes: Shapes, index: npt.NDArray[np.int64] | slice) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.from_numpy(shapes.images[index]),
        torch.from_numpy(shapes.masks[index]),
        torch.from_numpy(shapes.labels[index]),
    )
