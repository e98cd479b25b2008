"""Evaluation mode for a while."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from weakref import WeakKeyDictionary

from torch import nn

_lock = Lock()
# Of each module that is evaluated: by how many blocks, and the mode it had before the first.
_evaluated: WeakKeyDictionary[nn.Module, tuple[int, bool]] = WeakKeyDictionary()


@contextmanager
def evaluation_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put modules into evaluation mode, and each back into its own on any exit.

    Each by itself, for a model may keep some of its modules in another mode than its own. Blocks
    that overlap, nested or in several threads, are counted: the last to end restores the mode.

    Example:
        >>> layer = nn.Dropout()
        >>> with evaluation_mode(layer.modules()):
        ...     print(layer.training)
        False
        >>> layer.training
        True
    """
    held = list(modules)
    with _lock:
        for module in held:
            count, training = _evaluated.get(module, (0, module.training))
            _evaluated[module] = count + 1, training
            module.training = False
    try:
        yield
    finally:
        with _lock:
            for module in held:
                count, training = _evaluated.pop(module)
                if count > 1:
                    _evaluated[module] = count - 1, training
                else:
                    module.training = training
