"""Encoded bytes to RGB, the way users of Pillow expect."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageFile, ImageOps

from pipeline.microworld.world import SIDE

from .errors import BadImage
from .micro import PREFIX
from .read import ImageReader
from .samples import refuse_unclear, to_rgb, unread

# The rules of ``decode`` in short, part of a store's identity: other rules get the next number.
DECODING = (
    "2: first frame, EXIF rotation, grey of up to 16 bits scaled to its own white, high byte of "
    "16-bit colours, alpha dropped, colour profiles not applied, unclear numbers refused"
)
PIXEL_LIMIT = 89_478_485  # Pillow's own: a quarter of a gigabyte in RGB
ORIENTATION = 0x0112  # EXIF's
RATIO_LIMIT = 200  # models resize the short side to theirs: a thread of pixels would explode


def read_bytes(row: Mapping[str, Any]) -> bytes:
    """The encoded image of one row of the image table, by one ranged read."""
    with ImageReader(read_ahead=0) as reader:
        return reader.read(row["uri"], row["offset"], row["length"])


def to_image(row: Mapping[str, Any], data: bytes) -> Image.Image:
    """The RGB image of a row from its bytes (which the microworld gives as pixels)."""
    if row["uri"].startswith(PREFIX):
        return Image.frombytes("RGB", (SIDE, SIDE), data)
    return decode(data)


def decode(data: bytes) -> Image.Image:
    """The image in mode RGB.

    What models were trained on is the rule: open_clip's transform, which is Pillow's
    ``convert("RGB")``. It is left where its numbers would not be the picture's.

    - First frame of an animation, first page of a TIFF.
    - EXIF rotation is applied (open_clip leaves such pictures lying).
    - Grey of up to 16 bits is scaled so that its white becomes 255: 65535, or 4095 of 12 bits
      (open_clip cuts off at 255). White is full scale, whatever a PNG's ``sBIT`` or a TIFF's
      ``MaxSampleValue`` say of the values in use; a PGM names it. In a WhiteIsZero TIFF 0 is white.
    - Of 16-bit colours the high byte, within 1 of the scaled value.
    - YCbCr by its subsampling, LAB by way of D50; CMYK, in JPEG as Adobe inverts it, by
      (1 - ink)(1 - black).
    - Transparency is dropped: the colour stored under a transparent pixel shows. Colours stored
      times alpha are divided by it.
    - Colour profiles (Display P3, Adobe RGB, linear, a grey's gamma) and a PNG's ``gAMA`` or
      ``cICP`` are **not** applied: models were trained without, and saw the stored numbers as sRGB.

    Raises
    ------
    BadImage
        With the reason: empty, not an image, truncated or damaged, more than
        ``PIXEL_LIMIT`` pixels, one side more than ``RATIO_LIMIT`` times the other, or
        numbers of which it is not sure what they mean: signed, floating-point or of more
        than 16 bits (no fixed white), a TIFF without photometric interpretation or of other
        inks than CMYK, a CMYK JPEG without Adobe's marker (0 may be full ink or none), a TIFF
        or PSD of a kind that Pillow does not read or takes for another.
    """
    with _damage_told():
        return to_rgb(_stored(data))


def decode_values(data: bytes) -> Image.Image:
    """The same picture as its file holds it: a palette's numbers, grey of 16 bits.

    It is the first frame, upright, and refused as by ``decode``.
    """
    with _damage_told():
        return _stored(data)


def plain_jpeg(data: bytes) -> tuple[int, tuple[int, int]] | None:
    """What there is to know of a JPEG that any decoder reads as Pillow does; None of other files.

    It is one picture, grey or YCbCr of 8 bits, and whole to its end. No pixel is read.

    Returns
    -------
    orientation : int
        As EXIF counts them: 1 is upright.
    size : (int, int)
        Width and height, upright.

    Raises
    ------
    BadImage
        As ``decode`` does, of what a header tells.
    """
    if not (data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")):
        return None
    with _damage_told(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(data)
        refuse_unclear(image, data)
        if image.format != "JPEG" or image.mode not in ("L", "RGB") or _coded_rgb(image):
            return None
        try:
            orientation = image.getexif().get(ORIENTATION, 1)
        except Exception:  # as ``_upright`` has it
            orientation = 1
    width, height = image.size
    if orientation not in range(2, 9):
        return 1, (width, height)
    return orientation, (height, width) if orientation >= 5 else (width, height)


def _coded_rgb(image: Any) -> bool:
    """Whether a JPEG says that its three samples are no YCbCr."""
    said = image.info.get("adobe_transform", 1) == 0
    return bool(said or bytes(layer[0] for layer in image.layer) == b"RGB")


@contextmanager
def _damage_told() -> Iterator[None]:
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # damaged bytes raise nearly anything inside the decoders
        said = " ".join(str(error).split()) or type(error).__name__
        raise BadImage("truncated or damaged", said) from error


def _stored(data: bytes) -> Image.Image:
    if not data:
        raise BadImage("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever matters becomes a reason
        image = _open(data)
        refuse_unclear(image, data)
        _load(image, len(data))
        return _upright(image)


def _open(data: bytes) -> ImageFile.ImageFile:
    try:
        image = Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError as error:
        raise unread(data) from error
    except Image.DecompressionBombError as error:
        raise BadImage("decompression bomb", str(error)) from error
    width, height = image.size
    if width * height > PIXEL_LIMIT:
        raise BadImage(
            "decompression bomb", f"{width} x {height} pixels, the limit is {PIXEL_LIMIT:,}"
        )
    if max(width, height) > RATIO_LIMIT * min(width, height):
        raise BadImage(
            f"one side is over {RATIO_LIMIT} times the other", f"{width} x {height} pixels"
        )
    return image


def _load(image: ImageFile.ImageFile, length: int) -> None:
    """Decode, a JPEG without detours: from all its bytes at once, and by libjpeg to the four bytes
    a pixel that Pillow keeps, which else spreads the three of RGB out itself."""
    if image.format in ("JPEG", "MPO") and image.mode == "RGB":
        image.tile = [tile._replace(args=("RGBX", "")) for tile in image.tile]
        image.decodermaxblock = length
    image.load()


def _upright(image: Image.Image) -> Image.Image:
    try:
        # In place the pixels are turned before the tags are rewritten, which is what fails.
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:
        # Unreadable EXIF is common on the web; the picture itself is whole.
        return image
    return image
