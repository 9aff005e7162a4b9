"""Runs of rows to pixels: bad images are masked, a store that fails is not an image's fault."""

import builtins
import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.images import files
from pipeline.images.errors import SourceUnavailable
from pipeline.images.listing import list_images
from pipeline.images.load import load_rows
from pipeline.microworld.draw import picture as micro_picture
from tests.pipeline.images.kit import encode, picture, png, write_tar

SIZE = 16


def transform(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((SIZE, SIZE)))


def listed(source: object, **options: int) -> pa.Table:
    return pa.concat_tables(list_images(str(source), **options))


def test_one_bad_image_does_not_fail_the_others(tmp_path: Path) -> None:
    good = encode(picture(0, 30, 20))
    write_tar(tmp_path / "t.tar", [("a.png", good), ("b.jpg", b"text"), ("c.png", good)])
    loaded = load_rows(listed(tmp_path / "t.tar"), transform, (SIZE, SIZE))
    assert loaded.ok.tolist() == [True, False, True]
    assert loaded.error == [
        None,
        "not an image, or cut in its first bytes: it begins with b'text'",
        None,
    ]
    assert loaded.sha256 == [hashlib.sha256(d).hexdigest() for d in (good, b"text", good)]
    assert (loaded.width, loaded.height) == ([30, 0, 30], [20, 0, 20])
    assert loaded.pixels.shape == (3, SIZE, SIZE, 3)
    assert not loaded.pixels[1].any()
    np.testing.assert_array_equal(loaded.pixels[0], transform(picture(0, 30, 20)))


def test_microworld_pixels_and_their_digest() -> None:
    loaded = load_rows(listed("microworld:n=3,seed=1"), np.asarray, (64, 64))
    for i in range(3):
        pixels, _, _ = micro_picture(1, "test", i)
        np.testing.assert_array_equal(loaded.pixels[i], pixels)
        assert loaded.sha256[i] == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert loaded.width == [64] * 3


def test_a_file_deleted_since_the_listing_is_a_bad_image(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png(0))
    table = listed(tmp_path)
    (tmp_path / "a.png").unlink()
    (tmp_path / "b.png").write_bytes(b"")
    loaded = load_rows(table, transform, (SIZE, SIZE))
    assert "a.png (deleted since it was listed, or a link to nothing)" in str(loaded.error[0])
    assert loaded.sha256[0] is None
    assert loaded.error[1] == "the file is empty"


def test_an_unreadable_file_is_a_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    table = listed(tmp_path)
    (tmp_path / "a.png").chmod(0)
    if os.geteuid() == 0:  # root may read everything

        def refuse(path: str, *_: object) -> None:
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr(files, "open", refuse, raising=False)
    (error,) = load_rows(table, transform, (SIZE, SIZE)).error
    assert error == f"no permission to read: {tmp_path}/a.png"


def test_consecutive_members_share_one_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", [(f"{i}.png", png(i)) for i in range(5)])
    table = listed(tmp_path / "*.tar")
    opened = []

    def count(path: str, *rest: str) -> object:
        opened.append(path)
        return builtins.open(path, *rest)

    monkeypatch.setattr(files, "open", count, raising=False)
    assert load_rows(table, transform, (SIZE, SIZE)).ok.all()
    assert opened == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]


def test_a_failing_disk_is_retried_then_raised_with_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "t.tar", [("a.png", png(0))])
    table = listed(tmp_path / "t.tar")
    monkeypatch.setattr(files, "FIRST_WAIT_S", 0.001)
    failures = [OSError(5, "Input/output error")] * 2

    def fail_at_first(path: str, *rest: str) -> object:
        if failures:
            raise failures.pop()
        return builtins.open(path, *rest)

    monkeypatch.setattr(files, "open", fail_at_first, raising=False)
    assert load_rows(table, transform, (SIZE, SIZE)).ok.all()
    failures.extend([OSError(5, "Input/output error")] * 9)
    with pytest.raises(SourceUnavailable, match=r"t.tar cannot be read after 4 attempts: OSError"):
        load_rows(table, transform, (SIZE, SIZE))


def test_a_transform_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    with pytest.raises(ValueError, match=r"transform gave uint8 \(16, 16, 3\); it must give"):
        load_rows(listed(tmp_path), transform, (32, 32))


def test_photographs_of_a_folder(shared: Path) -> None:
    table = listed(shared / "data" / "imagenet_sample")
    assert len(table) == 124
    assert all(key.startswith(f"{label}/") for key, label in _pairs(table, "key", "label"))
    loaded = load_rows(table, transform, (SIZE, SIZE))
    assert loaded.ok.all()
    assert loaded.error == [None] * 124
    assert min(loaded.width) > 100


def test_photographs_in_tars(shared: Path) -> None:
    table = listed(shared / "data" / "cifar10_webdataset" / "{00000..00001}.tar")
    assert len(table) == 2000
    assert len(set(table["key"].to_pylist())) == 2000
    assert len(set(table["label"].to_pylist())) == 10
    assert all(caption.endswith(label) for caption, label in _pairs(table, "caption", "label"))
    assert table["width"].to_pylist() == [32] * 2000
    loaded = load_rows(table, transform, (SIZE, SIZE))
    assert loaded.ok.all()
    assert set(loaded.width) == set(loaded.height) == {32}


def _pairs(table: pa.Table, first: str, second: str) -> list[tuple[str, str]]:
    return list(zip(table[first].to_pylist(), table[second].to_pylist(), strict=True))
