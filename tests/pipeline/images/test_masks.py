"""Masks: what their numbers say, whose they are, and on which pixels of the input they come out."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from pipeline.images import masks as masks_module
from pipeline.images.errors import BadImage, SourceError
from pipeline.images.mask_values import IGNORED, mask_of
from pipeline.images.masks import (
    PROTOCOLS,
    MaskSource,
    check_masks,
    parse_masks,
)
from pipeline.images.resize import MODES, PADDED, Resize
from pipeline.microworld.draw import picture as micro_picture
from storage.errors import StoreError
from tests.pipeline.images.kit import Listed, encode, listed, masks_of, picture

SIDE = 64
SQUARE = Resize(SIDE, SIDE, "bicubic", "shortest", 0)


def saved(folder: Path, name: str, image: Image.Image, **options: object) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **options)


def palette(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values.astype(np.uint8), mode="P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    return image


# -- what numbers say --------------------------------------------------------------------------


def grid(*values: int, dtype: type = np.uint8) -> np.ndarray:
    """A picture that holds these numbers, row by row."""
    return np.array([values, values[::-1]], dtype)


@pytest.mark.parametrize(
    ("image", "first_row"),
    [
        (Image.fromarray(grid(0, 255, 0)), [0, 1, 0]),
        (Image.fromarray(grid(0, 1, 1)), [0, 1, 1]),
        (Image.fromarray(grid(0, 17, 0)), [0, 1, 0]),
        (Image.fromarray(grid(0, 0, 0)), [0, 0, 0]),
        (Image.fromarray(grid(255, 255, 255)), [1, 1, 1]),
        (Image.fromarray(grid(0, 1, 255)), [0, 1, 255]),
        (Image.fromarray(grid(1, 1, 255)), [1, 1, 255]),
        (Image.fromarray(grid(0, 255, 0)).convert("1"), [0, 1, 0]),
        (Image.fromarray(grid(0, 65535, 0, dtype=np.uint16)), [0, 1, 0]),
        (Image.fromarray(grid(0, 1, 255, dtype=np.uint16)), [0, 1, 255]),
        (Image.fromarray(grid(0, 255, 0)).convert("RGB"), [0, 1, 0]),
        (Image.fromarray(grid(0, 255, 0)).convert("RGBA"), [0, 1, 0]),
        (palette(grid(0, 15, 255)), [0, 1, 255]),
        (palette(grid(0, 1, 20)), [0, 1, 1]),
        (palette(grid(3, 3, 0)), [1, 1, 0]),
    ],
)
def test_numbers_of_a_mask(tmp_path: Path, image: Image.Image, first_row: list[int]) -> None:
    """Through a file, as Pillow may read another mode than was written."""
    saved(tmp_path, "pictures/a.png", picture(0, 3, 2))
    saved(tmp_path, "masks/a.png", image)
    source = parse_masks(str(tmp_path / "masks"))
    resize = Resize(2, 3, "bicubic", "squash", 0)
    found = masks_of(listed(tmp_path / "pictures"), source, resize, "aligned")
    assert found.error == [None]
    np.testing.assert_array_equal(found.masks["aligned"][0], [first_row, first_row[::-1]])


COLOURS = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.fromarray(grid(0, 128, 255)), "several levels of grey: 0, 128, 255; write 0, 1"),
        (Image.fromarray(grid(1, 2, 2)), "several levels of grey: 1, 2"),
        (Image.fromarray(grid(0, 1, 65535, dtype=np.uint16)), "several levels of grey: 0, 1, 6553"),
        (Image.fromarray(grid(*range(9))), "0, 1, 2, 3, 4, 5, …;"),
        (palette(grid(0, 255, 255)), "a palette's 255 and no other object"),
        (palette(grid(255, 255, 255)), "a palette's 255 and no other object"),
        (COLOURS, "a mask of colours"),
        (COLOURS.convert("CMYK"), "a mask of colours: mode CMYK"),
        (Image.fromarray(grid(0, 1, 1)).convert("LA").point(lambda v: v // 2), "transparency"),
    ],
)
def test_what_could_mean_this_or_that_is_refused(image: Image.Image, words: str) -> None:
    with pytest.raises(BadImage, match=words):
        mask_of(image)


# -- on the same pixels ------------------------------------------------------------------------


@st.composite
def geometries(draw: st.DrawFn) -> tuple[Resize, tuple[int, int], int]:
    """A resize of any mode, a picture's size, a seed."""
    height = draw(st.integers(3, 40))
    width = draw(st.one_of(st.just(height), st.integers(3, 40)))
    mode = draw(st.sampled_from(MODES))
    crop = draw(st.sampled_from([1.0, 0.8] if mode in PADDED else [1.0, 0.8, 1.15]))
    resize = Resize(height, width, "bilinear", mode, 100, crop)
    short = draw(st.integers(1, 60))
    long = draw(st.one_of(st.just(3 * short), st.integers(1, 120)))
    width, height = draw(st.permutations([short, long]))
    # A thread of pixels is rounded to nothing.
    assume(mode not in PADDED or 2 * min(width, height) * 3 > max(width, height))
    return resize, (width, height), draw(st.integers(0, 2**31))


