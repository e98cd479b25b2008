"""Checkpoints: tensors in safetensors, everything else as JSON in the same file's header.

One file, so that it is replaced as a whole: a kill leaves the old one or the new one, never a mix.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

FORMAT = 1
_KEY = "usu"
_PARTIAL = ".{name}.{process}.partial"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts into one file, atomically.

    Args:
        path: A ``.safetensors`` file; replaced if it exists.
        tensors: By name.
        facts: What JSON can hold, without NaN and infinity.

    Raises:
        ValueError: If the facts hold NaN or infinity.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.safetensors"
        ...     save_checkpoint(path, {"x": torch.ones(2)}, {"step": 3})
        ...     load_checkpoint(path)
        ({'x': tensor([1., 1.])}, {'step': 3, 'format': 1})
    """
    from safetensors.torch import save_file

    text = json.dumps({**facts, "format": FORMAT}, allow_nan=False, ensure_ascii=False)
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with _replacing(path) as partial:
        partial.touch()  # with the mode that files get here; safetensors makes its own private
        mode = partial.stat().st_mode
        save_file(own, partial, metadata={_KEY: text})
        partial.chmod(mode)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote.

    Raises:
        ValueError: If there is no such file, or it is no checkpoint of this format.
    """
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise ValueError(
            f"path must be a checkpoint, got a folder {str(path)!r}. Try the explainer.safetensors "
            "in it."
        )
    if not path.is_file():
        raise ValueError(f"path must be a checkpoint, got no file {str(path)!r}.")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"path must be a checkpoint, got an unreadable file {str(path)!r}: {error}"
        ) from error
    facts: dict[str, Any] = {} if text is None else json.loads(text)
    if facts.get("format") != FORMAT:
        raise ValueError(
            f"path must be a ranking checkpoint of format {FORMAT}, got {facts.get('format')} in "
            f"{str(path)!r}."
        )
    return tensors, facts


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with _replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_partials(folder: Path, names: Iterable[str]) -> None:
    """Remove what writes of these files left in a folder when they were killed."""
    for name in names:
        for partial in folder.glob(_PARTIAL.format(name=name, process="*")):
            partial.unlink(missing_ok=True)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Take what is written to the given file for a file as a whole, or not at all."""
    partial = path.with_name(_PARTIAL.format(name=path.name, process=os.getpid()))
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file's content is on disk, before its name says that it is."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
