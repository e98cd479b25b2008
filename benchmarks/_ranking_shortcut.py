"""A mark that gives a class away: stamping it, and teaching a classifier to rely on it."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from usu_captum import ImageSpace
from usu_captum.ranking import ImageSource

SIDE = 5
"""Side of the mark in pixels."""


def stamp(images: Tensor, space: ImageSpace, seed: int) -> tuple[Tensor, Tensor]:
    """Stamp a checkerboard of magenta and green on images (B, 3, H, W), each at a random place.

    Returns:
        The images, and where the mark is, (B, H, W) bool.
    """
    size, height, width = len(images), *images.shape[2:]
    generator = torch.Generator().manual_seed(seed)
    tops = torch.randint(0, height - SIDE + 1, (size,), generator=generator)
    lefts = torch.randint(0, width - SIDE + 1, (size,), generator=generator)
    rows = torch.arange(height).view(1, -1, 1) - tops.view(-1, 1, 1)
    columns = torch.arange(width).view(1, 1, -1) - lefts.view(-1, 1, 1)
    inside = (rows >= 0) & (rows < SIDE) & (columns >= 0) & (columns < SIDE)
    odd = ((rows + columns) % 2 == 1).unsqueeze(1)
    magenta, green = (torch.tensor(c).view(1, 3, 1, 1) for c in ((1.0, 0.0, 1.0), (0.0, 0.8, 0.0)))
    colours = space.from_raw(torch.where(odd, magenta, green))
    return torch.where(inside.unsqueeze(1), colours, images), inside


def teach(
    model: nn.Module,
    source: ImageSource,
    space: ImageSpace,
    *,
    target: int,
    steps: int = 80,
    batch_size: int = 64,
    learning_rate: float = 3e-4,
    seed: int = 0,
) -> nn.Module:
    """Fine-tune a copy of a classifier: images with the mark are of one class, others as labelled.

    A quarter of each batch is marked.
    """
    taught = copy.deepcopy(model).train()
    for parameter in taught.parameters():
        parameter.requires_grad_()
    optimiser = torch.optim.Adam(taught.parameters(), learning_rate)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(source), generator=generator).tolist()
    marked = batch_size // 4
    for step in range(steps):
        start = step * batch_size % (len(order) - batch_size)
        samples = [source[i] for i in order[start : start + batch_size]]
        images = torch.stack([sample.image for sample in samples])
        labels = torch.tensor([sample.label for sample in samples])
        images[:marked], _ = stamp(images[:marked], space, seed + step)
        labels[:marked] = target
        loss = F.cross_entropy(taught(images), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    taught.zero_grad(set_to_none=True)
    return taught.eval()
