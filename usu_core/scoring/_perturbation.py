"""Masked perturbation: hide a segment, see what the model loses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from usu_core._checks import check_choice, check_count
from usu_core.scoring._coalitions import Coalitions, banzhaf_values
from usu_core.scoring._fills import FILLS, Filling, fill_images
from usu_core.scoring._model import OUTPUTS, ModelScore, score_drops
from usu_core.scoring._protocol import LevelScorer

MODES = ("coalitions", "drop", "keep", "both")


@dataclass(frozen=True, eq=False)
class MaskedPerturbation(Filling):
    """Score each segment by what the model loses without it.

    ``coalitions`` is the segment's Banzhaf value: its mean effect where a random half of the others
    is shown. It is found from balanced coalitions and their complements, all of which serve all
    segments. ``drop`` is f(x) - f(x without the segment), what the model misses while it sees all
    the rest; a class with evidence to spare misses nothing. ``keep`` is f(the segment alone) -
    f(nothing), and ``both`` the mean of these two. All are clipped at 0. "Masked perturbation" is
    named but not defined in arXiv:2603.16067.

    Args:
        mode: ``"coalitions"``, ``"drop"``, ``"keep"`` or ``"both"``.
        fill: What replaces masked pixels: ``"blur"``, ``"mean"``, ``"zero"`` or a tensor.
        output: Scale of the model's score: ``"probability"``, ``"logit"`` or ``"log-odds"``.
        chunk_size: Images per model call; bounds memory.
        samples: Coalitions per image and level, rounded up to pairs; if not given, twice the power
            of two that is not below the number of segments, and 128 at most. Only for
            ``"coalitions"``, as is the next.
        seed: Seed of their own random generator; the global one is not touched.

    Raises:
        ValueError: If an option is unknown or a number out of range.
        TypeError: If a number is not an integer.

    Cost:
        ``samples`` model evaluations per image and level for ``"coalitions"``, 32 + 128 with the
        default segments; else one per segment and one per image, twice as many for ``"both"``. No
        gradient.

    Example:
        >>> labels = torch.tensor([[0, 0, 1]])
        >>> scorer = MaskedPerturbation(mode="drop", fill="zero")
        >>> from usu_core.scoring import model_score
        >>> total = model_score(lambda images: images.sum((1, 2)))
        >>> score_level = scorer(torch.tensor([[[1.0, 2.0, 5.0]]]), total)
        >>> score_level(labels, torch.ones(1, 2).bool())
        tensor([[3., 5.]])
    """

    mode: str = "coalitions"
    fill: str | Tensor = "blur"
    output: str = "probability"
    chunk_size: int = 64
    samples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("mode", self.mode, MODES)
        check_choice("output", self.output, OUTPUTS)
        check_count("chunk_size", self.chunk_size)
        if self.samples is not None:
            check_count("samples", self.samples, 2)
        check_count("seed", self.seed, 0)
        if not isinstance(self.fill, Tensor):
            check_choice("fill", self.fill, FILLS)

    def __call__(self, images: Tensor, score: ModelScore) -> LevelScorer:
        """Score the unmasked images once; see :class:`Scorer`."""
        fill = fill_images(images, self.fill)
        asked = Coalitions(images, fill, score, self.output, self.chunk_size)

        def banzhaf(labels: Tensor, active: Tensor) -> Tensor:
            return banzhaf_values(asked, labels, active, self.samples, self.seed).clamp(min=0)

        if self.mode == "coalitions":
            return banzhaf
        alone = {"drop": [False], "keep": [True], "both": [False, True]}[self.mode]
        # A segment hidden alone is compared with the whole, one shown alone with nothing.
        references = {shown: asked.all_or_nothing(not shown) for shown in alone}

        def score_level(labels: Tensor, active: Tensor) -> Tensor:
            example, segment = active.nonzero(as_tuple=True)

            def single(shown: bool) -> Tensor:
                """Score each segment shown alone, or hidden alone."""
                results = []
                # In chunks here too: every one of P segments has P places.
                chunks = (part.split(self.chunk_size) for part in (example, segment))
                for i, k in zip(*chunks, strict=True):
                    present = active.new_full((len(k), active.shape[1]), not shown)
                    present.scatter_(1, k[:, None], shown)
                    results.append(asked.evaluate(labels, present, i))
                return torch.cat(results)

            parts = []
            for shown, reference in references.items():
                drops = score_drops(reference[example], single(shown))
                parts.append((-drops if shown else drops).clamp(min=0).to(reference.dtype))
            values = torch.stack(parts).mean(0)
            return values.new_zeros(active.shape).index_put_((example, segment), values)

        return score_level
