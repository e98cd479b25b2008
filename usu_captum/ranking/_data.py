"""Open images by path, and split some off to evaluate on."""

import hashlib
import operator
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from usu_captum._image_space import ImageSpace
from usu_captum.ranking._arrays import ArrayImages
from usu_captum.ranking._images import FolderImages, ImageSource, Sample
from usu_captum.ranking._labels import Outputs, check_labels
from usu_captum.ranking._pictures import DAMAGE
from usu_core._checks import check_count


class PartOfImages:
    """Some images of a source, such as all but the held-out ones.

    Args:
        source: The whole.
        indices: Which to keep, in order.

    Raises:
        TypeError: If an index is no integer.
        ValueError: If there is none, or no such image.

    Example:
        >>> from usu_captum.ranking import DatasetImages
        >>> whole = DatasetImages([torch.rand(1, 8, 8)] * 5, (1, 8, 8))
        >>> len(PartOfImages(whole, [0, 3]))
        2
    """

    def __init__(self, source: ImageSource, indices: Iterable[int]) -> None:
        self.source, self.indices = source, [operator.index(i) for i in indices]
        if not self.indices:
            raise ValueError(f"indices must keep some of the {len(source)} images, got none.")
        low, high = min(self.indices), max(self.indices)
        if low < 0 or high >= len(source):
            raise ValueError(
                f"indices must lie in [0, {len(source) - 1}], got {low if low < 0 else high}."
            )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.source[self.indices[index]]

    def fingerprint(self) -> str:
        """Return a digest of the whole's and of the choice."""
        chosen = np.asarray(self.indices, dtype=np.int64).tobytes()
        return hashlib.sha256(self.source.fingerprint().encode() + chosen).hexdigest()


def open_images(
    path: Path | str,
    input_shape: tuple[int, int, int],
    space: ImageSpace,
    *,
    labelled: bool = False,
    outputs: Outputs | None = None,
    leave_out: Path | str | None = None,
) -> ImageSource:
    """Return the images in a folder or in a ``.npz`` file.

    The file holds ``images``, uint8 (N, H, W, C) or (N, H, W), and perhaps ``labels`` (N,).

    Args:
        path: Folder or file.
        input_shape: (C, H, W) the model takes.
        space: How raw pixels in [0, 1] become the model's inputs.
        labelled: As in :class:`FolderImages`, or whether the file's labels are used.
        outputs: As in :class:`FolderImages`; the file's labels must be of these.
        leave_out: As in :class:`FolderImages`.

    Raises:
        ValueError: If there is no such thing, it is empty, it holds something else, or labels are
            of other outputs.
        TypeError: If the file's images are not uint8.

    Example:
        >>> open_images(Path("nowhere.npz"), (3, 8, 8), ImageSpace((0.5,)))
        Traceback (most recent call last):
        ValueError: path must be a folder of images or a .npz file, got 'nowhere.npz'.
    """
    path = Path(path)
    if path.suffix == ".npz" and path.is_file():
        try:
            with np.load(path, allow_pickle=False) as arrays:
                held = {name: arrays[name] for name in arrays.files}
        except DAMAGE as error:
            raise ValueError(f"path must be a readable .npz file, got {str(path)!r}.") from error
        if "images" not in held or (labelled and "labels" not in held):
            wanted = "images and labels" if labelled else "images"
            raise ValueError(f"path must hold {wanted}, got {sorted(held)} in {str(path)!r}.")
        images = ArrayImages(
            held["images"], held["labels"] if labelled else None, input_shape, space
        )
        if images.labels is not None and outputs is not None:
            count = outputs if isinstance(outputs, int) else len(outputs)
            check_labels(torch.from_numpy(images.labels), count)
        return images
    if not path.is_dir():
        raise ValueError(f"path must be a folder of images or a .npz file, got {str(path)!r}.")
    return FolderImages(
        path, input_shape, space, labelled=labelled, outputs=outputs, leave_out=leave_out
    )


def split_images(
    source: ImageSource, held_out: int, seed: int = 0
) -> tuple[PartOfImages, PartOfImages]:
    """Split off ``held_out`` images at random.

    Args:
        source: The whole.
        held_out: How many.
        seed: Of the choice.

    Returns:
        The images to train on, and the held-out ones.

    Raises:
        TypeError: If the count is no integer.
        ValueError: If none would be left to train on.

    Example:
        >>> from usu_captum.ranking import DatasetImages
        >>> whole = DatasetImages([torch.rand(1, 8, 8)] * 5, (1, 8, 8))
        >>> [len(part) for part in split_images(whole, 2)]
        [3, 2]
    """
    check_count("held_out", held_out, 0)
    if not 0 < held_out < len(source):
        raise ValueError(
            f"held_out must leave some of the {len(source)} images to train on, got {held_out}."
        )
    order = np.random.default_rng(seed).permutation(len(source)).tolist()
    return (
        PartOfImages(source, sorted(order[held_out:])),
        PartOfImages(source, sorted(order[:held_out])),
    )