def blocks(size: tuple[int, int], seed: int) -> np.ndarray:
    """0 and 1 in rectangles of any size, single pixels among them."""
    rng = np.random.default_rng(seed)
    y, x = (np.sort(rng.integers(0, n, (3, 2)), axis=1) for n in size[::-1])
    mask = np.zeros(size[::-1], np.uint8)
    for (top, bottom), (left, right) in zip(y, x, strict=True):
        mask[top : bottom + 1, left : right + 1] ^= 1
    return mask


@given(geometries())
def test_a_picture_that_is_its_own_mask_comes_out_on_the_same_pixels(geometry: tuple) -> None:
    """Where bilinear gives pure white, all it was made from was white, the nearest pixel too."""
    resize, size, seed = geometry
    mask = blocks(size, seed)
    grey = Image.fromarray(mask * np.uint8(255))
    if resize.mode == "shortest" and resize.height != resize.width:
        # Bicubic, which weighs pixels negatively as well: the same by hand.
        shown = resize.mask(grey.resize(resize.size_of(*grey.size), Image.Resampling.BILINEAR), 100)
        placed = Resize(resize.height, resize.width, "bilinear", "shortest", 0, resize.crop)
        found = placed.mask(Image.fromarray(mask), IGNORED)
    else:
        shown = resize(grey.convert("RGB"))[..., 0]
        found = resize.mask(Image.fromarray(mask), IGNORED)
    assert found.shape == shown.shape == (resize.height, resize.width)
    np.testing.assert_array_equal(found[shown == 255], 1)
    inside = found != IGNORED
    np.testing.assert_array_equal(found[inside & (shown == 0)], 0)
    if resize.mode not in PADDED:
        return
    # What is padding in the one is ignored in the other.
    padding = np.asarray(resize(Image.new("RGB", size))) == 100
    np.testing.assert_array_equal(padding[..., 0], ~inside)


@given(geometries())
def test_every_pixel_has_the_value_of_the_one_below_its_middle(geometry: tuple) -> None:
    resize, (width, height), seed = geometry
    values = np.random.default_rng(seed).integers(0, 250, (height, width)).astype(np.uint8)
    image = Image.fromarray(values)
    found = resize.mask(image, IGNORED)
    to_x, to_y = resize.size_of(*image.size)
    left, top = ((n - m) / 2 for n, m in ((to_x, resize.width), (to_y, resize.height)))
    slack = 1e-6
    for y in range(resize.height):
        for x in range(resize.width):
            if found[y, x] == IGNORED:  # outside, to the pixel that half sizes are rounded to
                assert not (1 < x + left < to_x - 2 and 1 < y + top < to_y - 2)
                continue
            # Rounded to a whole pixel, either way; and the two pixels that a middle lies between.
            around = [
                {
                    int(np.clip((at + rounded + 0.5) * n / to + by, 0, n - 1))
                    for rounded in (np.floor(edge), np.ceil(edge))
                    for by in (-slack, slack)
                }
                for at, edge, n, to in ((y, top, height, to_y), (x, left, width, to_x))
            ]
            assert found[y, x] in {values[i, j] for i in around[0] for j in around[1]}


def centre(weights: np.ndarray) -> np.ndarray:
    """The middle of what is there, (x, y), in pixels."""
    y, x = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
    return np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()


