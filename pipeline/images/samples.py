"""What an image's stored numbers mean: which is black, which is white, which colour.

Pillow's modes do not tell, and Pillow takes some numbers for what they are not. Where a file
says what its numbers mean, that is followed; where it does not, the image is bad.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, TiffImagePlugin
from PIL.TiffTags import TAGS_V2

from .errors import BadImage

# Pillow's own reader takes planes of 16 bits for 8 and subsampled YCbCr for whole; libtiff, which
# Pillow otherwise asks for compressed files alone, reads both rightly.
TiffImagePlugin.READ_LIBTIFF = True

# Formats whose 16-bit grey goes from black at 0 to white at full scale.
FULL_SCALE = ("PNG", "TIFF", "PPM", "JPEG2000")
BITS, PHOTOMETRIC, PLANAR, COLOUR_MAP, INK_SET = 258, 262, 284, 320, 332
EXTRA, FORMAT = 338, 339
WHITE_IS_ZERO, CMYK_INKS, UNSIGNED, BY_PLANE = 0, 1, 1, 2
# Photoshop's modes that Pillow takes for grey: one bit, of which 1 is black; channels that are no
# colours.
PSD_UNCLEAR = (0, 7)


def refuse_unclear(image: Image.Image, data: bytes) -> None:
    """Raise ``BadImage`` if the header leaves open what the numbers mean, or says that none of
    them is a fixed white; no pixel is read for it.

    Parameters
    ----------
    image : Image
        Opened, not yet loaded.
    data : bytes
        What it was opened from.
    """
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    if image.format == "EPS" or isinstance(image, ImageFile.StubImageFile):
        raise BadImage("no picture but a description or a table", str(image.format))
    if image.format == "TIFF":
        if PHOTOMETRIC not in tags:
            raise BadImage("a TIFF that does not say whether 0 is black or white")
        if tags.get(INK_SET, CMYK_INKS) != CMYK_INKS:
            raise BadImage("a TIFF of other inks than cyan, magenta, yellow and black")
        if image.mode == "RGBA" and EXTRA not in tags and tags.get(PLANAR) == BY_PLANE:
            # Taken for alpha that colours are to be divided by; pixel by pixel it is left alone.
            raise BadImage("a TIFF that does not say what its fourth sample is")
    if image.format in ("JPEG", "MPO") and image.mode == "CMYK" and "adobe" not in image.info:
        raise BadImage("a CMYK JPEG without Adobe's marker", "0 may be full ink or none")
    if image.format == "PSD" and int.from_bytes(data[24:26], "big") in PSD_UNCLEAR:
        raise BadImage("a PSD of one bit, or of channels that are no colours")
    if any(sample != UNSIGNED for sample in tags.get(FORMAT, ())) or image.mode == "F":
        raise BadImage("signed or floating-point numbers have no fixed white", _described(image))
    grey = image.mode == "I" or image.mode.startswith("I;16")
    if grey and (image.format not in FULL_SCALE or tags.get(BITS, (16,))[0] > 16):
        raise BadImage("numbers of more than 8 bits without a fixed white", _described(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB; its header has passed ``refuse_unclear``."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow spreads 16-bit PGM over 0..65535 by itself, and gives no other grey of 32 bits.
        white = 2 ** tags[BITS][0] - 1 if tags else 65535
        values = np.asarray(image).astype(np.uint32)
        if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
            values = white - values
        image = Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
    if image.mode == "P" and tags and max(tags[COLOUR_MAP]) < 256:
        # Colours are to have 16 bits; those that writers left at 8 would all be black.
        colours = np.array(tags[COLOUR_MAP], np.uint8).reshape(3, -1)
        image.putpalette(colours.T.tobytes())
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "La":  # colours times alpha
        image = image.convert("LA")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def unread(data: bytes) -> BadImage:
    """Why bytes that Pillow does not take for an image are bad."""
    if data.startswith((b"II*\0", b"MM\0*")) and (tags := _tiff_tags(data)):
        names = (PHOTOMETRIC, BITS, FORMAT, EXTRA)
        said = ", ".join(f"{TAGS_V2[n].name} {tags[n]}" for n in names if n in tags)
        return BadImage("a TIFF of a kind that is not read", said)
    if data.startswith(b"\xff\xd8"):
        try:
            JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        except Exception as error:
            if "bit layers" in str(error):
                return BadImage("a JPEG of a kind that is not read", str(error))
    return BadImage("not an image, or cut in its first bytes", f"it begins with {data[:12]!r}")


def _described(image: Image.Image) -> str:
    if image.format == "TIFF":
        return f"TIFF of {image.tag_v2[BITS][0]} bits"  # type: ignore[attr-defined]
    return f"{image.format}, mode {image.mode}"


def _tiff_tags(data: bytes) -> dict[int, Any]:
    try:
        file = io.BytesIO(data)
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        return dict(tags)
    except Exception:  # damaged bytes raise nearly anything
        return {}
