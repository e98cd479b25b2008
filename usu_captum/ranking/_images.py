"""What training reads, and the first kind of it: a folder of pictures."""

import hashlib
import json
from collections import deque
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from usu_captum._image_space import ImageSpace
from usu_captum.ranking._labels import Outputs, outputs_of_folders
from usu_captum.ranking._pictures import DAMAGE, read_picture

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
UNLABELLED = -1
# The files that say what results are of, and this project's name among the versions in each.
_RESULTS = {
    "settings.json": "usu-attribution",
    "manifest.json": "usu-attribution",
    "explainer.json": "usu",
}


def image_files(folder: Path, leave_out: Iterable[Path] = ()) -> list[Path]:
    """List the images in and below a folder, through links, but for hidden ones.

    Folders below it with results of this project are not searched, whose pictures are no data.
    Neither are other files and folders that lie below it and are to be left out.
    """
    top = folder.resolve()
    # Real paths, since one may be given absolutely and the other not.
    away = {real for other in leave_out if top in (real := other.resolve()).parents}
    return sorted(
        path
        for place, real in _folders(folder, away)
        for path in place.iterdir()
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and real / path.name not in away
        and path.is_file()
    )


def _folders(top: Path, away: Container[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield a folder and those below it with their real paths, each once: links may go round.

    Links come last, so that what is reached without one goes by the name it has without one.
    """
    seen = set(top.resolve().parents)  # a link there would lead to all that lies beside
    waiting = deque([top])
    while waiting:
        folder = waiting.popleft()
        real = folder.resolve()
        skipped = folder != top and (folder.name.startswith(".") or _holds_results(folder))
        if skipped or real in seen or any(place in away for place in (real, *real.parents)):
            continue
        seen.add(real)
        yield folder, real
        for below in folder.iterdir():
            if below.is_dir():
                (waiting.append if below.is_symlink() else waiting.appendleft)(below)


def _holds_results(folder: Path) -> bool:
    """Whether a command of this project wrote into a folder, by what it says of its versions."""
    for name, own in _RESULTS.items():
        try:
            facts = json.loads((folder / name).read_text(encoding="utf-8"))
            if own in facts["versions"]:
                return True
        # No such file, or one of somebody else.
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue
    return False


class UnreadableImageError(ValueError):
    """An image that cannot be read; the message names it."""


class Sample(NamedTuple):
    """One image (C, H, W) in the model's space, and its class or ``UNLABELLED``."""

    image: Tensor
    label: int


class ImageSource(Protocol):
    """What training reads: like a map-style ``torch.utils.data.Dataset``, and knowing itself.

    ``source[i]`` is a :class:`Sample` or raises :class:`UnreadableImageError`.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def fingerprint(self) -> str:
        """Return a digest that changes with the data."""
        ...


class FolderImages:
    """All images in and below a folder, in the order of their names.

    Hidden ones, and folders below it that hold results of this project, are left out; links are
    followed. Pictures are read upright and over white, scaled on their short side and cut
    centrally, RGB or grey as the model has it.

    Args:
        folder: Where to look.
        input_shape: (C, H, W) the model takes; C is 1 or 3.
        space: How raw pixels in [0, 1] become the model's inputs.
        labelled: Read classes from the first level of folders: see ``outputs``.
        outputs: How many outputs the classifier has, or their names. Folders named by number or by
            class are of these outputs; others must be one for each, in sorted order, as torchvision
            has it. ``None`` checks nothing.
        leave_out: A file, or a folder with all below it, in ``folder`` that is no data.

    Raises:
        ValueError: If there is no image, C is neither 1 nor 3, or a folder's output is not clear.

    Cost:
        Lists the folder; images are read one by one, when asked for.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 30), "white").save(Path(folder) / "white.png")
        ...     images = FolderImages(Path(folder), (3, 8, 8), ImageSpace((0.5,), (0.5,)))
        ...     image, label = images[0]
        >>> tuple(image.shape), float(image.min()), label
        ((3, 8, 8), 1.0, -1)
    """

    def __init__(
        self,
        folder: Path | str,
        input_shape: tuple[int, int, int],
        space: ImageSpace,
        *,
        labelled: bool = False,
        outputs: Outputs | None = None,
        leave_out: Path | str | None = None,
    ) -> None:
        if input_shape[0] not in (1, 3):
            raise ValueError(f"input_shape must have 1 or 3 channels, got {input_shape}.")
        self.folder, self.input_shape, self.space = Path(folder), input_shape, space
        if not self.folder.is_dir():
            raise ValueError(f"folder must be a folder of images, got {str(folder)!r}.")
        self.files = image_files(self.folder, () if leave_out is None else (Path(leave_out),))
        if not self.files:
            raise ValueError(
                f"folder must hold images, got none in or below {str(folder)!r}. Known suffixes: "
                f"{', '.join(sorted(SUFFIXES))}."
            )
        self.output_of: dict[str, int] = {}
        if labelled:
            loose = [p for p in self.files if p.parent == self.folder]
            if loose:
                raise ValueError(
                    f"labelled images must lie in one folder per class, got {loose[0].name!r} "
                    "beside them. Try labelled=False."
                )
            names = sorted({p.relative_to(self.folder).parts[0] for p in self.files})
            self.output_of = outputs_of_folders(names, outputs)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path = self.files[index]
        name = path.relative_to(self.folder)
        _, height, width = self.input_shape
        mode = "L" if self.input_shape[0] == 1 else "RGB"
        try:
            picture = read_picture(path).convert(mode)
        except DAMAGE as error:
            reason = " ".join(str(error).split())
            raise UnreadableImageError(f"{name.as_posix()}: {reason}") from error
        fitted = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
        raw = torch.from_numpy(np.asarray(fitted).reshape(height, width, -1).copy())
        label = self.output_of.get(name.parts[0], UNLABELLED)
        return Sample(to_space(raw.permute(2, 0, 1), self.space), label)

    def fingerprint(self) -> str:
        """Return a digest of the files' names and sizes, and of what their labels mean."""
        digest = hashlib.sha256(repr(self.output_of).encode() if self.output_of else b"")
        for path in self.files:
            name = path.relative_to(self.folder).as_posix()
            digest.update(f"{name}\0{path.stat().st_size}\n".encode())
        return digest.hexdigest()


def to_space(raw: Tensor, space: ImageSpace) -> Tensor:
    """Return uint8 pixels (C, H, W) as an image in a space."""
    image = raw.float() / 255
    if not space.normalised:
        return image
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (space.mean, space.std))
    return (image - mean) / std
