"""Scores of images of which only a coalition of segments is shown, and the rest is filled."""

from dataclasses import dataclass

import torch
from torch import Tensor

from usu_core._precision import exact
from usu_core.scoring._model import ModelScore


@dataclass(frozen=True)
class Coalitions:
    """Asks the model about parts of the images.

    Args:
        images: (B, C, *pixels).
        fill: What stands in hidden places, of the same shape.
        score: The model.
        output: Scale of the model's score.
        chunk_size: Images per model call; bounds memory.
    """

    images: Tensor
    fill: Tensor
    score: ModelScore
    output: str
    chunk_size: int

    def all_or_nothing(self, shown: bool) -> Tensor:
        """Score the images as they are, or filled throughout; returns (B,)."""
        none = torch.zeros_like(self.images[:, 0], dtype=torch.int64)
        present = torch.full((len(none), 1), shown, device=none.device)
        return self.evaluate(none, present, torch.arange(len(none), device=none.device))

    def evaluate(self, labels: Tensor, present: Tensor, example: Tensor) -> Tensor:
        """Score one image per coalition.

        Args:
            labels: (B, *pixels) int64, the segments.
            present: (N, P) bool, which of them are shown.
            example: (N,) int64, the image each coalition is of.

        Returns:
            (N,) scores, without gradients.
        """
        results = []
        with torch.no_grad():
            for seats, i in zip(
                present.split(self.chunk_size), example.split(self.chunk_size), strict=True
            ):
                shown = seats.gather(1, labels[i].flatten(1)).view(len(i), 1, *labels.shape[1:])
                mixed = torch.where(shown, self.images[i], self.fill[i])
                if mixed.dim() == 4:  # Convolutions are faster on it, and it costs one copy.
                    mixed = mixed.contiguous(memory_format=torch.channels_last)
                results.append(self.score.evaluate(mixed, i, self.output))
        return torch.cat(results)


def banzhaf_values(
    asked: Coalitions, labels: Tensor, active: Tensor, samples: int, seed: int
) -> Tensor:
    """Estimate what each segment is worth to a random half of the others, (B, P).

    The Banzhaf value, from coalitions that hold each segment with probability 1/2: the mean score
    with the segment less the mean without it. All samples serve all segments (the maximum sample
    reuse of Wang and Jia, 2023), and every image sees the same draw, so that its values do not
    depend on the batch. Segments that are not active stay in the image.
    """
    member = balanced_coalitions(active.shape[1], samples, seed).to(labels.device)
    (rows,) = active.any(1).nonzero(as_tuple=True)
    present = (member | ~active[rows].unsqueeze(1)).flatten(0, 1)
    outcome = asked.evaluate(labels, present, rows.repeat_interleave(samples))
    gains = outcome.view(-1, samples)
    gains = gains - gains.mean(1, keepdim=True)
    seat = member.to(gains.dtype)
    seat = seat - seat.mean(0)
    with exact(gains):
        values = gains @ seat / seat.square().sum(0)
    return values.new_zeros(active.shape).index_copy_(0, rows, values) * active


def balanced_coalitions(segments: int, samples: int, seed: int) -> Tensor:
    """Draw coalitions whose members hardly go together, (samples, segments) bool.

    In independent draws some segments happen to be shown together more often than not, and each
    is taken for the other. Rows of a Hadamard matrix are a screening design (Plackett and Burman,
    1946): each of its columns but one is balanced, and no two go together. Segments have columns
    at random, and either sign of them, which makes each coalition by itself a random half, so that
    estimates are as unbiased as from independent draws. With a power of two of samples, and fewer
    segments than that, an additive model is measured without error; with somewhat fewer samples
    the error is small.

    Args:
        segments: How many, P. The coalitions of the first few do not depend on how many follow.
        samples: Two or more.
        seed: Seed of a random generator of their own.
    """
    order = min(1 << (samples - 1).bit_length(), 1024)
    generator = torch.Generator().manual_seed(seed)
    columns = []
    for _ in range(0, segments, order - 1):
        copies = range(0, samples, order)
        row = torch.cat([torch.randperm(order, generator=generator) for _ in copies])[:samples]
        column = torch.randperm(order - 1, generator=generator) + 1
        sign = torch.randint(2, (order - 1,), generator=generator)
        common = row[:, None] & column
        # Sylvester's matrix: the sign of row i and column j is the parity of their common bits.
        for shift in (8, 4, 2, 1):
            common = common ^ (common >> shift)
        columns.append((common ^ sign) & 1 > 0)
    return torch.cat(columns, 1)[:, :segments]
