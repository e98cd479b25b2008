"""Fit a map to one image: a few steps down the ranking objective, the best one kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from usu_captum._image_space import ImageSpace
from usu_captum._models import in_its_dtype
from usu_captum.ranking._checks import check_batch
from usu_captum.ranking._descent import Adam, undisturbed
from usu_captum.ranking._masks import Grid
from usu_captum.ranking._objective import ObjectiveValue, RankingObjective, check_objective
from usu_captum.ranking._refine_inputs import (
    as_targets,
    cut_grids,
    stack_references,
    starting_maps,
)
from usu_core._checks import check_count, check_finite, check_positive

GRIDS = (14,)
"""Finer cells lower the deletion of photographs further, but their insertion may fall with it."""
NAMES = ("black", "mean", "blur")


@dataclass(frozen=True)
class Refined:
    """The best map of each example.

    Attributes:
        maps: (B, 1, H, W).
        losses: (n_steps + 1, B), the objective of every iterate on the first grid.
        best: (B,) int64, the iterate that was kept; 0 is the map that was given.
    """

    maps: Tensor
    losses: Tensor
    best: Tensor


def refine(
    forward_func: Callable[..., Any],
    images: Tensor,
    maps: Tensor | None = None,
    *,
    target: int | Sequence[int] | Tensor,
    n_steps: int = 3,
    objective: RankingObjective | None = None,
    grids: Sequence[Grid] = GRIDS,
    references: str | Tensor | Sequence[str | Tensor] = NAMES,
    space: ImageSpace | None = None,
    learning_rate: float = 0.1,
    scale: str = "element",
    additional_forward_args: Any = None,
) -> Refined:
    """Improve maps by gradient steps on deletion and insertion of their own image.

    Needs no training: starts from nothing, or from any map of any method. The values of pixels
    are optimised with Adam, in units of each map's standard deviation. What comes back was
    optimised for deletion and insertion, so these two are no independent evidence for it.

    Args:
        forward_func: Images (N, C, H, W) to logits or probabilities (N, classes). A module is put
            in evaluation mode and afterwards back as it was.
        images: (B, C, H, W).
        maps: (B, 1, H, W), where to start; ``None`` starts from zero.
        target: The class, one for all or one for each example, or (B, K) to average over K.
        n_steps: Gradient steps; 0 only judges the map.
        objective: What to descend; the default sorts a grid with :class:`GumbelSinkhorn`. Its
            noise is off.
        grids: The grids of the steps, in turn; losses of different grids do not compare, so every
            iterate is judged on the first. Grids finer than the image are cut to its pixels.
            For photographs, cells as large as those of the network's last map, or half as large;
            finer ones may lower deletion at the expense of insertion. Images below 64 pixels want
            their own size, and half of it in turn.
        references: Names as in :func:`reference_images`, or tensors; the objective is averaged
            over all.
        space: Where the images live; needed for ``"black"`` and ``"mean"``.
        learning_rate: Step of a pixel in standard deviations of the map (of 1 for a flat map).
        scale: What shares Adam's scale of gradients. ``"element"`` moves all pixels alike at
            first; ``"example"`` lets those with large gradients go further, by the rate in root
            mean square, which finds what is small and decides alone.
        additional_forward_args: Passed on; tensors with one entry per example follow it.

    Returns:
        For each example the iterate with the lowest loss, and all losses.

    Raises:
        ValueError: If shapes do not match, a number is out of range, values are not finite, or
            the classifier has no gradient.
        TypeError: If tensors or the target are of another type.

    Cost:
        With R references and S = ``2 (n_percentiles - 2)``: R B S forward and backward passes per
        step, R B S forward passes for each iterate, but for those whose step is on the first
        grid, and (R + 1) B for the ends.

    Example:
        >>> images = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
        >>> result = refine(
        ...     lambda x: x.sum((1, 2, 3)), images, target=0, references=torch.zeros(1),
        ...     objective=RankingObjective(smoothing=0.0),
        ... )
        >>> int(result.maps.argmax()), bool(result.losses.min() < result.losses[0])
        (0, True)
    """
    check_batch(images)
    # Tensors made in inference mode cannot be differentiated, their copies outside it can.
    with torch.inference_mode(False):
        images = in_its_dtype(forward_func, images.detach()).clone()
        start = starting_maps(images, maps)
        spread = start.std((1, 2, 3), correction=0, keepdim=True)
        # Rounding may leave a flat map a deviation, far too small to be a step.
        low, high = start.amin((1, 2, 3), keepdim=True), start.amax((1, 2, 3), keepdim=True)
        unit = spread.where(high > low, 1.0)
        change = torch.zeros_like(start).requires_grad_()
        return refine_with(
            lambda: start + unit * change,
            [change],
            forward_func,
            images,
            targets=as_targets(target, images),
            references=stack_references(images, references, space),
            n_steps=n_steps,
            objective=objective,
            grids=grids,
            learning_rate=learning_rate,
            scale=scale,
            additional_forward_args=additional_forward_args,
        )


def refine_with(
    make_maps: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    forward_func: Callable[..., Any],
    images: Tensor,
    *,
    targets: Tensor,
    references: Tensor,
    n_steps: int = 3,
    objective: RankingObjective | None = None,
    grids: Sequence[Grid] = GRIDS,
    learning_rate: float = 1e-4,
    scale: str = "element",
    additional_forward_args: Any = None,
) -> Refined:
    """Improve whatever makes the maps; :func:`refine` with the parameters left open.

    Args:
        make_maps: Makes maps (B, 1, H, W) from the parameters as they are at the call.
        parameters: Tensors that the maps depend on. They are stepped in place, and put back with
            their ``requires_grad`` at the end; ``.grad`` is not touched.
        forward_func: As in :func:`refine`.
        images: As there.
        targets: (B,) or (B, K) int64.
        references: (R, B, C, H, W) or (B, C, H, W).
        n_steps: As there.
        objective: As there.
        grids: As there.
        learning_rate: Adam's, in the parameters' units.
        scale: As there; an example is a row of a parameter.
        additional_forward_args: As there.

    Returns:
        As :func:`refine`. With several examples the parameters descend the sum of their losses.

    Raises:
        ValueError: As :func:`refine`, and if the maps do not depend on a parameter.

    Cost:
        As :func:`refine`, and ``n_steps + 1`` calls of ``make_maps``.

    Example:
        >>> images, weights = torch.eye(2)[None, None], torch.zeros(2, requires_grad=True)
        >>> result = refine_with(
        ...     lambda: weights.view(1, 1, 1, 2).expand(1, 1, 2, 2), [weights],
        ...     lambda x: x[:, :, 0, 0], images, targets=torch.tensor([0]),
        ...     references=images * 0, learning_rate=0.1,
        ...     objective=RankingObjective(smoothing=0.0),
        ... )
        >>> bool(result.maps[0, 0, 0, 0] > result.maps[0, 0, 0, 1]), weights
        (True, tensor([0., 0.], requires_grad=True))
    """
    check_count("n_steps", n_steps, 0)
    check_positive("learning_rate", learning_rate)
    cycle = cut_grids("grids", grids, images)
    goal = RankingObjective() if objective is None else objective
    check_objective(goal)
    options: Any = {"references": references, "additional_forward_args": additional_forward_args}
    saved = [(p.detach().clone(), p.requires_grad) for p in parameters]
    try:
        with (
            undisturbed(forward_func, images.device),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            for parameter in parameters:
                parameter.requires_grad_()
            options["ends"] = goal.ends(forward_func, images, targets, **options)

            def judge(maps: Tensor, grid: Grid) -> ObjectiveValue:
                return goal(
                    forward_func, images, maps, targets, grid=grid, noise_scale=0.0, **options
                )

            adam = Adam(parameters, learning_rate, scale=scale)
            return _descend(make_maps, parameters, judge, n_steps, cycle, adam)
    finally:
        with torch.no_grad():
            for parameter, (value, flag) in zip(parameters, saved, strict=True):
                parameter.copy_(value)
                parameter.requires_grad_(flag)


def _descend(
    make_maps: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    judge: Callable[[Tensor, Grid], ObjectiveValue],
    n_steps: int,
    grids: list[Grid],
    adam: Adam,
) -> Refined:
    losses: list[Tensor] = []
    kept, best = torch.empty(0), torch.empty(0)
    for step in range(n_steps + 1):
        maps = make_maps()
        check_finite("maps", maps)
        descended = judge(maps, grids[step % len(grids)]).total if step < n_steps else None
        if descended is not None and grids[step % len(grids)] == grids[0]:
            losses.append(descended.detach())
        else:
            with torch.no_grad():
                losses.append(judge(maps.detach(), grids[0]).total)
        if step == 0:
            kept, best = maps.detach().clone(), torch.zeros_like(losses[0], dtype=torch.long)
        else:
            better = losses[-1] < torch.stack(losses[:-1]).amin(0)
            kept = torch.where(better.view(-1, 1, 1, 1), maps.detach(), kept)
            best = best.masked_fill(better, step)
        if descended is not None:
            adam.step(torch.autograd.grad(descended.sum(), parameters, allow_unused=True))
    return Refined(kept, torch.stack(losses), best)
