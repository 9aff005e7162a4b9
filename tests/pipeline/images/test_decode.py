"""Hostile image bytes: each decodes as Pillow users expect, or says why it does not."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipeline.images.decode import PIXEL_LIMIT, RATIO_LIMIT, decode
from pipeline.images.errors import BadImage
from tests.pipeline.images.kit import encode, picture, png


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims to be this large, in a few dozen bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"<html>404 not found</html>", "not an image, .*: it begins with b'<html>404 no'"),
        (encode(picture(0, 64, 64), "JPEG")[:-500], "truncated or damaged: .*truncated"),
        (png(0)[:90], "truncated or damaged"),
        (encode(picture(0, 64, 64), "WEBP")[:200], "truncated or damaged|not an image"),
        (encode(picture(0, 64, 64), "GIF")[:300], "not an image, or cut in its first bytes"),
        (encode(picture(0, 64, 64), "GIF")[:-900], "truncated or damaged"),
        (png_of_size(50_000, 50_000), "decompression bomb: .*2500000000 pixels"),
        (png_of_size(10_000, 9_000), r"decompression bomb: 10000 x 9000 pixels, the limit is"),
        (
            encode(Image.new("RGB", (1, 201))),
            "one side is over 200 times the other: 1 x 201 pixels",
        ),
        (encode(Image.new("F", (4, 4)), "TIFF"), "no fixed white: TIFF of 32 bits"),
    ],
)
def test_what_cannot_be_decoded_says_why_in_one_line(data: bytes, words: str) -> None:
    with pytest.raises(BadImage, match=words) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


def test_the_limits_are_the_documented_ones() -> None:
    assert PIXEL_LIMIT == Image.MAX_IMAGE_PIXELS
    assert decode(encode(Image.new("L", (RATIO_LIMIT, 1)))).size == (RATIO_LIMIT, 1)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGBA", "P", "CMYK", "YCbCr", "RGB"])
def test_every_mode_becomes_what_pillow_makes_of_it(mode: str) -> None:
    original = picture(1, 32, 24).convert(mode)
    data = encode(original, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG")
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    got = decode(data)
    assert got.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))


def test_palette_with_alpha_keeps_the_colour_under_transparency() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    data = encode(palette, transparency=bytes([0, 128, 255]))
    assert Image.open(io.BytesIO(data)).mode == "P"
    assert np.asarray(decode(data)).tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(format: str) -> None:
    values = np.array([[0, 257, 32_768, 65_535]], np.uint16)
    grey = np.asarray(decode(encode(Image.fromarray(values), format)))[0, :, 0]
    assert grey.tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(2, 8, 6), exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert decode(data).size == ((6, 8) if orientation >= 5 else (8, 6))
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(expected))


def test_unreadable_exif_does_not_lose_the_picture() -> None:
    data = encode(picture(2, 16, 8), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x01")
    assert decode(data).size == (16, 8)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert decode(data).getpixel((4, 4)) == (255, 0, 0)


def test_one_pixel_is_an_image() -> None:
    assert decode(encode(Image.new("RGB", (1, 1), "red"))).getpixel((0, 0)) == (255, 0, 0)


@settings(max_examples=30)
@given(st.data())
def test_damage_never_raises_anything_but_bad_image(data: st.DataObject) -> None:
    format = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]))
    damaged = bytearray(encode(picture(3, 32, 32), format))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadImage):
        assert decode(bytes(damaged[: data.draw(st.integers(0, len(damaged)))])).mode == "RGB"
