"""Read a picture file as the RGB image a person sees when opening it."""

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

DAMAGE = (
    OSError, SyntaxError, ValueError, IndexError, struct.error, Image.DecompressionBombError
)  # fmt: skip
"""What Pillow's decoders raise on damaged or hostile bytes."""

_SIXTEEN_BITS = 257  # 65535 / 255
# Of these, Pillow gives 16-bit greys as 32-bit numbers, in the full range of 16 bits.
_WIDENED = ("PNG", "PPM")


def read_picture(path: Path) -> Image.Image:
    """Read ``path`` upright and in RGB: EXIF orientation applied, transparency over white.

    Greys of 16 bits are scaled to 8. Pillow's own conversion would clip them to white.

    Raises:
        ValueError: If its greys are 32-bit or floating-point numbers, whose range no file states.
        OSError: If it cannot be opened. Damaged or hostile bytes raise what else Pillow's decoders
            do: see ``DAMAGE``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("LA", (8, 6), (0, 0)).save(Path(folder) / "clear.png")
        ...     picture = read_picture(Path(folder) / "clear.png")
        >>> picture.size, picture.getpixel((0, 0))
        ((8, 6), (255, 255, 255))
    """
    # Pillow warns of damaged metadata, which matters little, before it fails on damaged pixels.
    with warnings.catch_warnings(action="ignore"), Image.open(path) as opened:
        opened.load()
        return _rgb(in_eight_bits(ImageOps.exif_transpose(opened), opened.format))


def in_eight_bits(image: Image.Image, kind: str | None) -> Image.Image:
    """Return an opened picture with deep greys scaled to 8 bits, any other as it is.

    Args:
        image: The picture.
        kind: Its file's format, as Pillow names it.

    Raises:
        ValueError: If its greys are 32-bit or floating-point numbers.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in _WIDENED):
        return Image.fromarray((np.asarray(image) // _SIXTEEN_BITS).astype(np.uint8))
    if image.mode in ("I", "F"):
        numbers = "32-bit" if image.mode == "I" else "floating-point"
        raise ValueError(
            f"picture must not have {numbers} greys, which say not what white is. Try saving it "
            "with 8 or 16 bits"
        )
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")
