"""Pictures in words, from the command to what is kept: against what the store holds."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jobs import concepts, omp, second_order
from jobs.concepts import ConceptsConfig
from jobs.recipes import concepts as recipe
from pipeline.concepts import long
from pipeline.concepts.by_neurons import ByNeurons, layer_effects, long_of
from pipeline.concepts.codes import chosen_layers, read_codes
from pipeline.concepts.wrote import stored_rows
from pipeline.images.again import load_again
from pipeline.texts import load_pool
from pipeline.texts.encoding import store_model
from storage import neurons, open_store, urls
from storage.errors import FacetError, StoreError
from storage.results import finished_results
from storage.store import Store
from tests.jobs.neuron_store import KEPT, TOP_K, neuron_store
from tests.refusals import refused

ALL = ("neurons", "published", "heads", "embedding")
OTHER = 1


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Codes of two MLP layers over two pools; of one layer coefficients are kept, too."""
    made = neuron_store(tmp_path_factory.mktemp("concepts"))
    second_order.main(
        second_order.SecondOrderConfig(
            made.url, mlp_layers=str(OTHER), top_k=TOP_K, keep="moments", workers="here"
        )
    )
    few = Path(made.url).parent / "few.txt"
    few.write_text("\n".join(load_pool("microworld").texts[:60]))
    for layer, pool, terms in ((KEPT, str(few), 5), (OTHER, "microworld", 4)):
        omp.main(omp.OmpConfig(made.url, str(layer), pool, terms=terms, workers="here"))
    omp.main(omp.OmpConfig(made.url, str(KEPT), "microworld", terms=6, workers="here"))
    return made


@pytest.fixture(scope="module")
def plain(store) -> ConceptsConfig:
    return ConceptsConfig(store.url, image=("7",), method=ALL, mlp_layers=str(KEPT), workers="here")


@pytest.fixture(scope="module")
def found(plain):
    return concepts.main(plain)


def kept(run, name="concepts"):
    return run.result.table(name).to_pandas()


def test_methods_say_what_they_are_made_of(store, found):
    layers = chosen_layers(store, [KEPT])
    effects = layer_effects(store, store_model(store), layers)
    by = ByNeurons(read_codes(layers), long_of(store, layers), effects)
    rows = stored_rows(store, 7, [KEPT], torch.device("cpu"))
    table = kept(found)
    for method in ("neurons", "published"):
        scores = replace(by, published=method == "published").scores(rows)[0]
        own = table[table["method"] == method]
        speak = own[own["score"] > 0]
        order = np.argsort(-scores, kind="stable")[: len(speak)]
        assert speak["text"].tolist() == [by.texts[i] for i in order]
        np.testing.assert_allclose(speak["score"], scores[order], rtol=1e-3, atol=1e-6)
        assert own["rank"].tolist() == list(range(len(own)))
    said = kept(found, "said").assign(share=lambda t: t["coefficient"] * t["weight"])
    sums = said.groupby(["method", "text"])["share"].sum()
    for row in table[table["method"] != "embedding"].itertuples():
        assert sums[row.method, row.text] == pytest.approx(row.score, rel=1e-6, abs=1e-9)
        assert row.parts == ((said["method"] == row.method) & (said["text"] == row.text)).sum()
    assert (table[table["method"] == "embedding"]["score"] > 0).all()
    pictures = kept(found, "pictures").set_index("method")
    assert pictures["parts"].tolist() == [store.meta.mlp_width] * 2 + [12, 1]
    left = kept(found, "left")
    shares = left[(left["method"] == "heads") & (left["part"] != "all")]["share"].sum()
    whole = left[(left["method"] == "heads") & (left["part"] == "all")]["share"].item()
    assert shares == pytest.approx(whole)
    maps = found.result.arrays("maps")
    total = maps["map"].sum(("row", "column")) + maps["class_token"] + maps["mean"]
    scores = table[table["method"] == "neurons"].set_index("text")["score"]
    np.testing.assert_allclose(total, scores[maps["text"].values], rtol=1e-4, atol=1e-7)
    assert found.found.names == ["image 7, test-3/00000007"]
    np.testing.assert_array_equal(
        found.found.pixels["image 7, test-3/00000007"].shape, (*store.meta.preprocessing["size"], 3)
    )
    page = Path(found.result.url, recipe.PAGE).read_text()
    assert table["text"].iloc[0] in page


