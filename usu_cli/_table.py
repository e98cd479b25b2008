"""A plain-text table."""

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: bool = False) -> str:
    """Lay out ``rows`` under ``header`` with aligned columns and one rule.

    Args:
        header: The columns' names.
        rows: Formatted cells.
        left: Align all columns to the left, for words; figures stand to the right.
    """
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    lines = [_line(row, widths, left) for row in (header, *rows)]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def counted(number: int, what: str) -> str:
    """Return a number and what there is so many of.

    Example:
        >>> counted(1, "image"), counted(2, "image")
        ('1 image', '2 images')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


def _line(row: Sequence[str], widths: Sequence[int], left: bool) -> str:
    first, *others = (
        cell.ljust(width) if left or column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join((first, *others)).rstrip()
