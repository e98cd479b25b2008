"""Random numbers of one's own: the global state is what it was when they are drawn."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def kept_randomness(device: torch.device) -> Iterator[None]:
    """Put torch's random state of the CPU and of a device back on any exit."""
    apple = torch.mps.get_rng_state() if device.type == "mps" else None
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        if apple is not None:
            torch.mps.set_rng_state(apple)


@contextmanager
def seeded(*seed: int) -> Iterator[None]:
    """Let torch on the CPU, NumPy and Python draw by a seed, and put their states back on any exit.

    Args:
        seed: Numbers of at least 0, which make up the seed together.

    Example:
        >>> with seeded(1, 2):
        ...     first = random.random(), torch.rand(())
        >>> with seeded(1, 2):
        ...     (random.random(), torch.rand(())) == first
        True
    """
    # Data sets draw from the global states, so these are what must be seeded.
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    one, other, third = (int(v) for v in np.random.SeedSequence(seed).generate_state(3))
    try:
        torch.default_generator.manual_seed(one)
        np.random.seed(other)  # noqa: NPY002
        random.seed(third)
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        random.setstate(kept[2])