def test_neurons_are_active_where_they_write_more_than_on_almost_all_images(store, found):
    (of,) = chosen_layers(store, [KEPT])
    norms = store.neurons(KEPT)["norms"].values
    bars = np.percentile(norms, 98, axis=0)
    known = long_of(store, [of])[KEPT]
    np.testing.assert_allclose(known.lengths_n, bars, rtol=1e-6)
    assert known.words == "longer than on 98% of 60 images"
    active = kept(found, "pictures").set_index("method")["active"]
    assert active["neurons"] == active["published"] == (norms[7] > bars).sum() > 0
    # Where no lengths are kept, the last of the top images says what is long.
    (other,) = chosen_layers(store, [OTHER])
    table = other.effects.table("neurons").to_pandas()
    of_layer = table[table["layer"] == OTHER].sort_values("neuron")["norm_large"]
    np.testing.assert_allclose(long_of(store, [other])[OTHER].lengths_n, of_layer)


def test_of_bad_images_alone_no_length_says_what_is_long(store, tmp_path):
    other = open_store(str(shutil.copytree(store.url, tmp_path / "other")))
    urls.open_group(neurons.group_url(other.url, KEPT), mode="r+")["norms"][:] = np.nan
    (of,) = chosen_layers(other, [KEPT])
    assert long_of(other, [of])[KEPT].words == "longer than on the last of its top images"


def test_of_many_images_some_of_all_parts_of_the_store_say_what_is_long(store, monkeypatch):
    """Of a folder of classes, the first so many would all be of the first ones."""
    (of,) = chosen_layers(store, [KEPT])
    monkeypatch.setattr(long, "SAMPLE", 20)
    norms = store.neurons(KEPT)["norms"].values[[*range(0, 32, 4), *range(32, 60, 3)]]
    found = long_of(store, [of])[KEPT]
    np.testing.assert_allclose(found.lengths_n, np.percentile(norms, 98, axis=0), rtol=1e-6)
    assert found.words == "longer than on 98% of 18 images"


def test_a_file_gives_what_the_stores_image_gives(store, plain, found, tmp_path):
    (tmp_path / "a").mkdir()
    for place in ("seven.png", "a/seven.png"):
        Image.fromarray(np.asarray(load_again(store, 7))).save(tmp_path / place)
    files = tuple(str(tmp_path / place) for place in ("seven.png", "a/seven.png", "seven.png"))
    run = concepts.main(replace(plain, image=(), picture=files))
    assert run.found.names == list(files[:2])  # of one name: they are told apart
    of_image = kept(found)
    for name in files[:2]:
        of_file = kept(run)
        of_file = of_file[of_file["picture"] == name]
        assert (of_file["image"] == -1).all()
        assert of_file["text"].tolist() == of_image["text"].tolist()
        np.testing.assert_allclose(of_file["score"], of_image["score"], rtol=1e-4, atol=1e-6)
    both = concepts.main(replace(plain, image=("7", "test-3/00000007", "9")))
    assert [name[:8] for name in both.found.names] == ["image 7,", "image 9,"]


def test_settings_of_concepts(store, plain, found, capsys):
    concepts.main(plain)
    assert "this very run was finished before" in capsys.readouterr().out
    layers = concepts.main(replace(plain, method=("neurons",), mlp_layers=None))
    assert set(kept(layers, "said")["layer"]) == {OTHER, KEPT}
    assert layers.result.provenance["mlp_layers"] == [OTHER, KEPT]
    assert "last of its top images" in layers.result.provenance["long"][str(OTHER)]
    assert "98% of 60 images" in layers.result.provenance["long"][str(KEPT)]
    few = str(Path(store.url).parent / "few.txt")
    pool = concepts.main(replace(plain, pool=few))
    assert set(kept(pool)["text"]) <= set(Path(few).read_text().splitlines())
    assert not set(kept(found)["text"]) <= set(Path(few).read_text().splitlines())
    heads = concepts.main(replace(plain, method=("heads",), mlp_layers=None, layers="last:1"))
    assert set(kept(heads, "said")["layer"]) == {3}
    assert set(kept(found, "said").query("method == 'heads'")["layer"]) == {0, 1, 2, 3}
    terms = concepts.main(replace(plain, terms=1, top=100))
    assert kept(terms, "said").groupby(["method", "layer", "part"]).size().max() == 1
    assert (kept(terms).groupby("method").size()["embedding"]) == 1
    fewer = concepts.main(replace(plain, top=2))
    speak = kept(fewer)[kept(fewer)["score"] > 0]
    assert (speak.groupby("method").size() == 2).all()
    assert kept(fewer).groupby("method").size().max() <= 4


