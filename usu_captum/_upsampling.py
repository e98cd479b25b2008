"""The step every class of this package adds to Captum's result."""

from typing import Any

import torch
from torch import Tensor

from usu_captum._models import evaluating
from usu_captum._options import Options
from usu_captum._score import ForwardScore
from usu_captum._shared_pass import SharedPass, SharedScore
from usu_core import CellGrid
from usu_core._operands import check_no_cell_is_empty
from usu_core._precision import wide
from usu_core.scoring import ModelScore


class Redistribution:
    """One call's upsampler, image and score; scores are computed once for all its maps.

    Captum has removed its hooks by the time it is used, so scoring the model records nothing.

    Args:
        options: The keywords of the call.
        image: (B, C, *pixels), or ``None`` for upsamplers that need none.
        score: The explained scalar, or ``None`` likewise.
        forward_func: What the score runs, to be put into evaluation mode.
        convention: The convention of the result if the options leave it open; ``None`` for the
            upsampler's own.
    """

    def __init__(
        self,
        options: Options,
        image: Tensor | None,
        score: ModelScore | None,
        forward_func: Any,
        convention: str | None = None,
    ) -> None:
        self._options = options
        self._upsampler: Any = options.resolved
        self._image = None if image is None else image.detach()
        self._score = score
        self._forward_func = forward_func
        self._own = getattr(self._upsampler, "convention", "density")
        self._scores: Tensor | None = None
        self.convention: str = options.convention or convention or self._own

    def __call__(self, cells: Tensor, grid: CellGrid | None = None) -> Tensor:
        """Upsample (B, C, *cells) to (B, C, *pixels), after and before what the options say."""
        cells = wide(cells)  # Half precision holds neither sums of channels nor cells' masses.
        if self._options.reduce == "sum":
            cells = cells.sum(1, keepdim=True)
        grid = grid or self._options.cell_grid
        with evaluating(self._forward_func):
            fine = self._upsample(self._converted(cells, grid), grid, slice(None))
        return self._expanded(fine)

    def resize(self, cells: Tensor, size: tuple[int, ...]) -> Tensor:
        """Upsample to a size without an image; guided upsamplers refuse."""
        result: Tensor = self._upsampler(cells, size=size)
        return result

    def one_by_one(self, cells: list[Tensor], grids: list[CellGrid]) -> Tensor:
        """Upsample examples whose cells lie differently, each (1, C, *cells)."""
        with evaluating(self._forward_func):
            fine = [
                self._upsample(self._converted(wide(part), grid), grid, slice(i, i + 1))
                for i, (part, grid) in enumerate(zip(cells, grids, strict=True))
            ]
        return self._expanded(torch.cat(fine))

    def _upsample(self, cells: Tensor, grid: CellGrid | None, examples: slice) -> Tensor:
        options: dict[str, Any] = {} if grid is None else {"grid": grid}
        if self._image is None:
            if grid is not None:
                options["size"] = grid.pixels
            result: Tensor = self._upsampler(cells, **options)
            return result
        image = self._image[examples]
        find_scores = getattr(self._upsampler, "score_map", None)
        if callable(find_scores) and self._score is not None:
            if self._scores is None:
                self._scores = find_scores(self._image, self._score).values
            result = self._upsampler(cells, score_map=self._scores[examples], **options)
        else:
            start = examples.start or 0
            score = _Shifted(self._score, start) if start else self._score
            result = self._upsampler(cells, image=image, score=score, **options)
        return result

    def _converted(self, cells: Tensor, grid: CellGrid | None) -> Tensor:
        """Scale the cells so that the upsampler's own convention yields the wanted one."""
        if self.convention == self._own:
            return cells
        if grid is None and self._image is not None:
            grid = CellGrid.even(cells.shape[2:], self._image.shape[2:])
        if grid is None:
            raise ValueError("grid must be given to change the convention without an image.")
        if self.convention == "total":
            check_no_cell_is_empty(grid)
        sizes = grid.sizes(cells.device).clamp(min=1)
        return cells / sizes if self.convention == "total" else cells * sizes

    def _expanded(self, fine: Tensor) -> Tensor:
        if not self._options.expand_to_input or self._image is None:
            return fine
        channels = self._image.shape[1]
        if fine.shape[1] not in (1, channels):
            raise ValueError(
                f"expand_to_input needs one channel or {channels}, got {fine.shape[1]}. Try "
                "reduce='sum'."
            )
        if fine.shape[1] == channels:
            return fine
        share = fine / channels if self.convention == "total" else fine
        # Captum's metrics take views of it, which an expanded tensor refuses.
        return share.expand(-1, channels, *fine.shape[2:]).contiguous()


class _Shifted:
    """A score for a batch that starts later in the original one."""

    def __init__(self, score: Any, start: int) -> None:
        self._score, self._start = score, start

    def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
        values: Tensor = self._score.evaluate(images, example + self._start, output)
        return values


def image_of(inputs: Any, image_input: int) -> Tensor:
    """Return the input to redistribute over.

    Raises:
        ValueError: If there is no such input.
    """
    several = inputs if isinstance(inputs, tuple) else (inputs,)
    if not -len(several) <= image_input < len(several):
        raise ValueError(f"image_input must name one of {len(several)} inputs, got {image_input}.")
    image: Tensor = several[image_input]
    return image


def redistribution(
    options: Options,
    inputs: Any,
    forward_func: Any,
    arguments: dict[str, Any],
    convention: str | None = None,
    shared: SharedPass | None = None,
) -> Redistribution:
    """Build the step from the arguments of a call to Captum, and its forward pass if kept."""
    several = inputs if isinstance(inputs, tuple) else (inputs,)
    image = image_of(inputs, options.image_input)
    rest = (
        arguments.get("target"),
        arguments.get("additional_forward_args"),
        several,
        options.image_input % len(several),
    )
    score = (
        ForwardScore(forward_func, *rest)
        if shared is None
        else SharedScore(shared, forward_func, *rest)
    )
    return Redistribution(options, image, score, forward_func, convention)
