"""RISE: random masks, averaged by the score of what they show."""

import torch
from torch import Tensor
from torch.nn import functional as F

from usu_core.scoring import ModelScore

_DRAWN = 64  # masks drawn together, whatever the model takes at once: their order decides them


def rise(
    score: ModelScore,
    image: Tensor,
    evaluations: int,
    *,
    fill: Tensor,
    grid: int = 7,
    keep: float = 0.5,
    seed: int = 0,
    chunk_size: int = 64,
) -> Tensor:
    """Explain one image by randomised masks (Petsiuk et al., 2018).

    Binary (grid + 1)-square masks are enlarged bilinearly and shifted at random; a pixel's
    importance is the mean score of the masks that show it.

    Args:
        score: The explained scalar.
        image: (1, C, H, W).
        evaluations: Number of masks, one model evaluation each.
        fill: What hidden pixels become, of the image's shape; RISE uses zeros.
        grid: Cells per side.
        keep: Probability of showing a cell.
        seed: Seed of its own generator.
        chunk_size: Masks per model call; which masks are drawn does not depend on it.

    Returns:
        (1, H, W).
    """
    height, width = image.shape[2:]
    cell = (-(-height // grid), -(-width // grid))
    drawn = _draw(evaluations, grid, keep, cell, seed)
    total, weight = image.new_zeros(height, width), image.new_zeros(height, width)
    for coarse, rows, columns in zip(*(part.split(chunk_size) for part in drawn), strict=True):
        large = F.interpolate(coarse, ((grid + 1) * cell[0], (grid + 1) * cell[1]), mode="bilinear")
        masks = torch.stack(
            [
                m[:, r : r + height, c : c + width]
                for m, r, c in zip(large, rows.tolist(), columns.tolist(), strict=True)
            ]
        ).to(image)
        with torch.no_grad():
            mixed = masks * image + (1 - masks) * fill
            first = torch.zeros(len(masks), dtype=torch.long, device=image.device)
            values = score.evaluate(mixed, first, "probability")
        total += (values.view(-1, 1, 1) * masks[:, 0]).sum(0)
        weight += masks[:, 0].sum(0)
    return (total / weight.clamp(min=1e-6)).unsqueeze(0)


def _draw(
    count: int, grid: int, keep: float, cell: tuple[int, int], seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return coarse masks (N, 1, grid + 1, grid + 1), and how far each is shifted, (N,) each."""
    generator = torch.Generator().manual_seed(seed)
    coarse, rows, columns = [], [], []
    for start in range(0, count, _DRAWN):
        n = min(_DRAWN, count - start)
        coarse.append(torch.rand(n, 1, grid + 1, grid + 1, generator=generator) < keep)
        rows.append(torch.randint(0, cell[0], (n,), generator=generator))
        columns.append(torch.randint(0, cell[1], (n,), generator=generator))
    return torch.cat(coarse).float(), torch.cat(rows), torch.cat(columns)
