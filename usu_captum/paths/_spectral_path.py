"""A path whose components fade in one after another, and its clock."""

import math

import torch
from torch import Tensor

from usu_captum.paths._engine import Points
from usu_captum.paths._spectra import Spectrum, decompose
from usu_core._precision import wide

TIMINGS = ("strength", "length", "rank", "printed")

GATES = ("linear", "cosine", "sigmoid", "step")

_TICKS = 512
"""Times at which a path's progress is measured."""


class SpectralPath:
    """The start plus components of the difference, each times a gate that goes from 0 to 1.

    Args:
        start: Each (B, C, H, W).
        end: The same.
        decomposition: One of ``DECOMPOSITIONS``.
        overlap: In [0, 1]: from one component at a time to all at once.
        gate: One of ``GATES``.
        timing: One of ``TIMINGS``.
        power: At position ``alpha`` the path has made ``alpha ** power`` of its progress.
    """

    def __init__(
        self,
        start: Points,
        end: Points,
        *,
        decomposition: str,
        overlap: float,
        gate: str,
        timing: str,
        power: float,
    ) -> None:
        self._start, self._end = start, end
        pairs = zip(start, end, strict=True)
        self._spectra = [decompose(wide(e) - wide(s), decomposition) for s, e in pairs]
        self._times = [fading_times(s, overlap, timing) for s in self._spectra]
        self._gate, self._power, self._printed = gate, power, timing == "printed"
        self._clock = None if self._printed else self._measured()

    def at(self, alphas: Tensor) -> Points:
        """Return the points at positions (K,), each (K, B, C, H, W)."""
        times = self._retimed(alphas)
        found = []
        for start, end, spectrum, fading in zip(
            self._start, self._end, self._spectra, self._times, strict=True
        ):
            gates = gate_values(times, *fading, self._gate)
            points = (wide(start) + spectrum.combine(gates)).to(start.dtype)
            # Components add up to the difference but for rounding.
            position = alphas.to(spectrum.lengths).view(-1, 1, 1, 1, 1)
            points = torch.where(position >= 1, end, points)
            found.append(points if self._printed else torch.where(position <= 0, start, points))
        return tuple(found)

    def _retimed(self, alphas: Tensor) -> Tensor:
        """Return the time (K, B) at which each example has made its share of progress."""
        like = self._spectra[0].lengths
        if self._clock is None:
            return alphas.to(like)[:, None].expand(-1, len(like))
        sought = (alphas**self._power).to(like).expand(len(like), -1).contiguous()
        tick = torch.searchsorted(self._clock, sought, right=True).clamp(1, _TICKS)
        before, after = self._clock.gather(1, tick - 1), self._clock.gather(1, tick)
        part = (sought - before) / (after - before).clamp_min(torch.finfo(like.dtype).tiny)
        return ((tick - 1 + part.clamp(0, 1)) / _TICKS).T

    def _measured(self) -> Tensor:
        """Return the share of progress (B, ticks + 1) that each example has made by a tick.

        Progress is the Euclidean length of the gates' path. In images' own length the first
        component would take nearly all of it, and what the model reacts to come last, in haste.
        """
        like = self._spectra[0].lengths
        ticks = torch.arange(_TICKS + 1, device=like.device).to(like) / _TICKS
        ticks = ticks[:, None].expand(-1, len(like))
        squared = like.new_zeros(_TICKS, len(like))
        for fading in self._times:
            change = gate_values(ticks, *fading, self._gate).diff(dim=0)
            squared += change.square().flatten(2).sum(2)
        progress = squared.sqrt().cumsum(0)
        share = progress / progress[-1:]
        return torch.cat((torch.zeros_like(share[:1]), share)).T.contiguous()


def fading_times(spectrum: Spectrum, overlap: float, timing: str) -> tuple[Tensor, Tensor]:
    """Return when each component starts and ends to fade in.

    Args:
        spectrum: Components from coarse to fine.
        overlap: Written w below.
        timing: ``"printed"`` is from (1 - w)(1 - strength), for a time of w. ``"strength"`` is the
            same, but lasts at least until the next component starts, and w is at least 1 / R, so
            that nothing jumps. ``"length"`` and ``"rank"`` share [0, 1] out among the components,
            in proportion to their lengths or evenly; one whose share is [a, b] fades in from
            (1 - w) a to (1 - w) b + w.

    Returns:
        Two (B, G, R) tensors.

    Example:
        >>> spectrum = decompose(torch.tensor([[[[4.0, 0.0], [0.0, 1.0]]]]), "svd")
        >>> for timing in ("printed", "strength"):
        ...     start, end = fading_times(spectrum, 0.5, timing)
        ...     [round(v, 3) for v in (*start.flatten().tolist(), *end.flatten().tolist())]
        [0.0, 0.375, 0.5, 0.875]
        [0.0, 0.375, 0.5, 1.0]
    """
    if timing in ("printed", "strength"):
        width = overlap if timing == "printed" else max(overlap, 1 / spectrum.strengths.shape[-1])
        start = (1 - width) * (1 - spectrum.strengths)
        following = torch.cat((start[..., 1:], torch.ones_like(start[..., :1])), -1)
        return start, start + width if timing == "printed" else (start + width).maximum(following)
    lengths = spectrum.lengths
    whole = lengths.sum(-1, keepdim=True)
    even = torch.full_like(lengths, 1 / lengths.shape[-1])
    proportional = torch.where(whole > 0, lengths / whole.clamp_min(1e-30), even)
    share = even if timing == "rank" else proportional
    after = share.cumsum(-1).clamp_max(1)
    before = torch.cat((torch.zeros_like(after[..., :1]), after[..., :-1]), -1)
    return (1 - overlap) * before, (1 - overlap) * after + overlap


def gate_values(times: Tensor, start: Tensor, end: Tensor, gate: str) -> Tensor:
    """Return how far each component has faded in.

    Args:
        times: (K, B).
        start: (B, G, R).
        end: The same; where it equals ``start`` a component jumps, and at ``start`` is there.
        gate: ``"linear"``, ``"cosine"``, ``"sigmoid"`` (steepness 12, made to pass 0 and 1), or
            ``"step"`` (a jump half-way).

    Returns:
        (K, B, G, R) in [0, 1].

    Example:
        >>> times, start = torch.tensor([[0.0], [0.25], [0.5]]), torch.zeros(1, 1, 1)
        >>> gate_values(times, start, start + 0.5, "cosine").flatten()
        tensor([0.0000, 0.5000, 1.0000])
    """
    passed = times[:, :, None, None] - start
    progress = (passed / (end - start).clamp_min(1e-12)).clamp(0, 1)
    progress = torch.where(end > start, progress, (passed >= 0).to(progress))
    if gate == "cosine":
        return (1 - (math.pi * progress).cos()) / 2
    if gate == "sigmoid":
        # The same function, which is 0 and 1 at the ends without rounding.
        return (1 + (6 * progress - 3).tanh() / progress.new_tensor(3.0).tanh()) / 2
    return progress if gate == "linear" else (progress >= 0.5).to(progress)
