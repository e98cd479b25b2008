"""What every upsampler does, and the one that only interpolates."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from usu_core._cells import CellGrid
from usu_core._checks import check_choice, check_float_tensor, check_size, check_tensor
from usu_core._interpolation import MODES, interpolate
from usu_core._precision import widest
from usu_core._refinement import ScoreMap
from usu_core._version import __version__
from usu_core.scoring import ModelScore, ScoreFunction


@dataclass(frozen=True)
class Upsampling:
    """A fine map with everything needed to judge it.

    Attributes:
        attribution: The fine map (B, C, *pixels), density or mass as configured.
        score_map: Φ in [0, 1], (B, *pixels); ``None`` if the upsampler uses none.
        segments: Label maps (B, *pixels), coarsest first; empty if none were made.
        cells: The coarse map (B, C, *cells) it came from.
        evaluations: Images the model was run on to get the scores.
        mass_error: Largest deviation of a cell's mass, relative to the largest cell mass, (B,).
        config: The upsampler as nested dictionaries; see ``to_dict``.
        versions: Versions of the packages that made it.
    """

    attribution: Tensor
    score_map: Tensor | None
    segments: tuple[Tensor, ...]
    cells: Tensor
    evaluations: int
    mass_error: Tensor
    config: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class Upsampler(ABC):
    """A coarse map in, a fine map out.

    Call it with the coarse map and, for guided upsamplers, the image and the model's score::

        fine = upsampler(cells, image=image, score=score)

    Subclasses implement :meth:`_redistribute`. Those that are guided implement
    :meth:`_find_scores`, and ``score_map(image, score)``, by which the adapters score once for
    several maps.
    """

    @overload
    def __call__(
        self,
        cells: Tensor,
        *,
        image: Tensor | None = None,
        score: ModelScore | ScoreFunction | None = None,
        score_map: Tensor | None = None,
        grid: CellGrid | None = None,
        size: Sequence[int] | None = None,
        details: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def __call__(
        self,
        cells: Tensor,
        *,
        image: Tensor | None = None,
        score: ModelScore | ScoreFunction | None = None,
        score_map: Tensor | None = None,
        grid: CellGrid | None = None,
        size: Sequence[int] | None = None,
        details: Literal[True],
    ) -> Upsampling: ...

    def __call__(
        self,
        cells: Tensor,
        *,
        image: Tensor | None = None,
        score: ModelScore | ScoreFunction | None = None,
        score_map: Tensor | None = None,
        grid: CellGrid | None = None,
        size: Sequence[int] | None = None,
        details: bool = False,
    ) -> Tensor | Upsampling:
        """Upsample a coarse map.

        Args:
            cells: Coarse attribution (B, C, *cells), signed, floating point.
            image: What the model sees, (B, C', *pixels). Guided upsamplers need it.
            score: The explained scalar: a function from images (N, C', *pixels) to (N,), or a
                :class:`~usu_core.scoring.ModelScore`.
            score_map: Φ in [0, 1] of shape (B, *pixels), instead of ``score``: to reuse one for
                several maps, or to bring one's own. Costs no model evaluation.
            grid: Where the cells lie; evenly over the image if not given.
            size: Fine shape, for interpolation without an image.
            details: Return an :class:`Upsampling` instead of the map alone.

        Returns:
            The fine map (B, C, *pixels), on the device of ``cells``, or all details.

        Raises:
            TypeError: If a tensor is not floating point.
            ValueError: If something needed is missing or does not fit.
        """
        pixels = _pixels(cells, image, size, score_map)
        used = grid or CellGrid.even(cells.shape[2:], pixels)
        if used.pixels != pixels:
            raise ValueError(f"grid must cover {pixels} pixels, got {used.pixels}.")
        if used.cells != tuple(cells.shape[2:]):
            raise ValueError(f"grid must have cells {tuple(cells.shape[2:])}, got {used.cells}.")
        found = self._find_scores(cells, image, score, score_map)
        fine = self._redistribute(cells, None if found is None else found.values, used)
        if not details:
            return fine
        return Upsampling(
            attribution=fine,
            score_map=None if found is None else found.values,
            segments=() if found is None else found.segments,
            cells=cells,
            evaluations=0 if found is None else found.evaluations,
            mass_error=_mass_error(fine.detach(), cells.detach(), used, self._is_total),
            config=_to_dict(self),
            versions={"usu-attribution": __version__, "torch": torch.__version__},
        )

    def _find_scores(
        self,
        cells: Tensor,
        image: Tensor | None,
        score: ModelScore | ScoreFunction | None,
        score_map: Tensor | None,
    ) -> ScoreMap | None:
        """Return the scores a guided upsampler needs; interpolation needs none."""
        return None

    @property
    def _is_total(self) -> bool:
        return getattr(self, "convention", "density") == "total"

    @abstractmethod
    def _redistribute(self, cells: Tensor, scores: Tensor | None, grid: CellGrid) -> Tensor:
        """Turn (B, C, *cells) into (B, C, *pixels)."""


@dataclass(frozen=True)
class Interpolation(Upsampler):
    """Resize without looking at the model: the control.

    Args:
        mode: ``"nearest"``, ``"bilinear"``, ``"bicubic"``, ``"lanczos"`` or
            ``"bilinear-conserving"``; see :func:`interpolate`.

    Example:
        >>> Interpolation("nearest")(torch.tensor([[[1.0, 2.0]]]), size=(4,))
        tensor([[[1., 1., 2., 2.]]])
    """

    mode: str = "bilinear"

    def __post_init__(self) -> None:
        """Check the mode."""
        check_choice("mode", self.mode, MODES)

    def _redistribute(self, cells: Tensor, scores: Tensor | None, grid: CellGrid) -> Tensor:
        if not grid.is_even:
            raise ValueError(f"grid must be even for interpolation, got {grid}. Try USU().")
        return interpolate(cells, grid.pixels, self.mode)


def _pixels(
    cells: Tensor, image: Tensor | None, size: Sequence[int] | None, score_map: Tensor | None
) -> tuple[int, ...]:
    """Find the fine shape in whatever was given, and check that all of it agrees."""
    check_float_tensor("cells", cells)
    if not 3 <= cells.dim() <= 5:
        raise ValueError(
            "cells must have shape (batch, channels, 1 to 3 spatial dimensions), got "
            f"{tuple(cells.shape)}."
        )
    given = {
        "image": None if image is None else tuple(check_tensor("image", image).shape[2:]),
        "score_map": None
        if score_map is None
        else tuple(check_float_tensor("score_map", score_map).shape[1:]),
        "size": None if size is None else check_size("size", size),
    }
    shapes = {name: shape for name, shape in given.items() if shape is not None}
    if not shapes:
        raise ValueError("image, score_map or size must be given: how large should the map be?")
    if len(set(shapes.values())) > 1:
        raise ValueError(f"image, score_map and size must agree on the fine shape, got {shapes}.")
    return next(iter(shapes.values()))


def _mass_error(fine: Tensor, cells: Tensor, grid: CellGrid, is_total: bool) -> Tensor:
    """Largest deviation of a cell's mass, relative to the largest cell mass of the example."""
    mass = widest(cells) if is_total else widest(cells) * grid.sizes(cells.device)
    error = (grid.sum(widest(fine)) - mass).abs().flatten(1).amax(1)
    return error / mass.abs().flatten(1).amax(1).clamp(min=torch.finfo(mass.dtype).tiny)


def _to_dict(upsampler: Upsampler) -> dict[str, Any]:
    from usu_core._config import to_dict

    return to_dict(upsampler)
