"""Does the mass in a box predict what hiding the box costs? Correlation and infidelity.

Boxes are drawn once and the model is run once per box, whatever the number of maps compared.
"""

import torch
from torch import Tensor

from usu_core._checks import (
    check_count,
    check_finite,
    check_float_tensor,
    check_integer_tensor,
    check_size,
)
from usu_core.metrics._correlation import pearson
from usu_core.metrics._evaluation import (
    check_batch,
    check_planes,
    perturbed_scores,
    whole_scores,
)
from usu_core.metrics._references import Reference, reference_images
from usu_core.scoring import ModelScore, ScoreFunction
from usu_core.scoring._model import score_drops


def random_boxes(
    count: int, size: tuple[int, int], *, seed: int = 0, shares: tuple[float, float] = (0.1, 0.5)
) -> Tensor:
    """Draw boxes uniformly in place and size.

    Args:
        count: Number of boxes.
        size: Image size (H, W).
        seed: Seed of its own generator.
        shares: Smallest and largest side, relative to the image's; a side has a pixel at least.

    Returns:
        (count, 4) int64: top, left, bottom, right.

    Raises:
        TypeError: If the count is not an integer.
        ValueError: If it is below 1, the size is not two positive integers, or the shares are not
            in order between 0 and 1.

    Example:
        >>> random_boxes(2, (10, 10), seed=1).shape
        torch.Size([2, 4])
    """
    check_count("count", count)
    if len(check_size("size", size)) != 2:
        raise ValueError(f"size must be an image's (H, W), got {tuple(size)}.")
    low, high = shares
    if not 0 <= low <= high <= 1:
        raise ValueError(f"shares must be in order and between 0 and 1, got {shares}.")
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor(size, dtype=torch.float64)
    draw = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    side = ((low + (high - low) * draw[:, :2]) * extent).round().clamp(min=1)
    corner = (draw[:, 2:] * (extent - side + 1)).floor()
    return torch.cat([corner, corner + side], 1).long()


def box_sums(attribution: Tensor, boxes: Tensor) -> Tensor:
    """Add a map up in each box: (B, H, W) and (N, 4) to (B, N), in float64.

    Raises:
        TypeError: If the map is not floating point or the boxes are no integers.
        ValueError: If a shape does not fit, the map is not finite, or a box leaves it.

    Example:
        >>> box_sums(torch.ones(1, 4, 4), torch.tensor([[0, 0, 2, 3]]))
        tensor([[6.]], dtype=torch.float64)
    """
    check_float_tensor("attribution", attribution)
    if attribution.dim() != 3:
        raise ValueError(
            f"attribution must have shape (B, H, W), got {tuple(attribution.shape)}. Try .sum(1) "
            "of one with channels."
        )
    check_finite("attribution", attribution)
    top, left, bottom, right = _sides(boxes, attribution)
    table = torch.nn.functional.pad(attribution.double().cumsum(1).cumsum(2), (1, 0, 1, 0))
    return (
        table[:, bottom, right]
        - table[:, top, right]
        - table[:, bottom, left]
        + table[:, top, left]
    )


def box_effects(
    score: ModelScore | ScoreFunction,
    images: Tensor,
    boxes: Tensor,
    *,
    reference: Reference = "blur",
    black: Tensor | float = 0.0,
    output: str = "probability",
    chunk_size: int = 64,
) -> Tensor:
    """Return what the score loses when each box is replaced by the reference.

    Args:
        score: The explained scalar.
        images: (B, C, H, W).
        boxes: (N, 4) from :func:`random_boxes`.
        reference: As in :func:`deletion`.
        black: As in :func:`deletion`.
        output: Scale of the score.
        chunk_size: Images per model call.

    Returns:
        (B, N), f(x) - f(x without the box), float64; 0 where it is within the rounding of f(x).

    Raises:
        TypeError: If the images are not floating point or the boxes are no integers.
        ValueError: If the images are not (B, C, H, W), a box leaves them, or they or a score are
            not finite.

    Cost:
        ``B · (N + 1)`` model evaluations.
    """
    check_batch(images)
    check_planes(images)
    fill = reference_images(images, reference, black)
    place = torch.stack(_sides(boxes, images), 1)
    row = torch.arange(images.shape[2], device=images.device)
    column = torch.arange(images.shape[3], device=images.device)

    def hide(i: Tensor, k: Tensor) -> Tensor:
        top, left, bottom, right = place[k][:, :, None].unbind(1)
        inside = ((row >= top) & (row < bottom))[:, :, None]
        inside = inside & ((column >= left) & (column < right))[:, None, :]
        return torch.where(inside.unsqueeze(1), fill[i], images[i])

    whole = whole_scores(score, images, output=output, chunk_size=chunk_size)
    hidden = perturbed_scores(score, images, hide, len(boxes), output=output, chunk_size=chunk_size)
    return score_drops(whole[:, None], hidden)


