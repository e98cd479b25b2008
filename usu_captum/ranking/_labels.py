"""Which output of a classifier a folder of images is meant to be, and whether labels fit it."""

from collections.abc import Sequence

from torch import Tensor

Outputs = int | Sequence[str]
"""A classifier's outputs: how many, or their names."""


def outputs_of_folders(folders: Sequence[str], outputs: Outputs | None) -> dict[str, int]:
    """Return the output that each folder of images is of.

    Folders may be named by number, or by class if names are known. Otherwise there must be one for
    each output, in the order of their names, as torchvision has it.

    Args:
        folders: Their names.
        outputs: Of the classifier; ``None`` checks nothing.

    Raises:
        ValueError: If it cannot be told, or there is no such output.

    Example:
        >>> outputs_of_folders(["10", "9"], 11)
        {'10': 10, '9': 9}
        >>> outputs_of_folders(["dog", "bird"], ["cat", "dog", "bird"])
        {'dog': 1, 'bird': 2}
        >>> outputs_of_folders(["n02", "n01"], ["cat", "dog"])
        {'n01': 0, 'n02': 1}
        >>> outputs_of_folders(["1", "2"], ["1", "2"])
        {'1': 0, '2': 1}
    """
    names = () if outputs is None or isinstance(outputs, int) else outputs
    count = outputs if isinstance(outputs, int) else len(names)
    numbered = all(folder.isascii() and folder.isdecimal() for folder in folders)
    # Classes may have numbers for names, too, from one on for example.
    if numbered and not any(_places(folder, names) for folder in folders):
        found = {folder: int(folder) for folder in folders}
        if outputs is not None and max(found.values()) >= count:
            raise ValueError(
                f"labelled folders named by number must be of the classifier's outputs 0 to "
                f"{count - 1}, got {max(found, key=found.__getitem__)!r}."
            )
    elif any(_places(folder, names) for folder in folders):
        unclear = [folder for folder in folders if len(_places(folder, names)) != 1]
        if unclear:
            raise ValueError(
                f"labelled folders must each have the name of one class, as some have, got "
                f"{unclear[0]!r}. Try numbers."
            )
        found = {folder: _places(folder, names)[0] for folder in folders}
    else:
        if outputs is not None and len(folders) != count:
            few = ", ".join(map(repr, folders[:3])) + (", ..." if len(folders) > 3 else "")
            raise ValueError(
                f"labelled folders must be one for each of the classifier's {count} outputs, got "
                f"{len(folders)}: {few}. Try naming each by its output, from 0 to {count - 1}."
            )
        found = {folder: output for output, folder in enumerate(sorted(folders))}
    if len(set(found.values())) < len(found):
        raise ValueError(f"labelled folders must be one for each output, got {sorted(found)}.")
    return found


def check_labels(labels: Tensor, count: int) -> None:
    """Raise a ValueError unless labels are outputs of a classifier, or -1 for none."""
    if labels.numel() and not -1 <= int(labels.min()) <= int(labels.max()) < count:
        wrong = labels[(labels < -1) | (labels >= count)]
        raise ValueError(
            f"labels must be of the classifier's outputs 0 to {count - 1}, or -1 if not known, got "
            f"{int(wrong[0])}."
        )


def _places(folder: str, names: Sequence[str]) -> list[int]:
    return [i for i, name in enumerate(names) if name.casefold() == folder.casefold()]
