"""Upsamplers that follow the model: segments, scores and an operator joined."""

from abc import abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from usu_core._cells import CellGrid
from usu_core._checks import check_choice, check_temperature, check_unit_interval
from usu_core._operands import prepare
from usu_core._potentials import LogPotential, check_potential
from usu_core._redistribution import CONVENTIONS, IMPORTANCES, NEGATIVES, PRIORS, iwmr, usu
from usu_core._refinement import Refinement, ScoreMap, score_levels
from usu_core._tilting import tilt
from usu_core._upsamplers import Upsampler
from usu_core.scoring import MaskedPerturbation, ModelScore, ScoreFunction, Scorer
from usu_core.scoring._model import CountedScore
from usu_core.segments import Segmenter, Slic, check_images


@dataclass(frozen=True)
class _Guided(Upsampler):
    """What all upsamplers share that look at the model."""

    segmenter: Segmenter = field(default_factory=Slic, kw_only=True)
    scorer: Scorer = field(default_factory=MaskedPerturbation, kw_only=True)
    refinement: Refinement = field(default_factory=Refinement, kw_only=True)
    convention: str = field(default="density", kw_only=True)

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("convention", self.convention, CONVENTIONS)
        for name, kind in (
            ("segmenter", Segmenter), ("scorer", Scorer), ("refinement", Refinement)
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, type) or not isinstance(value, kind):
                raise TypeError(f"{name} must be a {kind.__name__} object, got {value!r}.")

    def score_map(self, image: Tensor, score: ModelScore | ScoreFunction) -> ScoreMap:
        """Segment the images and score the segments, without a coarse map.

        Args:
            image: What the model sees, (B, C, *pixels).
            score: The explained scalar.

        Returns:
            Φ and how it came about. Pass its ``values`` as ``score_map=`` to several upsamplers.
        """
        check_images(image)
        image = image.detach()
        counted = CountedScore(score)
        levels = self.segmenter(image)
        values, used = score_levels(image, levels, self.scorer, counted, self.refinement)
        return ScoreMap(values, used, counted.evaluations)

    def _find_scores(
        self,
        cells: Tensor,
        image: Tensor | None,
        score: ModelScore | ScoreFunction | None,
        score_map: Tensor | None,
    ) -> ScoreMap | None:
        if score_map is not None:
            check_unit_interval("score_map", score_map)
            return ScoreMap(score_map, (), 0)
        if image is None or score is None:
            missing = "image" if image is None else "score"
            raise ValueError(
                f"{missing} must be given to {type(self).__name__}: it follows the model's own "
                "scores. Pass image= and score=, or score_map=."
            )
        if len(image) != len(cells):
            raise ValueError(f"image must hold {len(cells)} examples as cells, got {len(image)}.")
        return self.score_map(image, score)

    def _redistribute(self, cells: Tensor, scores: Tensor | None, grid: CellGrid) -> Tensor:
        if scores is None or len(scores) != len(cells):
            raise ValueError(
                f"score_map must hold {len(cells)} examples as cells, got "
                f"{None if scores is None else tuple(scores.shape)}."
            )
        channels = cells.shape[1]
        phi = scores.to(cells.device).repeat_interleave(channels, 0)
        fine = self._operate(cells.flatten(0, 1), phi, grid)
        return fine.view(-1, channels, *grid.pixels)

    @abstractmethod
    def _operate(self, cells: Tensor, scores: Tensor, grid: CellGrid) -> Tensor:
        """Apply the operator to (N, *cells) and (N, *pixels)."""


