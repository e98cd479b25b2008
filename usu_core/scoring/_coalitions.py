"""Scores of images of which only a coalition of segments is shown, and the rest is filled."""

from dataclasses import dataclass

import torch
from torch import Tensor

from usu_core._precision import exact
from usu_core.scoring._model import ModelScore

_MOST_PAIRS = 64  # per image and level, so that finer segments do not cost more unasked


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
    asked: Coalitions, labels: Tensor, active: Tensor, samples: int | None, seed: int
) -> Tensor:
    """Estimate what each segment is worth to a random half of the others, (B, P).

    The Banzhaf value, from coalitions that hold each segment with probability 1/2: the mean score
    with the segment less the mean without it. All coalitions serve all segments (the maximum
    sample reuse of Wang and Jia, 2023), and come with their complements, so that what two segments
    do only together is not taken for what either does. An image sees the same draw whatever else
    is in the batch. Segments that are not active stay in the image.

    Args:
        asked: The model and the images.
        labels: (B, *pixels) int64, the segments.
        active: (B, P) bool, which of them to measure.
        samples: Coalitions per image, rounded up to pairs; if not given, twice the power of two
            that is not below the number of active segments, and 128 at most.
        seed: Seed of a random generator of their own.
    """

    def pairs_for(count: int) -> int:
        return min(_power_of_two(count), _MOST_PAIRS) if samples is None else -(-samples // 2)

    counts = active.sum(1).tolist()
    place = (active.cumsum(1) - 1).clamp(min=0)
    values = torch.zeros(active.shape, device=active.device)
    for number in sorted({pairs_for(count) for count in counts if count}):
        found = [i for i, count in enumerate(counts) if count and pairs_for(count) == number]
        rows = torch.tensor(found, device=active.device)
        drawn = balanced_coalitions(max(counts[i] for i in found), number, seed)
        member = drawn.to(active.device)[:, place[rows]].transpose(0, 1)
        present = (member | ~active[rows].unsqueeze(1)).flatten(0, 1)
        outcome = asked.evaluate(labels, present, rows.repeat_interleave(2 * number))
        gains = outcome.view(len(rows), 1, 2 * number)
        gains = gains - gains.mean(2, keepdim=True)
        with exact(gains):
            worth = (gains @ (2 * member.to(gains.dtype) - 1)).squeeze(1) / number
        values = values.to(worth.dtype).index_copy(0, rows, worth)
    return values * active


def balanced_coalitions(segments: int, pairs: int, seed: int) -> Tensor:
    """Draw coalitions whose members hardly go together, (2 * pairs, segments) bool.

    In independent draws some segments happen to be shown together more often than not, and each
    is taken for the other. Rows of a Hadamard matrix and their complements are a folded screening
    design (Plackett and Burman, 1946): every column is balanced, and no two go together. Segments
    have columns at random, and either sign of them, which makes each coalition by itself a random
    half, so that estimates are as unbiased as from independent draws. With a power of two of pairs,
    and no more segments than that, an additive model is measured without error; with somewhat
    fewer pairs the error is small.

    Args:
        segments: How many, P. The coalitions of the first few do not depend on how many follow.
        pairs: One or more; the second half of the rows are the complements of the first.
        seed: Seed of a random generator of their own.
    """
    order = min(_power_of_two(pairs), 1024)
    generator = torch.Generator().manual_seed(seed)
    columns: list[Tensor] = []
    for _ in range(0, segments, order):
        rows = []
        for first in range(0, pairs, order):
            row = torch.randperm(order, generator=generator)[: pairs - first]
            column = torch.randperm(order, generator=generator)
            sign = torch.randint(2, (order,), generator=generator)
            common = row[:, None] & column
            # Sylvester's matrix: the sign of row i and column j is the parity of their common bits.
            for shift in (8, 4, 2, 1):
                common = common ^ (common >> shift)
            if columns:  # The constant columns of two matrices would go together throughout.
                coin = torch.randint(2, (len(row), 1), generator=generator)
                common = torch.where(column == 0, coin, common)
            rows.append((common ^ sign) & 1 > 0)
        columns.append(torch.cat(rows))
    half = torch.cat(columns, 1)[:, :segments]
    return torch.cat([half, ~half])


def _power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()
