"""State of one call or one ``with`` block, per thread and task: nothing of it lives on a CAM.

Several threads may use several CAMs at once, and other threads must not see a patch.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from usu_core._patches import Patches
from usu_gradcam._options import Options


@dataclass(frozen=True)
class Frame:
    """A patched call in progress, for code that overrides what would be patched."""

    cam: Any
    options: Options
    image: Tensor
    targets: Sequence[Any] | None


@dataclass
class ScoreMaps:
    """Score maps of one image, shared by the CAMs of a meta-method."""

    # Images are kept with their maps: an address names an image only while it is alive.
    _found: dict[Hashable, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @staticmethod
    def _key(image: Tensor, targets: Sequence[Any]) -> Hashable:
        # Every CAM resolves targets=None anew, to new objects with equal categories.
        names = tuple(
            ("category", str(t.category)) if type(t) is ClassifierOutputTarget else id(t)
            for t in targets
        )
        return (image.data_ptr(), tuple(image.shape), names)

    def get(self, image: Tensor, targets: Sequence[Any]) -> Tensor | None:
        """Return the map made for this image and these targets, if there is one."""
        found = self._found.get(self._key(image, targets))
        return None if found is None else found[1]

    def put(self, image: Tensor, targets: Sequence[Any], values: Tensor) -> None:
        """Keep a map for the other CAMs."""
        self._found[self._key(image, targets)] = (image, values)


ACTIVE: Patches[Options] = Patches("usu_gradcam_active")
"""Options of the patches in force."""

FRAME: ContextVar[Frame | None] = ContextVar("usu_gradcam_frame", default=None)

_COLLECTED: ContextVar[list[Any] | None] = ContextVar("usu_gradcam_collected", default=None)
_SHARED: ContextVar[ScoreMaps | None] = ContextVar("usu_gradcam_shared", default=None)


@contextmanager
def assigned(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    """Give a variable a value for a while."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextmanager
def suspended() -> Iterator[None]:
    """Run the model unpatched: a CAM used as a score must not redistribute itself."""
    with ACTIVE.suspended(), assigned(FRAME, None), assigned(_COLLECTED, None):
        yield


@contextmanager
def collecting() -> Iterator[list[Any]]:
    """Make CAMs hand over coarse maps instead of upsampling them."""
    collected: list[Any] = []
    with assigned(_COLLECTED, collected):
        yield collected


def collected() -> list[Any] | None:
    """Return where coarse maps go, ``None`` if they are to be upsampled."""
    return _COLLECTED.get()


@contextmanager
def sharing_scores() -> Iterator[None]:
    """Score an image once for all CAMs that run inside."""
    with assigned(_SHARED, ScoreMaps()):
        yield


def shared_scores() -> ScoreMaps | None:
    """Return the score maps shared by a meta-method in progress."""
    return _SHARED.get()
