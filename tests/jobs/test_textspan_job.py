"""From a store to descriptions of heads and ablations, on a real Ray and a small random model."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import ablate, encode_texts, extract, reduce, report, show, textspan
from jobs.recipes.textspan import TextSpanRun
from pipeline.heads.answers import described_heads
from pipeline.pages.heads import ablation_section
from pipeline.pages.html import Made
from pipeline.subsets import SubsetError
from pipeline.texts.classes import PoolError
from pipeline.texts.embedding import encode_texts as embed
from pipeline.texts.encoding import TextEncoder, store_model, tokenizer_of
from storage.errors import FacetError, StoreError, StoreMismatch
from storage.store import Store
from tests import tiny
from tests.commands_kit import next_config
from tests.pipeline.heads.direct import direct_textspan
from tests.refusals import refused

TINY = tiny.tiny({"mlp_ratio": 2.0}, {"width": 32}, quick_gelu=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("textspan")
    tiny.write_config(folder, TINY)
    return extract.main(
        extract.ExtractConfig(
            images="microworld:n=60,seed=3,split=test",
            model=str(folder / "tiny.json"),
            pretrained="none",
            store=str(folder / "store"),
            store_dtype="float32",
            components=("heads", "mlps", "tokens"),
            layers="all",
            shard_size=32,
            seed=5,
            workers="here",
        )
    )


@pytest.fixture(scope="module")
def described(store) -> TextSpanRun:
    return textspan.main(
        textspan.TextSpanConfig(
            store.url, "microworld", layers="last:2", texts_per_head=20, workers="here"
        )
    )


def test_heads_are_described_as_by_the_algorithm_on_data(store, described):
    table = described.descriptions
    assert list(table.columns) == [
        "layer", "head", "rank", "text", "score", "explained_variance", "cumulative",
    ]  # fmt: skip
    texts = encode_texts.main(encode_texts.EncodeTextsConfig(store.url, "microworld"))
    norm = np.linalg.norm(store.embeddings().values, axis=1)[:, None]
    for layer, head in ((1, 0), (1, 2), (2, 1)):
        found = table[(table["layer"] == layer) & (table["head"] == head)]
        assert found["rank"].tolist() == list(range(len(found)))
        assert len(found) == 16  # head_dim: the last is the same direction whatever is picked
        data = store.heads(layer, head).values / norm
        picks, _ = direct_textspan(data, texts.embeddings, 15)
        assert found["text"].tolist()[:15] == [texts.texts[i] for i in picks]
        np.testing.assert_allclose(found["cumulative"].iloc[-1], 1, rtol=1e-6)
    assert set(table["layer"]) == {1, 2}


def test_known_truth_is_reported_and_all_is_kept(store, described):
    assert described.known is not None
    assert described.known.attributes[0] == "shape"
    assert set(described.known.table["attribute"]) <= set(described.known.attributes)
    kept = described.result.table("descriptions").to_pandas()
    assert kept.equals(described.descriptions.astype(kept.dtypes))
    names = {"layer-01.html", "layer-02.html", "roles.html", "config.json", "provenance.json"}
    assert names <= {path.name for path in Path(described.result.url).iterdir()}
    assert described.result.provenance["images"] == 60


def test_show_prints_the_first_texts_of_every_head(store, described, capsys):
    heads = show.main(show.ShowConfig("textspan", store.url, top=2)).found
    assert [len(head.texts) for head in heads] == [2] * 6
    said = capsys.readouterr().out
    assert all(text.text in said for head in heads for text in head.texts)
    assert described.descriptions.iloc[0]["text"] == heads[0].texts[0].text
    with refused(StoreError, "no results of ablate.*facet ablate"):
        show.main(show.ShowConfig("ablate", store.url))


def test_texts_are_the_models_own_and_read_back(store):
    model = store_model(store)
    assert model.activation == "quickgelu"
    words = ["a red star", "two moons", "snow"]
    encoder = TextEncoder(store)
    first = encoder.encode("words", words)
    passed = embed(model.module, tokenizer_of(model), words)  # "snow" was met in another pool
    np.testing.assert_allclose(first.embeddings, passed, rtol=0, atol=1e-6)
    assert first.result.table("texts")["text"].to_pylist() == words
    again = TextEncoder(store)
    np.testing.assert_array_equal(again.encode("words", words).embeddings, first.embeddings)
    assert again._model is None  # nothing was loaded
    long = encoder.encode("long", ["dog " * 30, "cat"])
    assert long.too_long == 1


def test_another_model_than_the_stores_is_refused(store):
    meta = store.meta
    other = Store(store.url, replace(meta, weights="none:6"), "r")
    with pytest.raises(StoreMismatch, match="weights_digest is .* the store has"):
        store_model(other)
    from_file = Store(store.url, replace(meta, weights="mine.safetensors"), "r")
    with refused(FacetError, r"a file called mine.safetensors.*--pretrained FILE"):
        store_model(from_file)


def test_all_studies_run_from_the_store_alone(store):
    run = ablate.main(
        ablate.AblateConfig(
            store.url,
            "microworld:background",
            study=("mlps", "layers", "heads", "class-token", "textspan", "chosen"),
            label_column="background",
            reference="count == 1",
            heads=("2.0", "2.1"),
            pool="microworld",
            layers="last:1",
            texts_per_head=(4, 8),
            workers="here",
        )
    )
    whole = run.accuracy[run.accuracy["scope"] == "all"]
    assert whole["n"].eq(60).all()
    assert set(whole["series"][whole["study"] == "textspan"]) == {
        "TextSpan, microworld", "common words", "random directions",
    }  # fmt: skip
    kept = pq.read_table(f"{run.result.url}/accuracy.parquet").to_pandas()
    assert kept["accuracy"].equals(run.accuracy["accuracy"].astype(float))
    for study in run.result.config["study"]:
        shown = ablation_section(study, run.accuracy, 6, [], [], Made("facet"))
        assert shown.plots
        assert re.search(r"points \(95%|points, 95%|% \(95%", shown.found)
    shown = show.main(show.ShowConfig("ablate", store.url)).found
    assert shown.accuracy.equals(run.accuracy)


def test_what_comes_next_is_about_the_same_images(store, capsys):
    where = "shape in ('star', \"heart\")"
    found = reduce.main(reduce.ReduceConfig(store.url, where, workers="here"))
    shapes = store.images()["shape"].to_pylist()
    assert found.count() == sum(s in ("star", "heart") for s in shapes)
    assert found.count("patches") == 16 * found.count()
    described = next_config(capsys.readouterr().out)
    run = textspan.main(replace(described, pool="microworld", texts_per_head=2, workers="here"))
    assert run.result.provenance["images"] == found.count()
    ablated = next_config(capsys.readouterr().out)
    assert (ablated.reference, ablated.pool, ablated.layers) == (where, "microworld", "all")
    run = ablate.main(replace(ablated, texts_per_head=(2,), baselines=(), workers="here"))
    assert run.result.provenance["reference_images"] == found.count()
    assert next_config(capsys.readouterr().out) == report.ReportConfig(store.url)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"pool": "nothing.txt"}, PoolError, "no pool and no file"),
        ({"layers": "7"}, FacetError, "the model's layers are 0-2"),
        ({"texts_per_head": 0}, FacetError, "must be at least 1"),
        ({"where": "shape == 'cube'"}, SubsetError, "matches no image of the"),
        ({"where": "index == 0"}, FacetError, "only 1 image was counted"),
    ],
)
def test_what_cannot_be_described_is_refused(store, changes, error, message):
    fields = {
        "store": store.url,
        "pool": "microworld",
        "layers": "all",
        "workers": "here",
        **changes,
    }
    config = textspan.TextSpanConfig(**fields)
    with pytest.raises(error, match=message):
        textspan.main(config)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"classes": "microworld:color"}, PoolError, "did you mean 'colour'"),
        ({"study": ("textspan",)}, FacetError, "needs --pool"),
        ({"study": ("chosen",)}, FacetError, "go together"),
        ({"study": ("chosen",), "heads": ("3.0",)}, FacetError, "layers 0-2"),
        ({"study": ("chosen",), "heads": ("x",)}, FacetError, "write layer.head"),
        ({"label_column": "texture"}, PoolError, "labels are no class"),
        ({"label_column": "species"}, FacetError, "no column 'species'"),
        ({"reference": "shape == 'cube'"}, SubsetError, "matches no image"),
    ],
)
def test_what_cannot_be_ablated_is_refused(store, changes, error, message):
    fields = {"store": store.url, "classes": "microworld:shape", "study": ("mlps",),
              "workers": "here", **changes}  # fmt: skip
    with pytest.raises(error, match=message):
        ablate.main(ablate.AblateConfig(**fields))


def test_images_of_a_text_are_those_that_its_head_writes_most_of_it_for(store, described):
    known = encode_texts.main(encode_texts.EncodeTextsConfig(store.url, "microworld"))
    rows = dict(zip(known.texts, known.embeddings.astype(np.float64), strict=True))
    norm = np.linalg.norm(store.embeddings().values, axis=1)
    keys = store.images()["key"].to_pylist()
    found = described.result.table("images").to_pandas()
    assert len(found) == 8 * len(described.descriptions)
    for text in described.descriptions.itertuples():
        wrote = store.heads(text.layer, text.head).values @ rows[text.text] / norm
        own = found[
            (found[["layer", "head", "rank"]] == [text.layer, text.head, text.rank]).all(axis=1)
        ]
        best = np.sort(wrote)[::-1][:8]
        np.testing.assert_allclose(own["score"], best, rtol=0, atol=1e-6)
        np.testing.assert_allclose(wrote[own["image"]], best, rtol=0, atol=1e-6)
        assert own["place"].tolist() == list(range(8))
        assert own["key"].tolist() == [keys[i] for i in own["image"]]
    heads = described_heads(described.result, 2)
    assert [len(text.images) for text in heads[0].texts] == [8, 8]
    config = textspan.TextSpanConfig(
        store.url, "microworld", layers="last:1", texts_per_head=2, top_images=70,
        where="count == 1", workers="here",
    )  # fmt: skip
    few = textspan.main(config)
    alone = set(np.flatnonzero(np.array(store.images()["count"].to_pylist()) == 1))
    assert set(few.result.table("images")["image"].to_pylist()) == alone
    none = textspan.main(replace(config, top_images=0))
    assert not Path(none.result.url, "images.parquet").exists()
    assert described_heads(none.result, 1)[0].texts[0].images == ()
