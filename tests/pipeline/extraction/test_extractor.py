"""One shard after the other, in this process: what an actor does, without Ray."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.images.again import digests, load_again
from pipeline.images.errors import BadImage
from pipeline.models import ModelSpec, VisionModel, load_model
from tests.pipeline.extraction.kit import extract_all, new_store
from tests.pipeline.images import kit
from tests.tiny import FEW_WORDS, tiny, write_config


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> VisionModel:
    path = write_config(tmp_path_factory.mktemp("model"), tiny(text=FEW_WORDS))
    return load_model(ModelSpec(path, "none"))


def hostile_folder(folder: Path) -> dict[str, str | None]:
    """Every kind of hostile file, and what its ledger row must say (None: it decodes)."""
    png = kit.png(1)
    rgba = Image.new("RGBA", (20, 20), (10, 200, 30, 128)).quantize()
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [Image.new("RGB", (12, 12), c) for c in ("red", "blue")]
    files: dict[str, tuple[bytes, str | None]] = {
        "01-good.png": (png, None),
        "02-truncated.jpg": (kit.encode(kit.picture(2, 64, 64), "JPEG")[:400], "truncated"),
        "03-empty.jpg": (b"", "empty"),
        "04-text.jpg": (b"this is no picture at all", "not an image"),
        "05-cmyk.jpg": (kit.encode(kit.picture(3).convert("CMYK"), "JPEG"), None),
        "06-grey.png": (kit.encode(kit.picture(4).convert("L")), None),
        "07-sixteen.png": (kit.encode(Image.fromarray(np.full((9, 9), 40_000, np.uint16))), None),
        "08-palette-alpha.png": (kit.encode(rgba), None),
        "09-turned.jpg": (kit.encode(kit.picture(5, 30, 20), "JPEG", exif=turned), None),
        "10-animated.gif": (
            kit.encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), None,
        ),
        "11-one-pixel.png": (kit.encode(kit.picture(6, 1, 1)), None),
        "12-bomb.png": (kit.encode(Image.new("1", (20_000, 20_000))), "pixels"),
        "13-größe-写真.png": (kit.png(7), None),
        "15-good.png": (kit.png(8), None),
    }  # fmt: skip
    folder.mkdir()
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    os.symlink(folder / "gone.png", folder / "14-dangling.png")
    os.symlink(folder / "16-loop.png", folder / "16-loop.png")
    return {name: reason for name, (_, reason) in files.items()}


def test_hostile_images_decode_or_say_why_and_nothing_else_is_lost(model, tmp_path):
    expected = hostile_folder(tmp_path / "pictures")
    store = new_store(tmp_path / "s", str(tmp_path / "pictures"), model, shard_size=5)
    extract_all(store, model)
    assert store.validate() == []
    keys = store.images()["key"].to_pylist()
    ledger = dict(zip(keys, store.ledger().to_pylist(), strict=True))
    for name, reason in expected.items():
        assert ledger[name]["ok"] is (reason is None), ledger[name]
        if reason is not None:
            assert reason in ledger[name]["error"], ledger[name]
    for name in ("14-dangling.png", "16-loop.png"):
        assert not ledger[name]["ok"]
        assert "link" in ledger[name]["error"]
    data = store.contributions().load()
    finite = np.isfinite(data["embedding"].values).all(1)
    assert finite.tolist() == [ledger[k]["ok"] for k in keys]
    assert (ledger["09-turned.jpg"]["width"], ledger["09-turned.jpg"]["height"]) == (20, 30)


def test_the_store_does_not_depend_on_bad_neighbours(model, tmp_path):
    hostile_folder(tmp_path / "all")
    mixed = new_store(tmp_path / "mixed", str(tmp_path / "all"), model, shard_size=4)
    extract_all(mixed, model)
    (tmp_path / "good").mkdir()
    rows = np.flatnonzero(mixed.ledger()["ok"])
    kept = mixed.images()["key"].take(rows).to_pylist()
    for key in kept:
        (tmp_path / "good" / key).write_bytes((tmp_path / "all" / key).read_bytes())
    good = new_store(tmp_path / "alone", str(tmp_path / "good"), model, shard_size=3)
    extract_all(good, model)
    left, right = mixed.contributions().load(), good.contributions().load()
    assert good.images()["key"].to_pylist() == kept
    for name in ("heads", "mlps", "embedding"):
        np.testing.assert_allclose(
            left[name].values[rows].astype(float), right[name].values.astype(float), atol=2e-3
        )


def test_batches_of_any_size_give_the_same_contributions(model, tmp_path):
    source = "microworld:n=13,seed=2,split=test"
    one, other = (
        new_store(tmp_path / n, source, model, shard_size=5, store_dtype="float32") for n in "ab"
    )
    extract_all(one, model, batch_size=5)
    extract_all(other, model, batch_size=2)
    left, right = one.contributions().load(), other.contributions().load()
    for name in ("heads", "mlps", "tokens", "embedding"):
        np.testing.assert_allclose(left[name].values, right[name].values, atol=1e-5)
    assert float(left["residual"].max()) < 1e-5
    assert float(left["rounding"].max()) < 1e-5


def test_images_read_again_are_held_against_the_ledger(tmp_path, model):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.bmp").write_bytes(kit.encode(kit.picture(i, 40, 40), "BMP"))
    store = new_store(tmp_path / "s", str(folder), model, shard_size=4)
    extract_all(store, model)
    assert store.validate(sources=digests) == []
    assert load_again(store, 4).tobytes() == kit.picture(4, 40, 40).tobytes()
    (folder / "4.bmp").write_bytes(kit.encode(kit.picture(9, 40, 40), "BMP"))
    (folder / "2.bmp").unlink()
    assert store.validate() == []
    gone, other = store.validate(sources=digests)
    assert gone.startswith("shard 0 (images 0-3): 1 images of the source cannot be read again (2")
    assert other == "shard 1 (images 4-4): 1 images of the source have other contents (4.bmp)"
    with pytest.raises(BadImage, match="its bytes are others"):
        load_again(store, 4)