@dataclass(frozen=True)
class USU(_Guided):
    """Keep each cell's mass and give it to the pixels the model scores highest.

    The operator is :func:`usu`. The default temperature is chosen by measurement, and bounds
    slivers (a cold cell touched by one hot pixel): no pixel's density exceeds exp(1/ε), about 2.7
    times its cell's mean, where the paper's 0.1 allows a factor of 22,000.

    Args:
        temperature: ε of the softmax inside a cell.
        potential: ``"tensor"``, ``"power"``, ``"log-odds"`` or a log-potential.
        negative: ``"same"`` or ``"invert"``; see :func:`usu`.
        segmenter: Makes the segments.
        scorer: Scores them.
        refinement: Merges their levels.
        convention: ``"density"`` or ``"total"``.

    Example:
        >>> cells, phi = torch.tensor([[[1.0]]]), torch.tensor([[0.0, 1.0]])
        >>> USU(temperature=1.0)(cells, score_map=phi)
        tensor([[[0.5379, 1.4621]]])
    """

    temperature: float = 1.0
    potential: str | LogPotential = "tensor"
    negative: str = "same"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        check_temperature("temperature", self.temperature)
        check_potential(self.potential)
        check_choice("negative", self.negative, NEGATIVES)

    def _operate(self, cells: Tensor, scores: Tensor, grid: CellGrid) -> Tensor:
        return usu(
            cells,
            scores,
            temperature=self.temperature,
            potential=self.potential,
            convention=self.convention,
            negative=self.negative,
            grid=grid,
        )


@dataclass(frozen=True)
class IWMR(USU):
    """Keep the total mass, and move it to the cells and pixels the model scores highest.

    The operator is :func:`iwmr`.

    Args:
        temperature: As in :class:`USU`.
        potential: As in :class:`USU`.
        negative: As in :class:`USU`.
        prior: ``"mass"`` follows the coarse map; ``"uniform"`` is the paper's, which does not.
        importance: ``"mean"`` of a cell's scores, which a sliver cannot sway, or the paper's
            ``"max"``.
        importance_temperature: ε_Λ between cells.
        segmenter: As in :class:`USU`.
        scorer: As in :class:`USU`.
        refinement: As in :class:`USU`.
        convention: As in :class:`USU`.
    """

    temperature: float = 0.5
    prior: str = "mass"
    importance: str = "mean"
    importance_temperature: float = 0.3

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        check_choice("prior", self.prior, PRIORS)
        check_choice("importance", self.importance, IMPORTANCES)
        check_temperature("importance_temperature", self.importance_temperature)

    def _operate(self, cells: Tensor, scores: Tensor, grid: CellGrid) -> Tensor:
        return iwmr(
            cells,
            scores,
            temperature=self.temperature,
            importance_temperature=self.importance_temperature,
            prior=self.prior,
            importance=self.importance,
            potential=self.potential,
            convention=self.convention,
            negative=self.negative,
            grid=grid,
        )


@dataclass(frozen=True)
class Tilted(_Guided):
    """Multiply the smooth bilinear map by the potential of the scores, keeping the total mass.

    The operator is :func:`tilt`. Mass moves between cells, and no cell border shows.

    Args:
        temperature: ε; no pixel gains more than a factor exp(1/ε) on another.
        potential: As in :class:`USU`.
        segmenter: As in :class:`USU`.
        scorer: As in :class:`USU`.
        refinement: As in :class:`USU`.
        convention: As in :class:`USU`.
    """

    temperature: float = 0.5
    potential: str | LogPotential = "tensor"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        check_temperature("temperature", self.temperature)
        check_potential(self.potential)

    def _operate(self, cells: Tensor, scores: Tensor, grid: CellGrid) -> Tensor:
        return tilt(
            cells,
            scores,
            temperature=self.temperature,
            potential=self.potential,
            convention=self.convention,
            grid=grid,
        )


@dataclass(frozen=True)
class ScoreMapOnly(_Guided):
    """Ignore the coarse map but for its total mass, and show the segment scores: a control.

    What IWMR tends to when mass moves freely. Any claim that a redistributed map is better must
    beat it, for it costs the same.
    """

    def _operate(self, cells: Tensor, scores: Tensor, grid: CellGrid) -> Tensor:
        cells, scores, grid = prepare(cells, scores, grid, self.convention)
        sizes = grid.sizes(cells.device)
        mass = cells if self.convention == "total" else cells * sizes
        inside = grid.expand(scores.new_ones(grid.cells)).flatten()
        weight = scores.flatten(1) * inside
        weight = weight.where(weight.any(1, keepdim=True), inside)  # All scores 0: spread evenly.
        total = weight.sum(1, keepdim=True)
        share = weight / total.where(total > 0, 1.0)
        return (mass.flatten(1).sum(1, keepdim=True) * share).view_as(scores)
