"""``--decode`` through the jobs: a store has one way, which all that read its pictures follow."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import extract, rosetta, second_order, segment
from pipeline.cluster import machines
from pipeline.heatmaps.seen import see_image
from pipeline.images.decode import DECODING
from pipeline.images.decoding import DECODINGS
from pipeline.images.resize import Resize
from pipeline.texts.encoding import model_spec
from storage import ledger
from storage.errors import FacetError, StoreMismatch
from storage.rosetta import read_cards
from tests import tiny
from tests.pipeline.images.kit import encode, photograph
from tests.pipeline.rosetta.mined import OTHER, PLAIN
from tests.refusals import refused


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny.write_config(tmp_path_factory.mktemp("model"), tiny.tiny({"mlp_ratio": 2.0}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(12):
        (folder / f"{i:02}.jpg").write_bytes(encode(photograph((150, 110 + i), i), "JPEG"))
    (folder / "03.jpg").write_bytes((folder / "02.jpg").read_bytes()[:-700])
    return folder


def config(model, folder, store, **changes) -> extract.ExtractConfig:
    fields = {"images": str(folder), "model": model, "pretrained": "none", "store": str(store),
              "shard_size": 8, "batch_size": 4, "workers": "here", "store_dtype": "float32",
              "max_bad": 0.5}  # fmt: skip
    return extract.ExtractConfig(**{**fields, **changes})


@pytest.fixture(scope="module")
def exact(model, folder, tmp_path_factory):
    return extract.main(config(model, folder, tmp_path_factory.mktemp("stores") / "exact"))


@pytest.fixture(scope="module")
def fast(model, folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("stores") / "fast"
    return extract.main(config(model, folder, place, decode="fast"))


def test_a_fast_store_says_so_and_is_near_the_exact_one(exact, fast):
    assert exact.meta.preprocessing["decoding"] == DECODING
    assert fast.meta.preprocessing["decoding"] == DECODINGS["fast"]
    assert fast.validate() == []
    one, other = (store.contributions().load() for store in (exact, fast))
    ok = np.isfinite(one["embedding"]).all("embed")
    assert int((~ok).sum()) == 1
    assert np.array_equal(ok, np.isfinite(other["embedding"]).all("embed"))
    assert not np.array_equal(one["heads"][ok], other["heads"][ok])
    for name in ("heads", "embedding"):
        np.testing.assert_allclose(one[name][ok], other[name][ok], atol=2e-2)


def test_what_reads_a_stores_pictures_does_as_the_store_says(fast, exact):
    for store, way in ((fast, "fast"), (exact, "exact")):
        assert model_spec(store.url, store.meta).decode == way
        resize = replace(Resize.of(store.meta.preprocessing), decode=way)
        with Image.open(store.images(0, 1)["uri"][0].as_py()) as image:
            pixels = resize(image.convert("RGB"))
        assert np.array_equal(see_image(store, 0).pixels, pixels)


def test_a_store_does_not_mix_them(model, folder, fast, exact):
    with refused(StoreMismatch, "--decode exact: .*were read with --decode fast"):
        extract.main(config(model, folder, fast.url))
    with refused(StoreMismatch, "--decode fast: .*were read with --decode exact"):
        extract.main(config(model, folder, exact.url, decode="fast"))
    asked = second_order.SecondOrderConfig(fast.url, mlp_layers="0", workers="here", max_bad=0.5)
    with refused(StoreMismatch, "--decode exact: .*were read with --decode fast"):
        second_order.main(replace(asked, decode="exact"))


def test_a_fast_store_grows_and_has_second_order_effects(model, folder, fast, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    for file in folder.iterdir():
        (more / file.name).write_bytes(file.read_bytes())
    store = extract.main(config(model, more, tmp_path / "s", decode="fast"))
    (more / "99.jpg").write_bytes(encode(photograph((90, 120), 99), "JPEG"))
    run = second_order.main(
        second_order.SecondOrderConfig(
            store.url, images=str(more), mlp_layers="0", workers="here", max_bad=0.5, top_k=5
        )
    )
    assert run.store.meta.images == 13
    assert run.store.meta.preprocessing == fast.meta.preprocessing
    grown, whole = (s.contributions()["heads"].load() for s in (run.store, fast))
    assert np.array_equal(grown[:12], whole, equal_nan=True)


def test_second_order_makes_a_store_as_it_is_told(model, folder, tmp_path, fast):
    run = second_order.main(
        second_order.SecondOrderConfig(
            str(tmp_path / "s"), images=str(folder), model=model, pretrained="none",
            mlp_layers="0", decode="fast", workers="here", max_bad=0.5, top_k=5,
        )
    )  # fmt: skip
    assert run.store.meta.preprocessing == fast.meta.preprocessing


def test_rosetta_sees_pictures_as_it_is_told_and_does_not_mix(folder, tmp_path):
    asked = rosetta.RosettaConfig(
        models=(PLAIN, OTHER), images=str(folder), out=str(tmp_path / "out"),
        shard_size=6, batch_size=4, workers="here", max_bad=0.5, decode="fast",
    )  # fmt: skip
    rosetta.main(asked)
    ways = {card.preprocessing["decoding"] for card in read_cards(asked.out).values()}
    assert ways == {DECODINGS["fast"]}
    with refused(StoreMismatch, "--decode exact: .*were read with --decode fast"):
        rosetta.main(replace(asked, decode="exact"))
    made = replace(asked, images=None, generator="microworld-generator", out=str(tmp_path / "g"))
    with refused(FacetError, "--decode belongs to --images"):
        rosetta.main(made)


# -- on the card ---------------------------------------------------------------------------


def test_the_card_is_refused_where_there_is_none(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(machines, "own_gpu", lambda: False)
    asked = config(model, folder, tmp_path / "s", decode="gpu")
    with refused(FacetError, "--decode gpu: this machine has no GPU; use --decode fast or exact"):
        extract.main(asked)
    with refused(FacetError, "--decode gpu: --device cpu does not use a GPU"):
        extract.main(replace(asked, device="cpu"))
    assert not (tmp_path / "s").exists()


@pytest.fixture(scope="module")
def on_card(model, folder, tmp_path_factory):
    """Made as if there were a card: the CPU decodes in its place."""
    place = tmp_path_factory.mktemp("stores") / "gpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machines, "check_decode", lambda *_: None)
        yield extract.main(config(model, folder, place, decode="gpu"))


def test_a_store_of_the_card_is_near_the_exact_one(exact, on_card):
    assert on_card.meta.preprocessing["decoding"] == DECODINGS["gpu"]
    assert on_card.validate() == []
    one, other = (store.contributions().load() for store in (exact, on_card))
    for name in ("heads", "embedding"):
        np.testing.assert_allclose(one[name], other[name], atol=2e-2)
    for shard in range(2):
        of, others = (ledger.read_part(store.url, shard) for store in (exact, on_card))
        assert of.drop_columns(["index"]) == others.drop_columns(["index"])


def test_its_pictures_go_through_the_model_again_on_the_card(exact, on_card):
    runs = [
        second_order.main(
            second_order.SecondOrderConfig(
                store.url, mlp_layers="0", workers="here", max_bad=0.5, top_k=5
            )
        )
        for store in (exact, on_card)
    ]
    norms = [run.store.neurons(0)["norms"].load() for run in runs]
    np.testing.assert_allclose(*norms, atol=1e-3, rtol=0.05)


def test_its_maps_are_held_to_masks_as_those_of_the_exact_one(
    exact, on_card, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(machines, "check_decode", lambda *_: None)
    masks = tmp_path / "masks"
    masks.mkdir()
    for file in folder.iterdir():
        mask = np.zeros((150, 110 + int(file.stem)), np.uint8)
        mask[40:110, 30:80] = 255
        Image.fromarray(mask).save(masks / f"{file.stem}.png")
    (masks.parent / "classes.txt").write_text("star\nheart\n")
    sheets = []
    for store in (exact, on_card):
        run = segment.main(
            segment.SegmentConfig(
                store.url, str(tmp_path / "classes.txt"), masks=str(masks), methods=("tokens",),
                batch_size=4, workers="here", out=str(tmp_path / store.url.rpartition("/")[2]),
            )
        )  # fmt: skip
        files = sorted((Path(run.result.url) / "pictures").iterdir())
        sheets.append(pa.concat_tables([pq.read_table(file) for file in files]).to_pandas())
    one, other = sheets
    assert len(one) == 11  # of 12, one is cut
    assert one["key"].equals(other["key"])
    np.testing.assert_allclose(one["average_precision"], other["average_precision"], atol=0.01)


def test_rosetta_has_pictures_decoded_on_the_card(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(machines, "check_decode", lambda *_: None)
    asked = rosetta.RosettaConfig(
        models=(PLAIN, OTHER), images=str(folder), out=str(tmp_path / "out"),
        shard_size=6, batch_size=4, workers="here", max_bad=0.5, decode="gpu",
    )  # fmt: skip
    run = rosetta.main(asked)
    assert run.result.provenance["images"] == 12
    facts = ledger.read_facts(asked.out, [0, 1])
    assert [sum(of.get("bad", {}).values()) for of in facts] == [1, 0]
