"""Read the pictures that a command line names, as training reads them."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from usu_captum.ranking._pictures import DAMAGE, read_picture
from usu_cli._errors import UsageError, one_line, unknown


def read_image(path: Path) -> Image.Image:
    """Read ``path`` upright and in RGB: EXIF orientation applied, transparency over white.

    Raises:
        UsageError: if there is no such file, it is a folder, no picture, damaged, or has greys of
            no known range.
    """
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder; give image files")
    if path.is_symlink() and not path.exists():
        raise UsageError(f"{str(path)!r} is a link to {str(path.readlink())!r}, which is not there")
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        if not siblings:
            raise UsageError(f"no such image file: {str(path)!r}")
        raise unknown(f"image file in {str(path.parent)!r}:", path.name, siblings)
    try:
        return read_picture(path)
    except UnidentifiedImageError:
        raise UsageError(f"{str(path)!r} is not an image (no known format recognised)") from None
    except DAMAGE as error:
        raise UsageError(f"cannot read image {str(path)!r}: {one_line(error)}") from error


def utf8(name: str) -> str:
    r"""Return a file's name with what is not UTF-8 in it spelled out, so that it can be written.

    Example:
        >>> utf8("a\udcff.png")
        'a\\udcff.png'
    """
    return name.encode("utf-8", "backslashreplace").decode()
