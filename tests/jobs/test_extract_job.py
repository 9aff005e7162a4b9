"""The whole job on a real Ray, on small sets."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import save_file

from jobs import extract
from jobs.extract import ExtractConfig, main
from pipeline.cluster.work import choose_workers
from pipeline.extraction.store import same_or_grown
from pipeline.images.bad import TooManyBadImages
from pipeline.images.decode import DECODING
from pipeline.images.masks import parse_masks
from pipeline.models import ModelSpec, load_model
from pipeline.stats.reductions import missing_shards, reduce_store
from storage import growth, neurons, open_store
from storage.errors import FacetError, StoreDtypeError, StoreMismatch
from storage.results import finished_results
from tests import tiny
from tests.contents import contents, stored_files
from tests.pipeline.images.kit import masks_of, picture
from tests.pipeline.images.mat_kit import write_mat
from tests.refusals import refused
from tests.storage import stores

TINY = tiny.tiny({"mlp_ratio": 2.0})


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny.write_config(tmp_path_factory.mktemp("model"), TINY)


def config(tiny: str, store, **changes) -> ExtractConfig:
    fields = {
        "images": "microworld:n=50,seed=3,split=test", "model": tiny, "pretrained": "none",
        "store": str(store), "shard_size": 16, "batch_size": 8, "layers": "last:2",
        "components": ("heads", "mlps", "tokens"), "workers": "here",
    }  # fmt: skip
    return ExtractConfig(**{**fields, **changes})


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    return main(config(model, tmp_path_factory.mktemp("stores") / "finished"))


def test_the_store_is_whole_exact_and_in_order(finished):
    assert finished.validate() == []
    assert finished.done_shards() == {0, 1, 2, 3}
    assert finished.meta.preprocessing["decoding"] == DECODING
    data = finished.contributions().load()
    assert float(data["residual"].max()) < 1e-5
    assert float(data["rounding"].max()) < 2e-3
    images = finished.images()
    assert data["key"].values.tolist() == images["key"].to_pylist()
    assert data["label"].values.tolist() == images["label"].to_pylist()
    total = finished.constants()
    for layer in range(3):
        for head in range(3):
            total = total + finished.heads(layer, head)
    for block in range(4):
        total = total + finished.mlps(block)
    np.testing.assert_allclose(total.values, data["embedding"].values, atol=2e-3, rtol=2e-3)
    tokens = finished.tokens().sum("token").values
    chosen = sum(finished.heads(layer, head).values for layer in (1, 2) for head in range(3))
    np.testing.assert_allclose(tokens, chosen, atol=5e-3)


def test_it_says_when_it_was_finished(finished):
    (result,) = finished_results(finished.url, "extract")
    assert result.provenance["finished"]
    assert result.config["shard_size"] == 16


def stamps(root) -> dict[str, int]:
    """When each file of a store was last written."""
    return {name: place.stat().st_mtime_ns for name, place in stored_files(root).items()}


def test_the_same_command_again_writes_nothing(finished, model):
    before = stamps(finished.url)
    main(config(model, finished.url))
    assert stamps(finished.url) == before


def test_a_deleted_ledger_part_is_done_again_and_nothing_else(finished, model, tmp_path):
    shutil.copytree(finished.url, tmp_path / "copy")
    part = tmp_path / "copy" / "ledger" / "part-00000002.parquet"
    part.unlink()
    before = stamps(tmp_path / "copy")
    store = main(config(model, tmp_path / "copy"))
    after = stamps(tmp_path / "copy")
    written = {name for name in after if after[name] != before.get(name)}
    arrays = {f"contributions.zarr/{n}/c/2" for n in store.arrays}
    assert "ledger/part-00000002.parquet" in written
    assert all(any(n.startswith(a) for a in arrays) for n in written - {f"ledger/{part.name}"})
    assert contents(tmp_path / "copy") == contents(finished.url)


def test_another_configuration_is_refused(finished, model):
    with pytest.raises(StoreMismatch, match="shard_size: the store has 16, this run asks for 32"):
        main(config(model, finished.url, shard_size=32))
    with pytest.raises(StoreMismatch, match="50 of its 50 images are not listed"):
        main(config(model, finished.url, images="microworld:n=50,seed=4,split=test"))
    with pytest.raises(StoreMismatch, match="10 of its 50 images are not listed"):
        main(config(model, finished.url, limit=40))


def test_new_images_are_appended_and_only_their_shards_are_done(finished, model, tmp_path, here):
    more = "microworld:n=70,seed=3,split=test"
    shutil.copytree(finished.url, tmp_path / "s")
    reduce_store(open_store(str(tmp_path / "s")))
    reduce_store(open_store(str(tmp_path / "s")), "count in (1, 2)", ["heads"])
    before = stamps(tmp_path / "s")
    store = main(config(model, tmp_path / "s", images=more))
    after = stamps(tmp_path / "s")
    assert store.validate() == []
    full = [f"part-{i:08d}.parquet" for i in range(3)]
    assert all(before[f"ledger/{n}"] == after[f"ledger/{n}"] for n in full)
    assert (
        before["contributions.zarr/heads/c/2/0/0/0"] == after["contributions.zarr/heads/c/2/0/0/0"]
    )
    assert missing_shards(store, None, ["heads"]) == 2
    whole = main(config(model, tmp_path / "whole", images=more))
    for name, array in whole.contributions().load().data_vars.items():
        np.testing.assert_array_equal(array, store.contributions()[name].load())
    assert whole.meta.identity() == store.meta.identity()
    assert whole.images().equals(store.images())
    for where, components in ((None, None), ("count in (1, 2)", ["heads"])):
        grown, fresh = (reduce_store(s, where, components) for s in (store, whole))
        assert grown.facts.shards == fresh.facts.shards
        for name, array in fresh.data.load().data_vars.items():
            if "_pca" not in name:
                np.testing.assert_allclose(grown.data[name], array, rtol=1e-9, atol=1e-12)


def test_images_that_sort_before_the_old_ones_still_come_after_them(model, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_pictures(folder, 5)
    main(config(model, tmp_path / "s", images=str(folder), shard_size=5))
    shutil.copy(folder / "4.png", folder / "0a.png")
    store = main(config(model, tmp_path / "s", images=str(folder), shard_size=5))
    again = main(config(model, tmp_path / "s", images=str(folder), shard_size=5))
    assert store.images()["key"].to_pylist() == again.images()["key"].to_pylist()
    assert store.images()["key"].to_pylist()[5:] == ["0a.png"]
    heads = store.contributions()["heads"].values
    np.testing.assert_array_equal(heads[4], heads[5])
    picture = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(picture[:-1] + b"?")  # of the same length
    with pytest.raises(StoreMismatch, match=r"1 of 6 that were read again .* \(3.png\)"):
        main(config(model, tmp_path / "s", images=str(folder), shard_size=5))
    (folder / "3.png").write_bytes(picture)
    (folder / "4.png").unlink()
    with pytest.raises(StoreMismatch, match="1 of its 6 images are not listed"):
        main(config(model, tmp_path / "s", images=str(folder), shard_size=5))


@pytest.mark.parametrize(
    ("module", "at"),
    [(growth, "append_images"), (neurons, "forget_shards"), (growth, "consolidate")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_growth_cut_short_is_done_again(finished, model, tmp_path, monkeypatch, module, at):
    more = "microworld:n=70,seed=3,split=test"
    shutil.copytree(finished.url, tmp_path / "s")
    real = getattr(module, at)

    def cut(*args):
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, at, cut)
        with pytest.raises(KeyboardInterrupt):
            main(config(model, tmp_path / "s", images=more))
    store = main(config(model, tmp_path / "s", images=more))
    assert store.validate() == []
    assert store.meta.images == 70


def test_a_store_of_before_is_read_and_not_grown_by_other_rules(tmp_path):
    store = stores.new_store(str(tmp_path / "s"))
    stores.fill(store)
    assert open_store(store.url).validate() == []
    rules = {**store.meta.preprocessing, "decoding": DECODING}
    wanted = replace(store.meta, preprocessing=rules, images=20, image_list_digest="more")
    with pytest.raises(StoreMismatch, match="preprocessing.decoding: the store has nothing") as no:
        same_or_grown(store.url, store.meta, (), lambda: wanted, lambda: iter(()))
    assert "image_list_digest" not in str(no.value)


def test_bad_images_are_masked_and_named(model, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_pictures(folder, 9)
    (folder / "5.png").write_bytes(b"not a picture")
    with refused(TooManyBadImages, r"1 of 9 images are bad, more than --max-bad 0.01"):
        main(config(model, tmp_path / "s", images=str(folder)))
    store = main(config(model, tmp_path / "s", images=str(folder), max_bad=0.2))
    assert store.validate() == []
    ledger = store.ledger().to_pylist()
    assert [row["ok"] for row in ledger] == [i != 5 for i in range(9)]
    assert ledger[5]["error"].startswith("not an image, or cut in its first bytes: ")
    said = " ".join(capsys.readouterr().out.split())
    assert "bad: not an image" in said
    assert "(5.png:" in said
    data = store.contributions().load()
    assert np.isnan(data["heads"].values[5].astype(float)).all()
    assert np.isfinite(data["heads"].values[[4, 6]].astype(float)).all()


def write_pictures(folder, n):
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(n):
        pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_a_value_too_large_for_the_store_stops_the_run(model, tmp_path):
    state = load_model(ModelSpec(model, "none")).module.state_dict()
    state["visual.transformer.resblocks.1.mlp.c_proj.bias"] += 1e5
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "huge.safetensors")
    huge = config(model, tmp_path / "s", pretrained=str(tmp_path / "huge.safetensors"))
    with refused(StoreDtypeError, r"mlps: .*does not fit .*--store-dtype float32"):
        main(huge)
    main(config(model, tmp_path / "s32", pretrained=huge.pretrained, store_dtype="float32"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "ViT-B-23"}, "ViT-B-32"),
        ({"model": "MobileCLIP-S1"}, "MobileCLIP-S1 .*no sum of parts"),
        ({"layers": "7-9"}, r"--layers 7-9: the model's layers are 0-2"),
        ({"shard_size": 0}, "--shard-size 0: must be at least 1"),
        ({"max_bad": 3.0}, "is a fraction between 0 and 1"),
        ({"components": ()}, "name at least one"),
    ],
)
def test_mistakes_are_refused_before_anything_starts(model, tmp_path, changes, message):
    with refused(FacetError, message):
        extract.check(config(model, tmp_path / "s", **changes))


def test_a_missing_source_leaves_no_store(model, tmp_path):
    with pytest.raises(FacetError, match="nowhere"):
        main(config(model, tmp_path / "s", images=str(tmp_path / "nowhere")))
    with pytest.raises(FacetError, match="no store at"):
        open_store(str(tmp_path / "s"))


def test_workers_fit_the_cluster():
    def choose(cpus, gpus, device="auto", actors=None, shards=100, fit=100):
        cluster = {"CPU": cpus, "GPU": gpus}
        return choose_workers(cluster, device, actors, None, shards=shards, fit=lambda batch: fit)

    def of(workers):
        return workers.device, workers.actors, workers.threads

    assert of(choose(2, 0)) == ("cpu", 2, 1)
    assert of(choose(16, 4)) == ("cuda", 4, 1)
    assert of(choose(16, 0, fit=3)) == ("cpu", 3, 5)
    assert of(choose(16, 0, fit=0)) == ("cpu", 1, 16)
    assert of(choose(16, 0, shards=2)) == ("cpu", 2, 8)
    assert of(choose(2, 0, device="cuda")) == ("cuda", 1, 1)
    with refused(FacetError, "--num-actors 0"):
        choose(2, 0, actors=0)


def test_a_file_of_pictures_and_masks_is_extracted_and_grows(model, tmp_path):
    """In place of the file comes one with more, as another download of it may be."""

    def mat(seeds: range) -> str:
        pictures = [np.asarray(picture(i, 20, 12)) for i in seeds]
        names = [f"n0000000{i}_1" for i in seeds]
        masks = [[np.tri(12, 20, i, dtype=np.uint8)] for i in seeds]
        return f"gtsegs:{write_mat(tmp_path / 'segs.mat', pictures, masks, names)}"

    store = main(config(model, tmp_path / "s", images=mat(range(5)), shard_size=4))
    embedding = store.contributions()["embedding"].values
    grown = main(config(model, tmp_path / "s", images=mat(range(7)), shard_size=4))
    assert grown.validate() == []
    np.testing.assert_array_equal(grown.contributions()["embedding"].values[:4], embedding[:4])
    rows = grown.images()
    assert rows["label"].to_pylist() == [f"n0000000{i}" for i in range(7)]
    resize = load_model(ModelSpec(model, "none")).preprocess.resize
    masks = masks_of(rows, parse_masks(f"gtsegs:{tmp_path}/segs.mat"), resize, "aligned")
    assert masks.error == [None] * 7
    assert set(np.unique(masks.masks["aligned"])) == {0, 1}
