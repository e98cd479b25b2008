"""Evaluation mode for a while."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put modules into evaluation mode, and each back into its own on any exit.

    Each by itself, for a model may keep some of its modules in another mode than its own.

    Example:
        >>> layer = nn.Dropout()
        >>> with evaluation_mode(layer.modules()):
        ...     print(layer.training)
        False
        >>> layer.training
        True
    """
    modes = [(module, module.training) for module in modules]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training
