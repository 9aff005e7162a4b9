"""The ways from files to pixels: exact is Pillow's own, fast is near it, and none meets another."""

import io
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from pipeline.images import fast
from pipeline.images.decode import DECODING, decode
from pipeline.images.decoding import DECODINGS, WAYS, decode_of, refuse_other_decode
from pipeline.images.errors import BadImage
from pipeline.images.load import load_rows
from pipeline.images.resize import FILTER, MODES, Resize
from storage.errors import StoreMismatch
from tests.pipeline.images.kit import encode, listed, photograph

# Of 255: torch's weights have fewer bits than Pillow's, which resizes some pictures' height first.
FAR = 4


def plain(data: bytes) -> Image.Image:
    """As Pillow opens a file that nobody helps it with."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return ImageOps.exif_transpose(image).convert("RGB")


def said(function, data: bytes) -> Image.Image | str:
    """The picture, or why there is none."""
    try:
        return function(data)
    except (OSError, BadImage) as error:
        return str(error)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)) | st.just((420, 310)),
    mode=st.sampled_from(["RGB", "L"]),
    options=st.fixed_dictionaries(
        {"quality": st.integers(5, 75), "progressive": st.booleans(),
         "subsampling": st.sampled_from([0, 1, 2]), "keep_rgb": st.booleans(),
         "restart_marker_rows": st.sampled_from([0, 1])}
    ),
    cut=st.none() | st.floats(0.3, 1),
    orientation=st.integers(1, 8),
)  # fmt: skip
def test_exact_is_what_pillow_alone_makes_of_a_jpeg(size, mode, options, cut, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Noise, so that the larger one is over the 64 KiB that Pillow takes at a time.
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    if options["keep_rgb"]:
        options = {**options, "subsampling": 0}
    # Pillow's encoder has room for pictures, and noise takes more.
    with patch.object(ImageFile, "MAXBLOCK", 1 << 20):
        data = encode(Image.fromarray(noise).convert(mode), "JPEG", exif=exif, **options)
    data = data if cut is None else data[: int(cut * len(data))]
    ours, theirs = said(decode, data), said(plain, data)
    if isinstance(theirs, str):
        assert theirs in ours or ours.startswith("not an image")
    else:
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_exact_photographs_are_what_pillow_alone_makes_of_them(shared: Path):
    resize = Resize(224, 224, "bicubic", "shortest", 0)
    files = sorted((shared / "data" / "imagenet_sample").rglob("*.JPEG"))[::20]
    assert files
    for file in files:
        theirs = plain(file.read_bytes())
        ours = decode(file.read_bytes())
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
        whole = np.asarray(theirs.resize(resize.size_of(*theirs.size), Image.Resampling.BICUBIC))
        top, left = ((n - 224) / 2 for n in whole.shape[:2])
        top, left = round(top), round(left)
        assert np.array_equal(resize(ours), whole[top : top + 224, left : left + 224])


@settings(max_examples=60, deadline=None)
@given(
    picture=st.tuples(st.integers(9, 100), st.integers(9, 100)),
    size=st.tuples(st.integers(12, 60), st.integers(12, 60)) | st.just((32, 32)),
    interpolation=st.sampled_from(sorted(FILTER)),
    mode=st.sampled_from(MODES),
    crop=st.sampled_from([1.0, 0.875, 1.1]),
)
def test_fast_is_near_exact(picture, size, interpolation, mode, crop):
    image = photograph(picture, seed=sum(picture))
    of = (*size, interpolation, mode, (1, 2, 3), crop)
    exact, near = Resize(*of)(image), Resize(*of, "fast")(image)
    assert near.shape == exact.shape == (*size, 3)
    away = np.abs(near.astype(int) - exact)
    assert away.max() <= FAR
    if interpolation not in ("bicubic", "bilinear", "random"):
        assert not away.any() or mode == "shortest"  # not torch's, but for open_clip's own choice


@settings(max_examples=60, deadline=None)
@given(
    picture=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    mode=st.sampled_from(["bicubic", "bilinear"]),
)
def test_fast_is_pillows_resize_of_widths_then_heights(picture, size, mode):
    (height, width), kind = size, FILTER[mode]
    image = photograph(picture, seed=sum(picture))
    theirs = image.resize((width, picture[0]), kind).resize((width, height), kind)
    away = np.abs(fast.resized(image, (width, height), mode).astype(int) - np.asarray(theirs))
    assert away.max() <= 2
    assert away.mean() <= max(0.02, 2 / away.size)


def test_fast_reads_a_picture_where_it_lies_or_copies_it():
    small, large = (Image.new("RGB", (side, side), (1, 2, 3)) for side in (40, 2100))
    assert fast.seen(small).shape == (40, 40, 4)
    assert fast.seen(large).shape == (2100, 2100, 3)  # over 16 MiB
    for image in (small, large):
        assert (fast.seen(image)[..., :3] == (1, 2, 3)).all()
        assert (fast.resized(image, (7, 5), "bicubic") == np.full((5, 7, 3), (1, 2, 3))).all()


def test_every_way_has_the_same_images_and_the_same_bad_ones(tmp_path: Path):
    """JPEGs, whole and cut, of all kinds, among others."""
    image, exif = photograph((60, 80), 1), Image.Exif()
    exif[0x0112] = 6
    inks = image.convert("CMYK")
    whole = {
        "plain.jpg": encode(image, "JPEG"),
        "progressive.jpg": encode(image, "JPEG", progressive=True),
        "lying.jpg": encode(image, "JPEG", exif=exif),
        "grey.jpg": encode(image.convert("L"), "JPEG"),
        "inks.jpg": encode(inks, "JPEG"),
        "rgb.jpg": encode(image, "JPEG", keep_rgb=True),
        "palette.png": encode(image.quantize(16)),
        "deep.png": encode(Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80) * 13)),
        "alpha.webp": encode(image.convert("RGBA"), "WEBP", lossless=True),
    }
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / f"cut_{name}").write_bytes(data[: len(data) // 2])
    (tmp_path / "corrupt.jpg").write_bytes(
        whole["plain.jpg"][:700] + b"\x55" * 40 + whole["plain.jpg"][740:]
    )
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    rows = listed(tmp_path)
    of = (32, 32, "bicubic", "shortest", 0, 1.0)
    exact, *others = [load_rows(rows, Resize(*of, way), (32, 32)) for way in ("exact", "fast")]
    assert exact.ok.sum() == (~exact.ok).sum() == len(whole) + 1
    for found in others:
        for name in ("error", "sha256", "width", "height"):
            assert getattr(found, name) == getattr(exact, name), name
        assert found.ok.tolist() == exact.ok.tolist()
        assert np.abs(found.pixels.astype(int) - exact.pixels).max() <= FAR


def test_identities_tell_the_ways_apart_and_old_stores_are_exact():
    assert DECODINGS["exact"] == DECODING
    assert len(set(DECODINGS.values())) == len(WAYS)
    for way in WAYS:
        assert decode_of({"decoding": DECODINGS[way]}) == way
        for asked in (None, way):
            refuse_other_decode("store", {"decoding": DECODINGS[way]}, asked)
    for before in ({}, {"decoding": "1: other rules"}):
        assert decode_of(before) == "exact"
    with pytest.raises(StoreMismatch, match="`decode` exact: .*store were read with `decode` fast"):
        refuse_other_decode("store", {"decoding": DECODINGS["fast"]}, "exact")
