"""Shapley values of segments by regression on random coalitions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from usu_core._checks import check_choice, check_count
from usu_core._precision import widest
from usu_core.scoring._coalitions import Coalitions
from usu_core.scoring._fills import FILLS, Filling, fill_images
from usu_core.scoring._model import OUTPUTS, ModelScore
from usu_core.scoring._protocol import LevelScorer


@dataclass(frozen=True, eq=False)
class ShapleyRegression(Filling):
    """Estimate each segment's Shapley value, clipped at 0.

    Draws coalitions of segments from the Shapley kernel's size distribution, each with its
    complement, keeps their pixels and fills the rest, and solves the least-squares problem whose
    solution is the Shapley value (Lundberg and Lee, 2017; paired sampling of Covert and Lee,
    2021), under the constraint that values sum to f(x) - f(fill).

    Args:
        samples: Coalitions per image, rounded up to a pair.
        fill: What replaces absent segments: ``"blur"``, ``"mean"``, ``"zero"`` or a tensor.
        output: Scale of the model's score.
        chunk_size: Images per model call.
        seed: Seed of its own random generator; the global one is not touched.

    Cost:
        ``samples + 2`` model evaluations per image and level, whatever the number of segments.
        Exact for additive models once samples reach a few times the number of segments.

    Example:
        >>> from usu_core.scoring import model_score
        >>> total = model_score(lambda images: images.sum((1, 2)))
        >>> labels, active = torch.tensor([[0, 1, 2]]), torch.ones(1, 3).bool()
        >>> scorer = ShapleyRegression(samples=16, fill="zero")
        >>> scorer(torch.tensor([[[1.0, 2.0, 3.0]]]), total)(labels, active).round(decimals=3)
        tensor([[1., 2., 3.]])
    """

    samples: int = 512
    fill: str | Tensor = "blur"
    output: str = "probability"
    chunk_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        check_count("samples", self.samples, 2)
        check_count("chunk_size", self.chunk_size)
        check_count("seed", self.seed, 0)
        check_choice("output", self.output, OUTPUTS)
        if not isinstance(self.fill, Tensor):
            check_choice("fill", self.fill, FILLS)

    def __call__(self, images: Tensor, score: ModelScore) -> LevelScorer:
        """Return the regression for one level; see :class:`Scorer`.

        Segments that are not active stay in the image.
        """
        asked = Coalitions(
            images, fill_images(images, self.fill), score, self.output, self.chunk_size
        )

        def score_level(labels: Tensor, active: Tensor) -> Tensor:
            result = torch.zeros(active.shape, device=images.device)
            for i, row in enumerate(active):
                if bool(row.any()):
                    result[i, row] = self._values(i, row, labels, asked)
            return result.clamp(min=0)

        return score_level

    def _values(self, i: int, active: Tensor, labels: Tensor, asked: Coalitions) -> Tensor:
        """Estimate the Shapley values of one image's active segments."""
        count = int(active.sum())
        # A generator of its own for every image: its values do not depend on the batch.
        drawn = _coalitions(count, self.samples, torch.Generator().manual_seed(self.seed))
        edges = torch.tensor([[False], [True]]).expand(2, count)
        present = torch.cat([edges, drawn]).to(labels.device)
        seats = (~active).repeat(len(present), 1)
        seats[:, active] = present
        example = torch.full((len(seats),), i, device=labels.device)
        outcome = widest(asked.evaluate(labels, seats, example))
        if count == 1:
            return (outcome[1] - outcome[0]).float().expand(1)
        return _solve(present[2:].to(outcome), outcome).float()


def _coalitions(count: int, samples: int, generator: torch.Generator) -> Tensor:
    """Draw (samples, count) coalitions by the Shapley kernel, each followed by its complement."""
    pairs = -(-samples // 2)
    if count == 1:
        return torch.zeros(0, 1, dtype=torch.bool)
    sizes = torch.arange(1, count, dtype=torch.float64)
    kernel = 1.0 / (sizes * (count - sizes))
    size = torch.multinomial(kernel, pairs, replacement=True, generator=generator) + 1
    rank = torch.rand(pairs, count, generator=generator).argsort(1).argsort(1)
    half = rank < size[:, None]
    return torch.stack([half, ~half], 1).flatten(0, 1)


def _solve(present: Tensor, outcome: Tensor) -> Tensor:
    """Least squares for the values, constrained to sum to the gap between all and none.

    The sampling already follows the kernel, so all coalitions weigh the same.
    """
    count, base = present.shape[1], outcome[0]
    gap = outcome[1] - base
    gram = present.T @ present / len(present)
    target = present.T @ (outcome[2:] - base) / len(present)
    # A ridge far below the kernel's smallest eigenvalue: defined even with too few coalitions.
    gram = gram + 1e-6 * torch.eye(count, dtype=gram.dtype, device=gram.device)
    ones = torch.ones(count, 1, dtype=gram.dtype, device=gram.device)
    both: Tensor = torch.linalg.solve(gram, torch.cat([target[:, None], ones], 1))
    excess = (both[:, 0].sum() - gap) / both[:, 1].sum()
    return both[:, 0] - excess * both[:, 1]
