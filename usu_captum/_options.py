"""The keywords this package adds to Captum's ``attribute`` methods, written once."""

from dataclasses import dataclass, fields
from inspect import Parameter
from typing import Any

from usu_core import AnyUpsampler, CellGrid, resolve
from usu_core._tokens import TokenGrid

CONVENTIONS = (None, "density", "total")
REDUCTIONS = ("sum", None)


@dataclass(frozen=True)
class Options:
    """What to do with Captum's coarse result.

    Args:
        upsampler: ``None`` for Captum's result, bit for bit; a name such as ``"usu"`` (see
            :func:`usu_core.available`); or an object such as ``usu_core.USU(...)``.
        image_input: Which of several ``inputs`` is the image to redistribute over.
        reduce: ``"sum"`` adds the channels of the coarse map up first; ``None`` keeps them, which
            costs a full-size map for each.
        expand_to_input: Repeat the map for every channel of the image, so that its shape is the
            input's, as ``captum.metrics.infidelity`` demands. In the total convention each channel
            gets an equal part, so the sum stays. Inputs in a tuple give a tuple, with zeros for
            those that are not the image.
        convention: ``"density"``: a pixel's value is comparable with the coarse value.
            ``"total"``: the pixels of a cell add up to the coarse value. ``None`` takes the total
            where a convergence delta is returned (only then does the fine map keep it true) and
            where a value is a patch's whole effect, and the upsampler's own elsewhere.
        grid: A :class:`TokenGrid` for transformers that do not say how their tokens lie, or a
            :class:`usu_core.CellGrid` for coarse maps that do not cover the image evenly. Read
            from the model and the map if not given.
    """

    upsampler: str | AnyUpsampler | None = None
    image_input: int = 0
    reduce: str | None = "sum"
    expand_to_input: bool = False
    convention: str | None = None
    grid: TokenGrid | CellGrid | None = None

    def __post_init__(self) -> None:
        """Check the options before anything expensive runs."""
        _ = self.resolved
        if not isinstance(self.image_input, int):
            kind = type(self.image_input).__name__
            raise TypeError(f"image_input must be an integer, got {kind}. Try image_input=0.")
        if self.reduce not in REDUCTIONS:
            raise ValueError(f"reduce must be 'sum' or None, got {self.reduce!r}.")
        if self.convention not in CONVENTIONS:
            raise ValueError(
                f"convention must be 'density', 'total' or None, got {self.convention!r}."
            )
        if not isinstance(self.grid, TokenGrid | CellGrid | None):
            raise TypeError(
                f"grid must be a TokenGrid or a CellGrid, got {type(self.grid).__name__}."
            )

    @property
    def resolved(self) -> Any:
        """The upsampler as an object, ``None`` if there is none."""
        return None if self.upsampler is None else resolve(self.upsampler)

    @property
    def needs_score(self) -> bool:
        """Whether the upsampler follows the model, and so needs a scalar of it."""
        return callable(getattr(self.resolved, "score_map", None))

    @property
    def token_grid(self) -> TokenGrid | None:
        """The layout of tokens, if the caller gave one."""
        return self.grid if isinstance(self.grid, TokenGrid) else None

    @property
    def cell_grid(self) -> CellGrid | None:
        """The place of the cells, if the caller gave one."""
        return self.grid if isinstance(self.grid, CellGrid) else None


KEYWORDS = tuple(field.name for field in fields(Options))

PARAMETERS = tuple(
    Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
    for field in fields(Options)
)

ARGUMENTS = "Args:" + (Options.__doc__ or "").split("Args:")[1].rstrip()
"""The text above, for the docstrings of the methods that take these keywords."""


def split_options(arguments: dict[str, Any]) -> tuple[Options, dict[str, Any]]:
    """Part the keywords of this package from Captum's."""
    own = {name: value for name, value in arguments.items() if name in KEYWORDS}
    return Options(**own), {k: v for k, v in arguments.items() if k not in KEYWORDS}
