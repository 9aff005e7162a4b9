"""What a card does with JPEGs, here on the CPU: the decoder is another, all else is the same."""

import io

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipeline.images import card
from pipeline.images.decode import decode, plain_jpeg
from pipeline.images.decoding import DECODINGS, decode_of
from pipeline.images.errors import BadImage
from pipeline.images.load import load_rows
from pipeline.images.resize import FILTER, MODES, Resize
from storage.errors import FacetError
from tests.pipeline.images.kit import encode, listed, photograph

SIZE = (32, 32)
GPU = Resize(*SIZE, "bicubic", "shortest", 0, 1.0, "gpu")


def planes(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def in_two_steps(resize: Resize, image: Image.Image) -> np.ndarray:
    """Pillow's resize, widths first, which Pillow itself does not always do."""
    (width, height), kind = resize.size_of(*image.size), FILTER[resize.interpolation]
    if resize.mode == "shortest" and resize.height != resize.width:
        kind = FILTER["bicubic"]  # as open_clip
    small = image.resize((width, image.height), kind).resize((width, height), kind)
    return resize._crop_or_pad(np.asarray(small), resize.padding)


@settings(max_examples=60, deadline=None)
@given(
    pictures=st.lists(st.tuples(st.integers(9, 100), st.integers(9, 100)), min_size=1, max_size=5),
    size=st.tuples(st.integers(12, 60), st.integers(12, 60)) | st.just(SIZE),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    mode=st.sampled_from(MODES),
    crop=st.sampled_from([1.0, 0.875, 1.1]),
    canvas=st.sampled_from([1, 200_000, 1 << 29]),
)
def test_a_batch_is_resized_as_pillow_does_it_one_by_one(
    pictures, size, interpolation, mode, crop, canvas
):
    resize = Resize(*size, interpolation, mode, (7, 8, 9), crop, "gpu")
    images = [photograph(of, seed=sum(of)) for of in pictures]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card, "CANVAS", canvas)
        found = card.resized([planes(image) for image in images], resize).numpy()
    assert found.dtype == np.uint8
    for pixels, image in zip(found, images, strict=True):
        away = np.abs(pixels.astype(int) - in_two_steps(resize, image))
        assert away.max() <= 1
        # Halves of a level, of which enlarged pictures have many, are rounded either way.
        assert away.mean() <= 0.1


def test_photographs_are_resized_as_pillow_does(shared):
    resize = Resize(224, 224, "bicubic", "shortest", 0, 1.0, "gpu")
    files = sorted((shared / "data" / "imagenet_sample").rglob("*.JPEG"))[::25]
    images = [decode(file.read_bytes()) for file in files]
    found = card.resized([planes(image) for image in images], resize).numpy()
    for pixels, image in zip(found, images, strict=True):
        assert np.abs(pixels.astype(int) - in_two_steps(resize, image)).mean() < 1e-3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turns_are_those_of_pillow(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photograph((30, 50), 1), "JPEG", exif=exif)
    turn, size = plain_jpeg(data)
    upright = decode(data)
    assert size == upright.size
    lying = photograph((3, 5), 2)
    with Image.open(io.BytesIO(encode(lying, exif=exif))) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(card.TURNS[turn](planes(lying)).permute(1, 2, 0), expected)


def test_only_jpegs_that_all_decoders_read_alike_are_left_to_the_card():
    image = photograph((30, 50), 1)
    whole = encode(image, "JPEG")
    for data in (whole, encode(image.convert("L"), "JPEG"), encode(image, "JPEG", progressive=1)):
        assert plain_jpeg(data) == (1, (50, 30))
    for data in (
        encode(image), whole[:-2], whole + b"\0", encode(image.convert("CMYK"), "JPEG"),
        encode(image, "JPEG", keep_rgb=True), b"", b"text",
        encode(image, "MPO", save_all=True, append_images=[image]),
    ):  # fmt: skip
        assert plain_jpeg(data) is None
    with pytest.raises(BadImage, match="one side is over 200 times the other: 1 x 201"):
        plain_jpeg(encode(Image.new("RGB", (1, 201)), "JPEG"))
    with pytest.raises(BadImage, match="not an image"):
        plain_jpeg(whole[:20] + whole[-2:])


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        data = encode(photograph((60 + i, 80 - 5 * i), i), "JPEG")
        (tmp_path / f"{i}.jpg").write_bytes(data)
    (tmp_path / "2.jpg").write_bytes(data[:-300])
    (tmp_path / "4.png").write_bytes(encode(photograph((50, 40), 9)))
    return tmp_path