def _sides(boxes: Tensor, image: Tensor) -> tuple[Tensor, ...]:
    """Return top, left, bottom and right, (N,) int64, of boxes inside ``image`` (..., H, W)."""
    check_integer_tensor("boxes", boxes)
    if boxes.dim() != 2 or boxes.shape[1] != 4 or len(boxes) == 0:
        raise ValueError(f"boxes must have shape (N, 4), N above 0, got {tuple(boxes.shape)}.")
    H, W = image.shape[-2:]
    sides = boxes.to(image.device).long()
    top, left, bottom, right = sides.unbind(1)
    fits = (top >= 0) & (left >= 0) & (top <= bottom) & (left <= right)
    bad = (~(fits & (bottom <= H) & (right <= W))).nonzero().flatten()
    if len(bad):
        raise ValueError(
            "boxes must hold top, left, bottom and right inside the image, got "
            f"{sides[bad[0]].tolist()} for {(H, W)}. Try random_boxes(count, {(H, W)})."
        )
    return top, left, bottom, right


def box_correlation(effects: Tensor, sums: Tensor) -> Tensor:
    """Pearson correlation of effects and attributed mass per example, (B, N) twice to (B,).

    Higher is better; 0 where either is constant. Free of the map's scale and offset per area.

    Raises:
        ValueError: If the shapes differ, or a value is not finite.

    Example:
        >>> effects = torch.tensor([[1.0, 2.0, 3.0]]).double()
        >>> box_correlation(effects, 10 * effects).round(decimals=6)
        tensor([1.], dtype=torch.float64)
    """
    _check_rows(effects, sums)
    return pearson(effects, sums)


def scale_optimised_infidelity(effects: Tensor, sums: Tensor) -> Tensor:
    """Share of the effects' energy the attributed mass cannot explain, at its best scale.

    Infidelity (Yeh et al., 2019) with the factor β = <effects, sums> / <sums, sums> that serves
    the map best, relative to <effects, effects>. Without it, infidelity mostly measures the scale
    of a map: dividing any map by its maximum changes it by orders of magnitude.

    Args:
        effects: (B, N) from :func:`box_effects`.
        sums: (B, N) from :func:`box_sums`.

    Returns:
        (B,), 0 (all explained) to 1 (nothing); 0 where there are no effects. Lower is better.

    Raises:
        ValueError: If the shapes differ, or a value is not finite.

    Example:
        >>> effects = torch.tensor([[1.0, 1.0]]).double()
        >>> scale_optimised_infidelity(effects, torch.tensor([[5.0, 0.0]]).double())
        tensor([0.5000], dtype=torch.float64)
    """
    _check_rows(effects, sums)
    energy, mass = effects.square().sum(1), sums.square().sum(1)
    explained = (effects * sums).sum(1).square() / mass.where(mass > 0, 1.0)
    share = 1.0 - explained / energy.where(energy > 0, 1.0)
    return share.clamp(0, 1).where(energy > 0, 0.0)


def _check_rows(effects: Tensor, sums: Tensor) -> None:
    if effects.dim() != 2 or effects.shape != sums.shape:
        raise ValueError(
            "effects and sums must have the same shape (B, N), got "
            f"{tuple(effects.shape)} and {tuple(sums.shape)}. Try .expand_as."
        )
    check_finite("effects", effects)
    check_finite("sums", sums)
