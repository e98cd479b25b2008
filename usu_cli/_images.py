"""Read a picture file as the RGB image a person sees when opening it."""

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from usu_cli._errors import UsageError, one_line, unknown


def read_image(path: Path) -> Image.Image:
    """Read ``path`` upright and in RGB: EXIF orientation applied, transparency over white.

    Raises:
        UsageError: if there is no such file, it is a folder, no picture, or damaged.
    """
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder; give image files")
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        if not siblings:
            raise UsageError(f"no such image file: {str(path)!r}")
        raise unknown(f"image file in {str(path.parent)!r}:", path.name, siblings)
    try:
        # Pillow warns of damaged metadata, which matters little, before it fails on damaged pixels.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise UsageError(f"{str(path)!r} is not an image (no known format recognised)") from None
    # What Pillow's decoders raise on damaged or hostile bytes, besides OSError.
    except (
        OSError,
        SyntaxError,
        ValueError,
        IndexError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise UsageError(f"cannot read image {str(path)!r}: {one_line(error)}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit greys to white instead of scaling them.
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")
