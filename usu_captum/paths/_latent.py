"""Guided paths through an autoencoder's latents, decoded to images."""

import math
from collections.abc import Callable, Generator

import torch
from torch import Tensor

from usu_captum.paths._autoencoders import Autoencoder
from usu_captum.paths._engine import Points
from usu_core._precision import wide

INTERPOLATIONS = ("lerp", "slerp")

ImageGradients = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to the objective's gradients there."""


class LatentPath:
    """From the start to its reconstruction, through decoded latents, and on to the end.

    Args:
        autoencoder: Images to latents and back.
        start: (B, C, H, W).
        end: The same.
        steps: Latent steps.
        jump_steps: Straight steps across each of the two reconstruction errors. At 0 the path
            leaves out the first and the last decoded image, as the paper's does.
        fraction: Of latents free to move at a time, those of the smallest gradients.
        interpolation: One of ``INTERPOLATIONS``.
        gradients: Only asked at the first decoded image, where the path leaves it out.

    Raises:
        TypeError: If the autoencoder does not return tensors.
        ValueError: If decoded images have another shape, or do not depend on latents.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        start: Tensor,
        end: Tensor,
        *,
        steps: int,
        jump_steps: int,
        fraction: float,
        interpolation: str,
        gradients: ImageGradients,
    ) -> None:
        self._autoencoder, self._start, self._end = autoencoder, start, end
        self._steps, self._jump_steps = steps, jump_steps
        self._fraction, self._interpolation = fraction, interpolation
        self._gradients = gradients
        self._walk = self._points()

    def step(self, number: int, points: Points, gradients: Points) -> Points | None:
        """Return the next image, as the engine's ``Step``."""
        try:
            return (next(self._walk) if number == 0 else self._walk.send(gradients[0]),)
        except StopIteration:
            return None

    def _points(self) -> Generator[Tensor, Tensor, None]:
        latents, goal = self._encoded(self._start), self._encoded(self._end)
        length = wide(goal - latents).abs().flatten(1).sum(1)
        image, graph = self._decoded(latents)
        if self._jump_steps:
            gradient = yield from _line(self._start, image, self._jump_steps)
            pace = moves = self._steps
        else:
            gradient = self._gradients(image)
            # Of the paper's N points the first and the last replace a decoded one.
            pace, moves = self._steps + 1, self._steps - 1
        for step in range(1, moves + 1):
            rate = self._pulled_back(graph, gradient)
            left = length * (1 - step / pace)
            moved = guided_step(latents, goal, rate, left, self._fraction, self._interpolation)
            latents = goal if step == pace else moved
            image, graph = self._decoded(latents)
            gradient = yield image
        yield from _line(image, self._end, self._jump_steps or 1)

    def _encoded(self, images: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            # Outside inference mode its tensors cannot be used in place.
            latents = self._autoencoder.encode(images.clone())
        if not isinstance(latents, Tensor):
            raise TypeError(
                f"autoencoder.encode must return a tensor, got {type(latents).__name__}. "
                "Try DiffusersAutoencoder for an autoencoder of diffusers."
            )
        if len(latents) != len(images):
            raise ValueError(
                f"autoencoder.encode must keep the first dimension, {len(images)}, got latents of "
                f"shape {tuple(latents.shape)}."
            )
        return latents.detach()

    def _decoded(self, latents: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = latents.clone().detach().requires_grad_()
            image = self._autoencoder.decode(leaf)
        if not isinstance(image, Tensor):
            raise TypeError(
                f"autoencoder.decode must return a tensor, got {type(image).__name__}. "
                "Try DiffusersAutoencoder for an autoencoder of diffusers."
            )
        if image.shape != self._end.shape:
            raise ValueError(
                f"autoencoder.decode must return the inputs' shape, {tuple(self._end.shape)}, got "
                f"{tuple(image.shape)}. Try inputs of a size the autoencoder divides."
            )
        if not image.requires_grad:
            raise ValueError(
                "autoencoder.decode must be differentiable in the latents, got images without a "
                "gradient. Try removing no_grad or detach."
            )
        return image.detach().to(self._end.dtype), (image, leaf)

    def _pulled_back(self, graph: tuple[Tensor, Tensor], gradient: Tensor) -> Tensor:
        """Return the gradient in the latents from the one in the image: the chain rule's half."""
        decoded, leaf = graph
        with torch.inference_mode(False), torch.enable_grad():
            (rate,) = torch.autograd.grad(decoded, leaf, gradient.clone().to(decoded.dtype))
        return rate


def guided_step(
    latents: Tensor,
    goal: Tensor,
    rate: Tensor,
    remaining: Tensor,
    fraction: float,
    interpolation: str,
) -> Tensor:
    """Move the latents of the smallest gradients, a fraction at a time, until a distance remains.

    Those that have arrived stay. A fraction that would not suffice arrives, and the next one
    moves; the last one moves only part of the way.

    Args:
        latents: (B, ...).
        goal: The same.
        rate: The same: gradients, only their magnitudes count.
        remaining: (B,) L1 distance to leave; under ``"lerp"`` it is met exactly.
        fraction: In (0, 1]; of all latents, at least one.
        interpolation: ``"lerp"``, or ``"slerp"``: along the arc between those selected.

    Returns:
        The moved latents.

    Cost:
        One sort: O(n log n) for n latents, and no other limit on n.

    Example:
        >>> latents, goal = torch.zeros(1, 4), torch.ones(1, 4)
        >>> rate = torch.tensor([[0.3, 0.1, 0.4, 0.2]])
        >>> guided_step(latents, goal, rate, torch.tensor([2.5]), 0.25, "lerp")
        tensor([[0.0000, 1.0000, 0.0000, 0.5000]])
    """
    here, there = wide(latents.flatten(1)), wide(goal.flatten(1))
    distance = (there - here).abs()
    arrived = distance <= 1e-9
    order = rate.flatten(1).abs().masked_fill(arrived, math.inf).argsort(dim=1, stable=True)
    size = math.floor(fraction * (here.shape[1] - 1)) + 1
    ordered = distance.masked_fill(arrived, 0).gather(1, order)
    excess = (ordered.sum(1) - remaining).clamp_min(0)[:, None]

    # Blocks of `size` arrive while what they take does not exceed what is to go.
    short = -here.shape[1] % size
    blocks = torch.nn.functional.pad(ordered, (0, short)).unflatten(1, (-1, size)).sum(2)
    before = blocks.cumsum(1) - blocks
    share = ((excess - before) / blocks.clamp_min(torch.finfo(blocks.dtype).tiny)).clamp(0, 1)
    share = share.repeat_interleave(size, 1)[:, : here.shape[1]]
    share = torch.empty_like(share).scatter_(1, order, share).masked_fill(arrived, 1)
    if interpolation == "slerp":
        moved = _slerp(here, there, share)
    else:
        moved = here + share * (there - here)
    return torch.where(share >= 1, there, moved).view_as(latents).to(latents.dtype)


def _slerp(here: Tensor, there: Tensor, share: Tensor) -> Tensor:
    """Turn the values of 0 < share < 1, of one share, as one vector; others go straight."""
    part = ((share > 0) & (share < 1)).to(here)
    amount = (share * part).amax(1, keepdim=True)
    a, b = here * part, there * part
    lengths = a.norm(dim=1, keepdim=True) * b.norm(dim=1, keepdim=True)
    cosine = (a * b).sum(1, keepdim=True) / lengths.clamp_min(1e-12)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin().clamp_min(1e-6)
    arc = (((1 - amount) * angle).sin() * a + (amount * angle).sin() * b) / sine
    # Nearly parallel or opposite vectors, and zero, have no arc of their own.
    curved = (part > 0) & (cosine.abs() <= 0.9995) & (lengths > 1e-12)
    return torch.where(curved, arc, here + share * (there - here))


def _line(start: Tensor, end: Tensor, steps: int) -> Generator[Tensor, Tensor, Tensor]:
    """Walk straight; return the gradient at the end."""
    for step in range(1, steps):
        yield start + step / steps * (end - start)
    return (yield end)
