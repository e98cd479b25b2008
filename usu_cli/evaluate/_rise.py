"""RISE: random masks, averaged by the score of what they show."""

import torch
from torch import Tensor
from torch.nn import functional as F

from usu_core.scoring import ModelScore


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
        chunk_size: Masks per model call.

    Returns:
        (1, H, W).
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = image.shape[2:]
    cell = (-(-height // grid), -(-width // grid))
    total, weight = image.new_zeros(height, width), image.new_zeros(height, width)
    done = 0
    while done < evaluations:
        count = min(chunk_size, evaluations - done)
        coarse = (torch.rand(count, 1, grid + 1, grid + 1, generator=generator) < keep).float()
        large = F.interpolate(coarse, ((grid + 1) * cell[0], (grid + 1) * cell[1]), mode="bilinear")
        rows = torch.randint(0, cell[0], (count,), generator=generator).tolist()
        columns = torch.randint(0, cell[1], (count,), generator=generator).tolist()
        masks = torch.stack(
            [
                m[:, r : r + height, c : c + width]
                for m, r, c in zip(large, rows, columns, strict=True)
            ]
        ).to(image)
        with torch.no_grad():
            mixed = masks * image + (1 - masks) * fill
            values = score.evaluate(
                mixed, torch.zeros(count, dtype=torch.long, device=image.device), "probability"
            )
        total += (values.view(-1, 1, 1) * masks[:, 0]).sum(0)
        weight += masks[:, 0].sum(0)
        done += count
    return (total / weight.clamp(min=1e-6)).unsqueeze(0)
