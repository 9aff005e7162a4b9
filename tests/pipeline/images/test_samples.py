"""What an image's numbers mean, against files written by hand whose truth is known."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.images.decode import DECODING, decode
from pipeline.images.errors import BadImage
from tests.pipeline.images.kit import encode
from tests.pipeline.images.tiff_kit import packed, tiff

WIDTH, HEIGHT = SIZE = (6, 4)
SAMPLES, EXTRA, PLANAR, FORMAT, INKS, MAP, SUBSAMPLED = 277, 338, 284, 339, 332, 320, 530
GREY0, GREY1, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8


def numbers(bits: int, *channels: int) -> np.ndarray:
    """Any numbers of so many bits, with black and white among them."""
    values = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH, *channels))
    values[0, 0], values[0, 1] = 0, 2**bits - 1
    return values


def scaled(values: np.ndarray, bits: int) -> np.ndarray:
    """8 bits, white at 255."""
    return np.round(values * (255 / (2**bits - 1)))


def raw(values: np.ndarray, bits: int, order: str = "<") -> bytes:
    return (
        values.astype(f"{order}u{bits // 8}").tobytes() if bits % 8 == 0 else packed(values, bits)
    )


def made(data: bytes) -> np.ndarray:
    return np.asarray(decode(data)).astype(int)


def as_rgb(values: np.ndarray) -> np.ndarray:
    return np.broadcast_to(values.reshape(HEIGHT, WIDTH, -1), (HEIGHT, WIDTH, 3))


@pytest.mark.parametrize("white", [GREY0, GREY1])
@pytest.mark.parametrize(
    ("bits", "order"), [(1, "<"), (2, ">"), (4, "<"), (8, ">"), (12, "<"), (16, "<"), (16, ">")]
)
def test_grey_tiffs_are_as_light_as_they_say_or_refused(bits: int, order: str, white: int) -> None:
    values = numbers(bits)
    data = tiff(raw(values, bits, order), SIZE, {258: bits, 262: white}, order)
    light = scaled(values, bits)
    if white == GREY0 and (bits == 12 or (bits, order) == (16, ">")):
        with pytest.raises(BadImage, match="a TIFF of a kind that is not read: Photometric"):
            decode(data)
        return
    np.testing.assert_array_equal(made(data), as_rgb(light if white == GREY1 else 255 - light))


def test_a_tiffs_own_range_of_values_does_not_change_its_white() -> None:
    values = numbers(16) >> 4
    data = tiff(raw(values, 16), SIZE, {258: 16, 262: GREY1, 281: 4095})
    np.testing.assert_array_equal(made(data), as_rgb(scaled(values, 16)))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_rotation_and_white_is_zero_together(orientation: int) -> None:
    values = numbers(16)
    data = tiff(raw(values, 16), SIZE, {258: 16, 262: GREY0, 274: orientation})
    turned = np.rot90(255 - scaled(values, 16), {1: 0, 3: 2, 6: 3, 8: 1}[orientation])
    np.testing.assert_array_equal(made(data)[..., 0], turned)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("bits", [8, 16])
def test_colours_by_pixel_and_by_plane(bits: int, planar: int, order: str) -> None:
    values = numbers(bits, 3)
    parts = [raw(values[..., c], bits, order) for c in range(3)]
    pixels = raw(values, bits, order) if planar == 1 else parts
    tags = {258: [bits] * 3, 262: RGB, SAMPLES: 3, PLANAR: planar}
    got = made(tiff(pixels, SIZE, tags, order))
    np.testing.assert_array_equal(got, values if bits == 8 else values >> 8)
    assert np.abs(got - scaled(values, bits)).max() <= 1


@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("extra", [None, 0, 1, 2])
def test_a_fourth_sample(extra: int | None, planar: int) -> None:
    values = numbers(8, 4)
    expected = values[..., :3]
    if extra == 1:  # colours times alpha
        values[..., :3] = values[..., :3] * values[..., 3:] // 255
        alpha = np.maximum(values[..., 3:], 1)
        expected = np.where(values[..., 3:] > 0, values[..., :3] * 255 // alpha, 0)
    pixels = raw(values, 8) if planar == 1 else [raw(values[..., c], 8) for c in range(4)]
    tags = {258: [8] * 4, 262: RGB, SAMPLES: 4, PLANAR: planar}
    data = tiff(pixels, SIZE, tags if extra is None else {**tags, EXTRA: extra})
    if extra is None and planar == 2:
        with pytest.raises(BadImage, match="does not say what its fourth sample is"):
            decode(data)
        return
    np.testing.assert_array_equal(made(data), expected)


def test_grey_times_alpha() -> None:
    values = np.full((HEIGHT, WIDTH, 2), (50, 100))
    data = tiff(raw(values, 8), SIZE, {258: [8, 8], 262: GREY1, SAMPLES: 2, EXTRA: 1})
    np.testing.assert_array_equal(made(data), 127)


@pytest.mark.parametrize(("bits", "high"), [(8, 16), (4, 16), (8, 8)])
def test_palettes_of_tiffs_of_16_bits_or_left_at_8(bits: int, high: int) -> None:
    colours = np.random.default_rng(0).integers(0, 2**high, (3, 2**bits))
    values = numbers(bits)
    tags = {258: bits, 262: PALETTE, MAP: colours.ravel().tolist()}
    expected = colours.T[values] >> (high - 8)
    np.testing.assert_array_equal(made(tiff(raw(values, bits), SIZE, tags)), expected)


def test_inks() -> None:
    values = numbers(8, 4)
    tags = {258: [8] * 4, 262: CMYK, SAMPLES: 4}
    light = (255 - values[..., :3]) * (255 - values[..., 3:]) / 255
    np.testing.assert_allclose(made(tiff(raw(values, 8), SIZE, tags)), light, atol=0.51)
    with pytest.raises(BadImage, match="of other inks than cyan, magenta, yellow and black"):
        decode(tiff(raw(values, 8), SIZE, {**tags, INKS: 2}))


def test_a_cmyk_jpeg_says_by_adobes_marker_that_it_is_inverted() -> None:
    data = encode(Image.new("CMYK", (16, 16), (0, 200, 100, 30)), "JPEG", quality=95)
    np.testing.assert_allclose(made(data)[0, 0], (225, 49, 137), atol=2)
    at = data.index(b"\xff\xee")
    (length,) = struct.unpack(">H", data[at + 2 : at + 4])
    with pytest.raises(BadImage, match="a CMYK JPEG without Adobe's marker: 0 may be"):
        decode(data[:at] + data[at + 2 + length :])


@pytest.mark.parametrize("side", [1, 2])
def test_luma_and_chroma_of_tiffs_by_their_subsampling(side: int) -> None:
    y = numbers(8)
    cb, cr = (numbers(7)[::side, ::side] + shift for shift in (0, 100))
    blocks = [
        [*y[r : r + side, c : c + side].ravel(), cb[r // side, c // side], cr[r // side, c // side]]
        for r in range(0, HEIGHT, side)
        for c in range(0, WIDTH, side)
    ]
    tags = {258: [8] * 3, 262: YCBCR, SAMPLES: 3, SUBSAMPLED: [side, side]}
    whole = [y, *(np.kron(x, np.ones((side, side), int)) for x in (cb, cr))]
    luma, blue, red = (x.astype(float) for x in whole)
    light = np.stack(
        [
            luma + 1.402 * (red - 128),
            luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128),
            luma + 1.772 * (blue - 128),
        ],
        axis=2,
    )
    got = made(tiff(bytes(np.concatenate(blocks).astype(np.uint8)), SIZE, tags))
    np.testing.assert_allclose(got, light.clip(0, 255), atol=1.01)


@pytest.mark.parametrize(
    ("lab", "rgb"),
    [((50, 0, 0), (119, 119, 119)), ((100, 0, 0), (255, 255, 255)), ((54, 81, 70), (251, 5, 4))],
)
def test_lab(lab: tuple[int, int, int], rgb: tuple[int, int, int]) -> None:
    pixel = bytes([round(lab[0] * 2.55), lab[1], lab[2]])
    data = tiff(pixel * WIDTH * HEIGHT, SIZE, {258: [8] * 3, 262: LAB, SAMPLES: 3})
    np.testing.assert_allclose(made(data)[0, 0], rgb, atol=1)


FLOAT, SIGNED = 3, 2


@pytest.mark.parametrize(
    ("bits", "tags", "words"),
    [
        (8, {}, "does not say whether 0 is black or white"),
        (8, {262: GREY1, FORMAT: SIGNED}, "no fixed white: TIFF of 8 bits"),
        (16, {262: GREY1, FORMAT: SIGNED}, "no fixed white: TIFF of 16 bits"),
        (32, {262: GREY1, FORMAT: FLOAT}, "no fixed white: TIFF of 32 bits"),
        (32, {262: GREY1}, "without a fixed white: TIFF of 32 bits"),
        (16, {262: GREY1, FORMAT: FLOAT}, r"not read: PhotometricInterpretation 1, .*\(16,\)"),
        (8, {262: 32803}, "a TIFF of a kind that is not read: PhotometricInterpretation 32803"),
        (8, {262: 9, SAMPLES: 3, 258: [8] * 3}, "a kind that is not read: Photo.* 9"),
        (8, {262: RGB, SAMPLES: 3, 258: [8] * 3, FORMAT: [2] * 3}, "not read: .*SampleFormat"),
        (8, {262: GREY1, SAMPLES: 3, 258: [8] * 3}, r"a kind that is not read: .*\(8, 8, 8\)"),
    ],
)
def test_tiffs_that_leave_open_what_they_mean(bits: int, tags: dict, words: str) -> None:
    samples = tags.get(SAMPLES, 1)
    pixels = bytes(WIDTH * HEIGHT * samples * bits // 8)
    with pytest.raises(BadImage, match=words):
        decode(tiff(pixels, SIZE, {258: bits, **tags}))


@pytest.mark.parametrize("white", [1, 99, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", [b"P5", b"P2", b"P6"])
def test_a_pgm_names_its_white(kind: bytes, white: int) -> None:
    channels = (3,) if kind == b"P6" else ()
    values = np.random.default_rng(white).integers(0, white + 1, (HEIGHT, WIDTH, *channels))
    body = values.astype(">u2" if white > 255 else "u1").tobytes()
    if kind == b"P2":
        body = " ".join(map(str, values.ravel())).encode() + b"\n"
    got = made(kind + b"\n6 4\n%d\n" % white + body)
    np.testing.assert_array_equal(got, as_rgb(np.round(values * (255 / white))))


def png(bits: int, colour: int, values: np.ndarray, **chunks: bytes) -> bytes:
    def chunk(name: str, data: bytes) -> bytes:
        named = name.encode() + data
        return struct.pack(">I", len(data)) + named + struct.pack(">I", zlib.crc32(named))

    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + raw(row[None], bits, ">") for row in values))
    parts = [("IHDR", head), *chunks.items(), ("IDAT", rows), ("IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_pngs_are_full_scale_whatever_bits_count(bits: int) -> None:
    values = numbers(bits)
    for chunks in ({}, {"sBIT": bytes([min(bits, 12)])}, {"tRNS": struct.pack(">H", values[0, 0])}):
        np.testing.assert_array_equal(
            made(png(bits, 0, values, **chunks)), as_rgb(scaled(values, bits))
        )


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colour_and_alpha_of_pngs(colour: int, channels: int, bits: int) -> None:
    values = numbers(bits, channels)
    shown = values[..., :1] if channels == 2 else values[..., :3]
    got = made(png(bits, colour, values.reshape(HEIGHT, -1)))
    np.testing.assert_array_equal(got, as_rgb(shown >> (bits - 8)))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_pngs_with_and_without_alpha(bits: int) -> None:
    colours = np.random.default_rng(bits).integers(0, 256, (2**bits, 3), np.uint8)
    values = numbers(bits)
    for alpha in ({}, {"tRNS": bytes(range(0, 2**bits, max(1, 2**bits // 16)))}):
        data = png(bits, 3, values, PLTE=colours.tobytes(), **alpha)
        np.testing.assert_array_equal(made(data), colours[values])


def test_profiles_and_gammas_are_not_applied() -> None:
    values = numbers(8, 3)
    flat = values.reshape(HEIGHT, -1)
    icc = b"linear\0\0" + zlib.compress(b"\0" * 128)
    for chunks in ({"gAMA": struct.pack(">I", 100_000)}, {"cICP": b"\x09\x10\0\1"}, {"iCCP": icc}):
        np.testing.assert_array_equal(made(png(8, 2, flat, **chunks)), values)


def psd(mode: int, planes: np.ndarray, bits: int = 8) -> bytes:
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, len(planes), HEIGHT, WIDTH, bits, mode)
    return head + bytes(12) + bytes(2) + b"".join(raw(plane, bits) for plane in planes)


def test_photoshop_files() -> None:
    planes = np.moveaxis(numbers(8, 4), 2, 0)
    np.testing.assert_array_equal(made(psd(3, planes[:3])), np.moveaxis(planes[:3], 0, 2))
    light = planes[:3] * planes[3:] / 255  # no ink is 255
    np.testing.assert_allclose(made(psd(4, planes)), np.moveaxis(light, 0, 2), atol=0.51)
    for mode, data in ((7, psd(7, planes)), (0, psd(0, numbers(1)[None], bits=1))):
        with pytest.raises(BadImage, match="a PSD of one bit, or of channels that are no"):
            pytest.fail(f"mode {mode} gives {made(data)}")


def test_what_only_looks_like_a_picture_is_not_run_through_another_program() -> None:
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    assert Image.open(io.BytesIO(page)).format == "EPS"
    with pytest.raises(BadImage, match="no picture but a description or a table: EPS"):
        decode(page)


def test_a_jpeg_of_12_bits_says_so() -> None:
    data = encode(Image.new("L", (8, 8)), "JPEG")
    at = data.index(b"\xff\xc0") + 4
    with pytest.raises(BadImage, match="a JPEG of a kind that is not read: .*12-bit"):
        decode(data[:at] + bytes([12]) + data[at + 1 :])


def test_other_rules_get_another_number() -> None:
    """Where this fails, rules have changed: give ``DECODING`` the next number, and this its sum."""
    files = [
        *(tiff(raw(numbers(b), b), SIZE, {258: b, 262: w}) for b in (1, 4, 8, 16) for w in (0, 1)),
        tiff(raw(numbers(12), 12), SIZE, {258: 12, 262: GREY1}),
        tiff(raw(numbers(16, 3), 16), SIZE, {258: [16] * 3, 262: RGB, SAMPLES: 3}),
        tiff(raw(numbers(8, 4), 8), SIZE, {258: [8] * 4, 262: CMYK, SAMPLES: 4}),
        tiff(raw(numbers(8), 8), SIZE, {258: 8, 262: GREY1, 274: 6}),
        png(8, 3, numbers(8), PLTE=bytes(range(256)) * 3, tRNS=bytes(256)),
        png(16, 6, numbers(16, 4).reshape(HEIGHT, -1)),
    ]
    pixels = b"".join(np.asarray(decode(data)).tobytes() for data in files)
    assert (DECODING[:2], hashlib.sha256(pixels).hexdigest()[:16]) == ("2:", "2db0c26bd421ec32")
