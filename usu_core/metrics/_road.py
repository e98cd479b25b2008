"""ROAD: remove pixels by imputing them from their neighbours, so that masks leave no edges."""

import warnings
from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor
from torch.nn import functional as F

from usu_core._checks import check_count, check_finite, check_float_tensor, check_number
from usu_core._precision import wide
from usu_core.metrics._evaluation import check_maps, check_planes, check_shares, perturbed_scores
from usu_core.metrics._ranking import places, share_counts
from usu_core.scoring import ModelScore, ScoreFunction

_ROUND = 10
"""Iterations between two questions whether all is solved, for which the device must wait."""


def road(
    score: ModelScore | ScoreFunction,
    images: Tensor,
    attribution: Tensor,
    *,
    shares: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    noise: float = 0.01,
    iterations: int | None = None,
    output: str = "probability",
    chunk_size: int = 64,
    seed: int = 0,
) -> Tensor:
    """Score images whose most important pixels are imputed; lower is better.

    Remove and debias (Rong et al., 2022). Pass ``-attribution`` to remove the least important
    pixels first, where higher is better. The paper reports accuracy: use a score that is 1 where
    the prediction is right and 0 elsewhere.

    Args:
        score: The explained scalar.
        images: (B, C, H, W).
        attribution: (B, H, W); only its ranking matters, and ties keep their order in memory.
        shares: Shares of the pixels to remove, between 0 and 1.
        noise: As in :func:`noisy_linear_imputation`; the same noise serves all examples.
        iterations: As in :func:`noisy_linear_imputation`.
        output: Scale of the score.
        chunk_size: Images per model call.
        seed: Seed of the noise, which does not depend on the device.

    Returns:
        (B, len(shares)).

    Raises:
        ValueError: If shapes do not match, a share or the noise does not fit, or images, maps or
            scores are not finite.

    Warns:
        RuntimeWarning: As :func:`noisy_linear_imputation`.

    Cost:
        ``B · len(shares)`` model evaluations, and as many imputations.

    Example:
        >>> images = torch.tensor([[[[0.0, 0.0], [0.0, 4.0]]]])
        >>> total = lambda x: x.sum((1, 2, 3))
        >>> road(total, images, images[:, 0], shares=[0.25], noise=0.0)
        tensor([[0.]])
    """
    attribution = check_maps(images, attribution)
    check_planes(images)
    check_shares("shares", tuple(shares))
    _check_noise(noise)
    place = places(attribution)
    counts = share_counts(place[0].numel(), shares)
    limit = torch.tensor(counts, device=images.device).view(-1, 1, 1)
    generator = torch.Generator().manual_seed(seed)
    draw = noise * torch.randn(len(counts), *images.shape[1:], generator=generator)
    draw = draw.to(images)

    def impute(i: Tensor, k: Tensor) -> Tensor:
        hidden = place[i] < limit[k]
        smooth = noisy_linear_imputation(images[i], hidden, noise=0.0, iterations=iterations)
        return smooth + draw[k] * hidden.unsqueeze(1)

    return perturbed_scores(
        score, images, impute, len(counts), output=output, chunk_size=chunk_size
    )