def test_a_picture_that_is_gone_is_told_from_what_the_store_keeps(store, plain, found, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(store.url, place)
    gone = replace(plain, store=str(place), image=("7",))
    with pytest.MonkeyPatch.context() as patch:
        unreadable = "pipeline.heatmaps.seen.load_again"
        patch.setattr(unreadable, _not_there)
        run = concepts.main(gone)
        other = replace(gone, mlp_layers=str(OTHER), method=("neurons",))
        with refused(FacetError, "image 7 is not to be had.*does not keep what is asked"):
            concepts.main(other)
    assert run.found.maps == []
    assert kept(run)["text"].tolist() == kept(found)["text"].tolist()
    np.testing.assert_allclose(kept(run)["score"], kept(found)["score"], rtol=1e-3, atol=1e-6)


def test_which_lengths_are_kept_decides_what_is_found(plain, found, tmp_path):
    place = str(tmp_path / "copy")
    shutil.copytree(plain.store, place)
    one = replace(plain, store=place, method=("neurons",))
    first = concepts.main(one).result
    assert concepts.main(one).result.name == first.name
    neurons.forget(place, KEPT, "norms")
    again = concepts.main(one).result
    assert again.name != first.name
    assert again.provenance["long"] != first.provenance["long"]


def _not_there(*_: object) -> None:
    from pipeline.images.errors import SourceUnavailable

    raise SourceUnavailable("the folder is gone")


def test_what_cannot_be_told_is_refused(store, plain, tmp_path):
    for changes, words in (
        ({"image": ()}, "give pictures, --image KEY or number, of the store, or --picture FILE"),
        ({"picture": ("a.png",)}, "give pictures"),
        ({"image": ("60",)}, "by number, its images are 0-59"),
        ({"image": (), "picture": ("gone.png",)}, "--picture gone.png: there is no such file"),
        ({"mlp_layers": "3"}, "neurons of MLP layers 0 to 2 have second-order effects"),
        ({"layers": "9"}, "layer"),
        ({"method": ("heads",)}, "--mlp-layers belongs to --method neurons or published"),
        ({"method": ("neurons",), "layers": "all"}, "--layers belongs to --method heads"),
        ({"top": 0}, "--top 0"),
        ({"terms": 0}, "--terms 0"),
        ({"mlp_layers": "0"}, "no codes of MLP layers 0 in .*facet omp --store .* --mlp-layers 0"),
        ({"pool": "imagenet-classes"}, "no codes of MLP layers 2 over imagenet-classes in"),
    ):
        with refused(FacetError, words):
            concepts.main(replace(plain, **changes))
    bare = tmp_path / "bare"
    shutil.copytree(store.url, bare, ignore=shutil.ignore_patterns("results"))
    with refused(StoreError, "no codes of any neurons in .*facet omp"):
        concepts.main(replace(plain, store=str(bare), mlp_layers=None))
    with refused(FacetError, "no neurons are coded in .*which texts may be said with --pool"):
        concepts.main(replace(plain, store=str(bare), mlp_layers=None, method=("embedding",)))
    given = replace(plain, store=str(bare), mlp_layers=None, method=("embedding",))
    run = concepts.main(replace(given, pool="microworld"))
    assert len(run.found.of(run.found.names[0], "embedding")) > 3
    assert finished_results(open_store(str(bare)).url, "omp") == []
