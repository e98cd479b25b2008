"""Patches of a library that show only where they were asked for, as both adapters keep them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Swap = tuple[type, str, Any, Any]
"""A class, the name of an attribute, what that was, and what took its place."""


def put_back(swaps: list[Swap]) -> list[str]:
    """Undo swaps, last first and all of them, but for what others have put in ours' place.

    Returns:
        The names of what is left as it is: to be warned of once all is done, for a warning may be
        an error.

    Example:
        >>> class Library: size = 1
        >>> swaps = [(Library, "size", 1, 2)]
        >>> Library.size = 2
        >>> put_back(swaps), Library.size
        ([], 1)
    """
    left = []
    while swaps:
        owner, name, original, ours = swaps.pop()
        found = owner.__dict__.get(name)
        if found is ours:
            setattr(owner, name, original)
        elif found is not original:
            left.append(f"{owner.__name__}.{name}")
    return left


class Patches(Generic[T]):
    """The patches that are open, told apart by identity.

    While one is open in any thread or task, the library is replaced; a context variable decides
    where that shows. Patches nest in their context, innermost last.

    Args:
        name: Of the context variable.

    Example:
        >>> patches = Patches("example")
        >>> patches.open("ours", lambda: print("replaced"))
        replaced
        >>> patches.current()
        'ours'
        >>> patches.close("ours", lambda: print("restored"))
        restored
    """

    def __init__(self, name: str) -> None:
        self._of_context: ContextVar[tuple[T, ...]] = ContextVar(name, default=())
        self._open: dict[int, T] = {}
        self._lock = RLock()

    def last(self) -> T | None:
        """Return the innermost patch of this context, open or not, ``None`` if it has none."""
        return next(reversed(self._of_context.get()), None)

    def current(self) -> T | None:
        """Return the innermost open patch; a copied context may hold some closed since."""
        return next((p for p in reversed(self._of_context.get()) if id(p) in self._open), None)

    def open(self, patch: T, install: Callable[[], None]) -> None:
        """Open a patch in this context; ``install`` replaces the library if it is the first."""
        with self._lock:
            if not self._open:
                install()
            self._open[id(patch)] = patch
        self._of_context.set((*self._of_context.get(), patch))

    def close(self, patch: T, uninstall: Callable[[], None]) -> None:
        """Close a patch and what this context opened after it; ``uninstall`` if none is left."""
        mine = self._of_context.get()
        place = next((i for i, one in enumerate(mine) if one is patch), len(mine))
        self._of_context.set(mine[:place])
        with self._lock:
            was_open = bool(self._open)
            # A block may be left in another context than it was entered in, which has it not.
            for one in (patch, *mine[place:]):
                self._open.pop(id(one), None)
            if was_open and not self._open:
                uninstall()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Show no patch in this context for a while."""
        token = self._of_context.set(())
        try:
            yield
        finally:
            self._of_context.reset(token)
