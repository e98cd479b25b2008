"""Open images by path, and split some off to evaluate on."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from usu_captum._image_space import ImageSpace
from usu_captum.ranking._arrays import ArrayImages
from usu_captum.ranking._images import FolderImages, ImageSource, Sample
from usu_captum.ranking._labels import Outputs, check_labels
from usu_captum.ranking._pictures import DAMAGE


class PartOfImages:
    """Some images of a source, such as all but the held-out ones.

    Args:
        source: The whole.
        indices: Which to keep, in order.

    Example:
        >>> from usu_captum.ranking import DatasetImages
        >>> whole = DatasetImages([torch.rand(1, 8, 8)] * 5, (1, 8, 8))
        >>> len(PartOfImages(whole, [0, 3]))
        2
    """

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        if not indices:
            raise ValueError(f"indices must keep some of the {len(source)} images, got none.")
        self.source, self.indices = source, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.source[self.indices[index]]

    def fingerprint(self) -> str:
        """Return a digest of the whole's and of the choice."""
        chosen = np.asarray(self.indices, dtype=np.int64).tobytes()
        return hashlib.sha256(self.source.fingerprint().encode() + chosen).hexdigest()


def open_images(
    path: Path,
    input_shape: tuple[int, int, int],
    space: ImageSpace,
    *,
    labelled: bool = False,
    outputs: Outputs | None = None,
    leave_out: Path | None = None,
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
        ValueError: If none would be left to train on.

    Example:
        >>> from usu_captum.ranking import DatasetImages
        >>> whole = DatasetImages([torch.rand(1, 8, 8)] * 5, (1, 8, 8))
        >>> [len(part) for part in split_images(whole, 2)]
        [3, 2]
    """
    if not 0 < held_out < len(source):
        raise ValueError(
            f"held_out must leave some of the {len(source)} images to train on, got {held_out}."
        )
    order = np.random.default_rng(seed).permutation(len(source)).tolist()
    return (
        PartOfImages(source, sorted(order[held_out:])),
        PartOfImages(source, sorted(order[:held_out])),
    )