def test_what_is_left_encoded_ends_as_all_else(folder):
    rows = listed(folder)
    exact = load_rows(rows, Resize(*SIZE, "bicubic", "shortest", 0), SIZE)
    left = load_rows(rows, GPU, SIZE, GPU.on_card)
    assert left.encoded.rows == [0, 1, 3, 4, 6]
    assert len(left.pixels) == 2
    found = card.settled(left, "cpu")
    assert found.encoded is None
    assert found.ok.tolist() == exact.ok.tolist()
    for name in ("error", "sha256", "width", "height"):
        assert getattr(found, name) == getattr(exact, name), name
    assert not found.pixels[2].any()
    assert np.abs(found.pixels.astype(int) - exact.pixels).max() <= 2
    assert card.settled(exact, "cpu") is exact


def test_what_the_card_refuses_is_read_by_the_cpu(folder, monkeypatch):
    """One at a time: the others of its batch do not suffer."""
    data = bytearray((folder / "1.jpg").read_bytes())
    at = data.index(b"\xff\xda")
    (folder / "3.jpg").write_bytes(data[: at + 40] + data[-2:])  # whole by its ends alone
    rows, theirs, calls = listed(folder), torchvision.io.decode_jpeg, []

    def refusing(files, *options, **more):
        calls.append(len(files))
        if any(len(file) in {len(data), at + 42} for file in files):
            raise RuntimeError("unsupported")
        return theirs(files, *options, **more)

    exact = load_rows(rows, Resize(*SIZE, "bicubic", "shortest", 0), SIZE)
    monkeypatch.setattr(torchvision.io, "decode_jpeg", refusing)
    found = card.settled(load_rows(rows, GPU, SIZE, (GPU,)), "cpu")
    assert calls == [5, 1, 1, 1, 1, 1]
    assert (found.error, found.width) == (exact.error, exact.width)
    assert found.ok.tolist() == exact.ok.tolist()
    assert np.abs(found.pixels.astype(int) - exact.pixels).max() <= 2


def test_a_torchvision_without_nvjpeg_is_told_of(folder, monkeypatch):
    def absent(*_, **__):
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    monkeypatch.setattr(torchvision.io, "decode_jpeg", absent)
    with pytest.raises(FacetError, match="`decode` gpu: this torchvision is without nvJPEG"):
        card.settled(load_rows(listed(folder), GPU, SIZE, (GPU,)), "cpu")


def test_several_resizes_lie_end_to_end(folder):
    other = Resize(12, 20, "bilinear", "squash", 0, 1.0, "gpu")
    both = (GPU, other)

    def stacked(image):
        return np.concatenate([r(image).reshape(1, -1, 3) for r in both], axis=1)

    rows, size = listed(folder), (1, 32 * 32 + 12 * 20)
    found = card.settled(load_rows(rows, stacked, size, both), "cpu")
    near = load_rows(rows, stacked, size)
    assert found.pixels.shape == near.pixels.shape
    assert np.abs(found.pixels.astype(int) - near.pixels).max() <= 2


def test_filters_that_torch_lacks_are_left_to_pillow():
    resize = Resize(*SIZE, "lanczos", "shortest", 0, 1.0, decode_of({"decoding": DECODINGS["gpu"]}))
    assert not resize.on_card
    image = photograph((50, 70), 3)
    assert np.array_equal(resize(image), Resize(*SIZE, "lanczos", "shortest", 0)(image))
