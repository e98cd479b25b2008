"""Which images make up which step, whatever happened before it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from usu_captum.ranking._images import ImageSource, Sample, UnreadableImageError
from usu_captum.ranking._randomness import seeded


class Batch(NamedTuple):
    """Images (B, C, H, W), their labels (B,), and what could not be read, by name."""

    images: Tensor
    labels: Tensor
    unreadable: tuple[str, ...]


class BatchOrder(Sampler[list[int]]):
    """The indices of one process's batches, from a step on.

    Images come in one random order per epoch, and follow each other without a gap between epochs.
    A step's images depend on the seed and its number alone, so a run can go on from any step.

    Args:
        count: Number of images.
        batch_size: Images per step and process.
        start: First step, counted from 0.
        stop: The step after the last.
        seed: Of the orders.
        process: This process, counted from 0.
        processes: How many there are.

    Example:
        >>> whole = list(BatchOrder(5, 2, start=0, stop=5, seed=0))
        >>> sorted(sum(whole, [])), whole[3:] == list(BatchOrder(5, 2, start=3, stop=5, seed=0))
        ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], True)
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        start: int,
        stop: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._count, self._batch_size = count, batch_size
        self.start, self.seed = start, seed
        self._steps = range(start, stop)
        self._process, self._processes = process, processes

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.placed():
            yield [index for _, index in batch]

    def placed(self) -> Iterator[list[tuple[int, int]]]:
        """Yield each batch's indices with their places among all that are read in training."""
        orders: dict[int, list[int]] = {}
        for step in self._steps:
            first = (step * self._processes + self._process) * self._batch_size
            places = range(first, first + self._batch_size)
            needed = {place // self._count for place in places}
            orders = {epoch: orders.get(epoch) or self._order(epoch) for epoch in needed}
            yield [(p, orders[p // self._count][p % self._count]) for p in places]

    def _order(self, epoch: int) -> list[int]:
        order: list[int] = (
            np.random.default_rng([self.seed, epoch]).permutation(self._count).tolist()
        )
        return order


class _Read(NamedTuple):
    """An image, the names of what could not be read in its place, and what went wrong, if it did.

    An error is a value until it is back in the first process: on the way from another one its
    message would become that of a whole traceback.
    """

    sample: Sample | None
    missed: tuple[str, ...]
    error: Exception | None = None


_SENT = (UnreadableImageError, ValueError, TypeError)
"""Errors that can be sent to another process; those of a stranger's making perhaps cannot."""


class _Readable(Dataset[_Read]):
    """Puts the next readable image in the place of one that is not: batches stay full.

    What an image draws at random depends on the seed and its place in training alone.
    """

    def __init__(self, source: ImageSource, seed: int, *, strict: bool) -> None:
        self._source, self._seed, self._strict = source, seed, strict

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, placed: tuple[int, int]) -> _Read:
        place, index = placed
        try:
            with seeded(self._seed, place):
                return self._read(index)
        except (ValueError, TypeError) as error:
            if type(error) not in _SENT:
                raise
            return _Read(None, (), error)

    def _read(self, index: int) -> _Read:
        missed: list[str] = []
        for offset in range(len(self._source)):
            try:
                return _Read(self._source[(index + offset) % len(self._source)], tuple(missed))
            except UnreadableImageError as error:
                if self._strict:
                    raise
                missed.append(str(error))
        raise ValueError(
            f"data must hold an image that can be read, got {len(missed)} that cannot. The first: "
            f"{missed[0]}."
        )


def load_batches(
    source: ImageSource, order: BatchOrder, *, workers: int, strict: bool
) -> Iterator[Batch]:
    """Read the batches of an order.

    Args:
        source: Where images come from.
        order: Which belong together.
        workers: Processes that read; 0 to read in this one.
        strict: Raise at the first unreadable image, instead of taking the next one.

    Raises:
        UnreadableImageError: If ``strict`` and an image cannot be read.
        ValueError: If no image can be read.
    """
    loader: DataLoader[_Read] = DataLoader(
        _Readable(source, order.seed, strict=strict),
        batch_sampler=order.placed(),
        num_workers=workers,
        collate_fn=_collate,
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def _collate(items: list[_Read]) -> Batch | Exception:
    samples = [item.sample for item in items if item.sample is not None]
    if len(samples) < len(items):
        return next(item.error for item in items if item.error is not None)
    return Batch(
        torch.stack([sample.image for sample in samples]),
        torch.tensor([sample.label for sample in samples]),
        tuple(name for item in items for name in item.missed),
    )
