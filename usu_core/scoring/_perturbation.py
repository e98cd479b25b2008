"""Masked perturbation: hide a segment, see what the model loses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from usu_core._checks import check_choice, check_count, check_positive
from usu_core.scoring._fills import FILLS, fill_images
from usu_core.scoring._model import OUTPUTS, ModelScore
from usu_core.scoring._protocol import LevelScorer
from usu_core.segments._reduce import segment_counts, segment_expand, segment_max, segment_mean

MODES = ("drop", "keep", "both", "context")


@dataclass(frozen=True)
class MaskedPerturbation:
    """Score each segment by what the model loses without it.

    ``drop`` is f(x) - f(x without the segment), ``keep`` is f(the segment alone) - f(nothing), both
    clipped at 0; ``both`` is the mean of the two. "Masked perturbation" is named but not defined
    in arXiv:2603.16067.

    A drop tells what the model misses while it sees all the rest, and a class with evidence to
    spare misses nothing. ``context`` is therefore the mean of a segment's drop and of its effects
    in contexts, clipped at 0: on the filled image that shows only the most important segments, up
    to a share of the pixels, a shown segment is hidden and a hidden one is shown. Each context is
    chosen by what is known so far. All of these are marginal contributions to coalitions, as a
    Shapley value's are; the coalitions are those that deletion and insertion pass through.

    Args:
        mode: ``"drop"``, ``"keep"``, ``"both"`` or ``"context"``.
        fill: What replaces masked pixels: ``"blur"``, ``"mean"``, ``"zero"`` or a tensor.
        output: Scale of the model's score: ``"probability"``, ``"logit"`` or ``"log-odds"``.
        chunk_size: Images per model call; bounds memory.
        contexts: Shares of the pixels that contexts show, each above 0 and below 1, and one
            segment at least. Only for ``"context"``.

    Raises:
        ValueError: If an option is unknown or a number out of range.
        TypeError: If ``contexts`` is not a tuple.

    Cost:
        One model evaluation per segment, two for ``"both"``, and one or two per image. In contexts,
        one per segment and one per level and image more for each of them. No gradient.

    Example:
        >>> labels = torch.tensor([[0, 0, 1]])
        >>> scorer = MaskedPerturbation(fill="zero")
        >>> from usu_core.scoring import model_score
        >>> total = model_score(lambda images: images.sum((1, 2)))
        >>> score_level = scorer(torch.tensor([[[1.0, 2.0, 5.0]]]), total)
        >>> score_level(labels, torch.ones(1, 2).bool())
        tensor([[3., 5.]])
    """

    mode: str = "drop"
    fill: str | Tensor = "blur"
    output: str = "probability"
    chunk_size: int = 64
    contexts: tuple[float, ...] = (0.25, 0.125)

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("mode", self.mode, MODES)
        check_choice("output", self.output, OUTPUTS)
        check_count("chunk_size", self.chunk_size)
        if not isinstance(self.contexts, tuple):
            raise TypeError(f"contexts must be a tuple, got {self.contexts!r}. Try (0.25,).")
        if not self.contexts:
            raise ValueError("contexts must hold at least one share, got none. Try mode='drop'.")
        for share in self.contexts:
            check_positive("contexts", share)
            if share >= 1:
                raise ValueError(f"contexts must be below 1, got {share}. Drops show all else.")
        if not isinstance(self.fill, Tensor):
            check_choice("fill", self.fill, FILLS)

    def __call__(self, images: Tensor, score: ModelScore) -> LevelScorer:
        """Score the unmasked images once; see :class:`Scorer`."""
        fill = fill_images(images, self.fill)
        probe = _Probe(images, fill, score, self.output, self.chunk_size)
        all_shown = torch.ones_like(images[:, 0], dtype=torch.bool)
        shares = self.contexts if self.mode == "context" else ()
        ends = []  # what is shown, and its score
        if self.mode != "keep":
            ends.append((all_shown, probe.evaluate(all_shown)))
        if self.mode in ("keep", "both"):
            ends.append((~all_shown, probe.evaluate(~all_shown)))
        known: list[Tensor] = []  # (B, *pixels), the values of the levels so far

        def score_level(labels: Tensor, active: Tensor) -> Tensor:
            parts = [probe.effects(labels, active, shown, base) for shown, base in ends]
            for share in shares:
                level = _spread(torch.stack(parts).mean(0), labels, active, known)
                so_far = torch.stack([*known, level]).mean(0)
                shown = _most_important(so_far, labels, active.shape[1], share)
                parts.append(probe.effects(labels, active, shown, probe.evaluate(shown)))
            values = torch.stack(parts).mean(0)
            if shares:
                known.append(_spread(values, labels, active, known))
            return values

        return score_level


@dataclass(frozen=True)
class _Probe:
    """Scores images of which only a part is shown, and the rest filled."""

    images: Tensor
    fill: Tensor
    score: ModelScore
    output: str
    chunk_size: int

    def evaluate(self, shown: Tensor) -> Tensor:
        """Score every image as far as ``shown`` (B, *pixels) shows it; returns (B,)."""
        return self._evaluate(shown, torch.arange(len(shown), device=shown.device))

    def effects(self, labels: Tensor, active: Tensor, shown: Tensor, base: Tensor) -> Tensor:
        """Return what each segment is worth to what is shown, (B, P), not below 0.

        Args:
            labels: (B, *pixels).
            active: (B, P), which segments to score; others get 0.
            shown: (B, *pixels), all or nothing of each segment.
            base: (B,), the scores of what is shown.
        """
        example, segment = active.nonzero(as_tuple=True)
        inside = segment_max(shown.float(), labels, active.shape[1])[example, segment] > 0
        ones = (1,) * (labels.dim() - 1)
        toggled = torch.cat(
            [
                self._evaluate(shown[i] ^ (labels[i] == p.view(-1, *ones)), i)
                for i, p in zip(
                    example.split(self.chunk_size), segment.split(self.chunk_size), strict=True
                )
            ]
        )
        gain = torch.where(inside, base[example] - toggled, toggled - base[example])
        values = gain.clamp(min=0)
        return values.new_zeros(active.shape).index_put_((example, segment), values)

    def _evaluate(self, shown: Tensor, example: Tensor) -> Tensor:
        mixed = torch.where(shown.unsqueeze(1), self.images[example], self.fill[example])
        if mixed.dim() == 4:  # Convolutions are faster on it, and it costs one copy.
            mixed = mixed.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            return self.score.evaluate(mixed, example, self.output)


def _spread(values: Tensor, labels: Tensor, active: Tensor, known: list[Tensor]) -> Tensor:
    """Give pixels their segment's value, or what is known of its parent where it has none."""
    fine = segment_expand(values, labels)
    return fine.where(segment_expand(active, labels), known[-1]) if known else fine


def _most_important(values: Tensor, labels: Tensor, count: int, share: float) -> Tensor:
    """Show the segments of the highest mean value that together fit a share of the pixels.

    The first is always shown. Equal values keep the order of their labels.
    """
    means = segment_mean(values, labels, count)
    order = means.argsort(dim=1, descending=True, stable=True)
    fits = segment_counts(labels, count).gather(1, order).cumsum(1) <= share * values[0].numel()
    fits[:, 0] = True
    return segment_expand(torch.zeros_like(fits).scatter(1, order, fits), labels)