@pytest.mark.parametrize("size", [(192, 64), (64, 192), (301, 101), (101, 303), (64, 64)])
def test_the_published_protocol_stretches_the_mask_and_aligned_does_not(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    """An object off the middle: where it is in the picture, and where either mask says."""
    width, height = size
    mask = np.zeros((height, width), np.uint8)
    at = np.array([width // 2 + 12, height // 2 - 9])
    mask[at[1] - 6 : at[1] + 6, at[0] - 6 : at[0] + 6] = 255
    saved(tmp_path, "pictures/a.png", Image.fromarray(mask).convert("RGB"))
    saved(tmp_path, "masks/a.png", Image.fromarray(mask))
    rows = listed(tmp_path / "pictures")
    found = masks_of(rows, parse_masks(str(tmp_path / "masks")), SQUARE)
    assert found.error == [None]
    shown = SQUARE(Image.open(tmp_path / "pictures" / "a.png"))[..., 0]
    seen = {name: centre(masks[0] == 1) for name, masks in found.masks.items()}
    # Half a pixel: the nearest one has no halves, and a crop is cut at whole ones.
    np.testing.assert_allclose(seen["aligned"], centre(shown / 255.0), atol=0.5)
    scale = SIDE / min(size)
    cropped = (np.array(size) * scale - SIDE) / 2
    np.testing.assert_allclose(seen["aligned"], at * scale - cropped, atol=0.6)
    np.testing.assert_allclose(seen["published"], at * SIDE / np.array(size), atol=0.6)
    shift = np.abs(seen["published"] - seen["aligned"]).max()
    # Its distance from the middle, less what stretching leaves of it.
    from_middle = np.abs(at - np.array(size) / 2) * scale * (1 - min(size) / np.array(size))
    assert shift == pytest.approx(from_middle.max(), abs=1)
    assert (shift > 3) == (width != height)


# -- whose they are ----------------------------------------------------------------------------


def test_masks_of_a_folder_by_key_whatever_the_suffixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, masks = tmp_path / "pictures", tmp_path / "masks"
    for i, name in enumerate(("n1/x.JPEG", "n1/y.v2.png", "n2/x.png", "n3/q.png", "z.webp")):
        saved(pictures, name, picture(i, 6, 4))
    for i, name in enumerate(("n1/x.png", "n1/y.v2.PNG", "n1/y.png", "n2/x.gif", "n2/x.txt")):
        values = np.zeros((4, 6), np.uint8)
        values[0, i] = 1
        if not name.endswith(".txt"):
            saved(masks, name, Image.fromarray(values))
    (masks / "n2" / "x.txt").write_text("no mask")
    rows, source = listed(pictures), parse_masks(str(masks))
    monkeypatch.setattr(masks_module, "ROWS_PER_IMAGE_PART", 1)  # the first has none
    check_masks(Listed(rows), source)
    resize = Resize(4, 6, "bicubic", "squash", 0)
    found = masks_of(rows, source, resize, "published")
    assert dict(zip(rows["key"].to_pylist(), found.error, strict=True)) == {
        "n1/x.JPEG": None,
        "n1/y.v2.png": None,
        "n2/x.png": None,
        "n3/q.png": f"no mask: {masks}/n3/q.*",
        "z.webp": f"no mask: {masks}/z.*",
    }
    assert found.masks["published"].shape == (5, 4, 6)
    assert {key: int(mask[0].argmax()) for key, mask in zip(
        rows["key"].to_pylist(), found.masks["published"], strict=True
    )} == {"n1/x.JPEG": 0, "n1/y.v2.png": 1, "n2/x.png": 3, "n3/q.png": 0, "z.webp": 0}  # fmt: skip
    assert (found.masks["published"][rows["key"].to_pylist().index("z.webp")] == IGNORED).all()


def test_what_is_wrong_with_a_mask_is_told_of_its_picture(tmp_path: Path) -> None:
    names = ("big", "cut", "ok", "turned", "two", "gone")
    for i, name in enumerate(names):
        saved(tmp_path, f"pictures/{name}.png", picture(i, 8, 4))
        saved(tmp_path, f"masks/{name}.png", Image.fromarray(grid(0, 1).repeat(2, 0).repeat(4, 1)))
    saved(tmp_path, "masks/big.png", Image.new("1", (16, 8)))
    whole = (tmp_path / "masks" / "cut.png").read_bytes()
    (tmp_path / "masks" / "cut.png").write_bytes(whole[:50])
    saved(tmp_path, "masks/turned.png", Image.new("1", (4, 8)))
    saved(tmp_path, "masks/two.bmp", Image.new("1", (8, 4)))
    rows = listed(tmp_path / "pictures")
    (tmp_path / "pictures" / "gone.png").unlink()
    found = masks_of(rows, parse_masks(str(tmp_path / "masks")), SQUARE)
    told = dict(zip(rows["key"].to_pylist(), found.error, strict=True))
    assert told["ok.png"] is None
    assert told["big.png"] == ("a mask of another size than its picture: 16 x 8, the picture 8 x 4")
    assert told["turned.png"].endswith("4 x 8, the picture 8 x 4, which is upright")
    assert told["cut.png"].startswith("truncated or damaged")
    assert told["two.png"] == f"several masks: {tmp_path}/masks: two.bmp, two.png"
    assert told["gone.png"] == "no mask: its picture cannot be had"
    for i, error in enumerate(found.error):
        for masks in found.masks.values():
            assert (masks[i] == IGNORED).all() == (error is not None)


def test_a_mask_is_of_the_upright_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lying on its side
    lying = np.zeros((4, 9), np.uint8)
    lying[:, :3] = 255
    upright = np.rot90(lying, 3)
    for name in "abc":
        saved(tmp_path, f"pictures/{name}.png", Image.fromarray(lying), exif=exif)
    saved(tmp_path, "masks/a.png", Image.fromarray(upright))
    saved(tmp_path, "masks/b.png", Image.fromarray(lying), exif=exif)
    saved(tmp_path, "masks/c.png", Image.fromarray(lying))
    resize = Resize(9, 4, "bicubic", "squash", 0)
    found = masks_of(listed(tmp_path / "pictures"), parse_masks(str(tmp_path / "masks")), resize)
    assert found.error[:2] == [None, None]
    assert found.error[2].endswith("9 x 4, the picture 4 x 9, which is upright")
    for masks in found.masks.values():
        for mask in masks[:2]:
            np.testing.assert_array_equal(mask, upright > 0)


def test_masks_of_the_embedded_world_are_those_it_draws(tmp_path: Path) -> None:
    rows = listed("microworld:n=5,seed=3,split=val")
    source = parse_masks("microworld")
    resize = Resize(64, 64, "bicubic", "shortest", 0)
    found = masks_of(rows, source, resize)
    assert found.error == [None] * 5
    for i in range(5):
        for masks in found.masks.values():
            np.testing.assert_array_equal(masks[i], micro_picture(3, "val", i)[1])
    check_masks(Listed(rows), source)
    saved(tmp_path, "a.png", picture(0))
    with pytest.raises(SourceError, match="none of the 1 pictures is of the embedded world"):
        check_masks(Listed(listed(tmp_path)), source)


def test_sources_of_masks_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    for text, words in {
        " ": "The source of masks is empty",
        "microworld:n=3": "write microworld alone",
        str(tmp_path / "gone"): "there is no such folder",
        str(tmp_path / "a.mat"): "is a file",
    }.items():
        with pytest.raises(SourceError, match=words):
            parse_masks(text)
    with pytest.raises(StoreError, match="lacks slashes"):
        parse_masks("s3:bucket/masks")
    saved(tmp_path, "pictures/n1/a.JPEG", picture(0))
    source = parse_masks(str(tmp_path / "empty"))
    assert source == MaskSource("folder", str(tmp_path / "empty"))
    with pytest.raises(SourceError, match=r"none of the 1 pictures has a mask in .*, as n1/a.png$"):
        check_masks(Listed(listed(tmp_path / "pictures")), source)


def test_photographs_keep_their_objects_where_they_are(shared: Path, tmp_path: Path) -> None:
    """Masks made from photographs themselves: what is lighter than their mean."""
    rows = listed(shared / "data" / "imagenet_sample").slice(0, 24)
    for row in rows.to_pylist():
        grey = np.asarray(Image.open(row["uri"]).convert("L"))
        mask = (grey > grey.mean()).astype(np.uint8)
        saved(tmp_path, f"{row['key'].rpartition('.')[0]}.png", Image.fromarray(mask))
    source, resize = parse_masks(str(tmp_path)), Resize(224, 224, "bicubic", "shortest", 0)
    found = masks_of(rows, source, resize)
    assert found.error == [None] * len(rows)
    agree = {name: [] for name in PROTOCOLS}
    for i, row in enumerate(rows.to_pylist()):
        image = Image.open(row["uri"]).convert("RGB")
        shown = np.asarray(Image.fromarray(resize(image)).convert("L")).astype(float)
        for name, masks in found.masks.items():
            agree[name].append(np.corrcoef(shown.ravel(), masks[i].ravel())[0, 1])
    assert np.mean(agree["aligned"]) > np.mean(agree["published"]) + 0.1


def test_encoded_masks_need_no_colour(tmp_path: Path) -> None:
    """A palette's colours, and which of them are transparent, say nothing."""
    image = palette(grid(0, 2, 255))
    saved(tmp_path, "masks/a.png", image, transparency=0)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(encode(picture(0, 3, 2)))
    found = masks_of(
        listed(tmp_path / "pictures"),
        parse_masks(str(tmp_path / "masks")),
        Resize(2, 3, "bicubic", "squash", 0),
        "aligned",
    )
    np.testing.assert_array_equal(found.masks["aligned"][0][0], [0, 1, 255])
