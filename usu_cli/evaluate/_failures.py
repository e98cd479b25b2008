"""Methods that fail: for one image, which a long run survives, or for the model, which ends it."""

from collections.abc import Callable, Iterable

from torch import nn

from usu_cli._errors import UsageError
from usu_cli._maps import Scored
from usu_cli.evaluate._journal import Record
from usu_cli.evaluate._maps import FineMap
from usu_cli.evaluate._sources import Subject
from usu_cli.evaluate._subjects import noise_like

Attempt = Callable[[Subject, Scored], list[FineMap]]
"""Makes all maps of one method."""

Excuse = Callable[[str, Attempt, Subject], bool]
"""Whether a method, by name, that failed for an image may fail there."""


def only_this_image(model: nn.Module) -> Excuse:
    """Return what excuses a method that fails for an image, if it can explain noise.

    The same messages come from a layer that no image can be explained by and from one image in a
    thousand, so the method is tried once on a picture that has nothing special about it.

    Args:
        model: What is explained.
    """
    able: set[str] = set()

    def excuse(method: str, attempt: Attempt, subject: Subject) -> bool:
        if method not in able:
            try:
                attempt(noise_like(subject, model), {})
            except UsageError:
                return False
            able.add(method)
        return True

    return excuse


def failed_records(
    image: str,
    method: str,
    wanted: Iterable[tuple[str, str]],
    subject: Subject,
    error: UsageError,
) -> list[Record]:
    """Return a record without a value for each upsampler and metric that was wanted."""
    return [
        Record(image, method, way, metric, None, subject.target, 0, error=str(error))
        for way, metric in wanted
    ]