def noisy_linear_imputation(
    images: Tensor,
    hidden: Tensor,
    *,
    noise: float = 0.01,
    iterations: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Replace hidden pixels by the weighted mean of their eight neighbours, plus noise.

    Every hidden pixel equals the mean of its neighbours, hidden or not, with weights 1/6 for the
    four direct and 1/12 for the four diagonal ones; neighbours outside the image are left out.
    This sparse linear system is symmetric and is solved for all images and channels at once by
    conjugate gradients (Rong et al., 2022, solve it with a sparse factorisation).

    Args:
        images: (N, C, H, W).
        hidden: (N, H, W) bool.
        noise: Standard deviation of the noise on hidden pixels, in the images' units.
        iterations: Most iterations of the solver; three times the longer side, and at least 300,
            if not given. It stops earlier where the residual falls below 1e-5 of its start.
            Scattered pixels need about 40. A region hidden as a whole needs one to three times its
            width, most where it reaches the border.
        generator: Source of the noise, on the CPU or on the images' device; seed 0 if not given.

    Returns:
        (N, C, H, W). Known pixels are unchanged. An image without known pixels takes its mean
        colour.

    Raises:
        TypeError: If the images are not floating point or ``hidden`` is not bool.
        ValueError: If shapes do not match, images are not finite, or the noise is negative or not
            finite.

    Warns:
        RuntimeWarning: If the iterations do not suffice.

    Cost:
        At most ``iterations + 2`` stencils of 3 x 3 per channel, no model evaluation.

    Example:
        >>> images = torch.tensor([[[[1.0, 9.0, 3.0]]]])
        >>> hidden = torch.tensor([[[False, True, False]]])
        >>> noisy_linear_imputation(images, hidden, noise=0.0)
        tensor([[[[1., 2., 3.]]]])
    """
    check_finite("images", check_float_tensor("images", images))
    if iterations is None:
        iterations = max(300, 3 * max(images.shape[-2:]))
    check_count("iterations", iterations)
    if hidden.dtype != torch.bool:
        raise TypeError(f"hidden must be bool, got {hidden.dtype}. Try hidden > 0.5.")
    if images.dim() != 4 or hidden.shape != images[:, 0].shape:
        raise ValueError(
            "images and hidden must have shapes (N, C, H, W) and (N, H, W), got "
            f"{tuple(images.shape)} and {tuple(hidden.shape)}."
        )
    _check_noise(noise)
    solved = _solve(wide(images), hidden, iterations).to(images.dtype)
    result = torch.where(hidden.unsqueeze(1), solved, images)
    if noise > 0:
        source = torch.Generator().manual_seed(0) if generator is None else generator
        draw = torch.randn(images.shape, generator=source, device=source.device).to(images)
        result = result + noise * draw * hidden.unsqueeze(1)
    return result


def _check_noise(noise: float) -> None:
    check_number("noise", noise)
    if not 0 <= noise < inf:
        raise ValueError(f"noise must be finite and at least 0, got {noise}.")


def _solve(images: Tensor, hidden: Tensor, iterations: int) -> Tensor:
    """Solve for hidden pixels by conjugate gradients, with one step size per channel."""
    # Without any known pixel the system is singular: there is nothing to solve.
    solvable = hidden & ~hidden.flatten(1).all(1).view(-1, 1, 1)
    mask = solvable.unsqueeze(1).to(images)
    within = _neighbours(torch.ones_like(images))

    def residual_of(values: Tensor) -> Tensor:
        return mask * (_neighbours(values) - within * values)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((2, 3), keepdim=True)

    everywhere = images.mean((2, 3), keepdim=True)
    known = (~hidden).unsqueeze(1).to(images)
    count = known.sum((2, 3), keepdim=True)
    start = torch.where(count > 0, dot(images, known) / count.clamp(min=1), everywhere)
    values = torch.where(hidden.unsqueeze(1), start, images)
    residual = residual_of(values)
    direction, energy = residual, dot(residual, residual)
    enough = 1e-10 * energy
    for step in range(iterations):
        if step % _ROUND == 0 and bool((energy <= enough).all()):
            break
        image = -residual_of(direction)
        curvature = dot(direction, image)
        # Solved channels have nothing left to divide by.
        moving = (energy > enough) & (curvature > 0)
        length = torch.where(moving, energy / curvature.where(moving, 1.0), 0.0)
        values = values + length * direction
        residual = residual - length * image
        fresh = dot(residual, residual)
        turn = torch.where(moving, fresh / energy.where(moving, 1.0), 0.0)
        energy = torch.where(moving, fresh, energy)
        direction = residual + turn * direction
    left = int((energy > enough).sum())
    if left:
        warnings.warn(
            f"{left} of {energy.numel()} imputed channels are not solved after {iterations} "
            "iterations. Try more iterations.",
            RuntimeWarning,
            stacklevel=3,
        )
    return values


def _neighbours(values: Tensor) -> Tensor:
    """Return sums weighted by 1 2 1 along both axes, over 12; the pixel's own weight cancels."""
    # Sums of slices, for convolutions may run in reduced precision.
    rows = F.pad(values, (1, 1, 1, 1))
    rows = rows[..., :-2, :] + 2 * rows[..., 1:-1, :] + rows[..., 2:, :]
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 12
