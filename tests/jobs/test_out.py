"""A store that may only be read is analysed all the same: what is found is kept elsewhere."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from jobs import (
    ablate,
    concepts,
    encode_texts,
    extract,
    heatmap,
    omp,
    reduce,
    search,
    second_order,
    segment,
    show,
    status,
    textspan,
)
from storage import open_store
from storage.errors import FacetError
from storage.results import finished_results
from storage.store import Store
from tests.jobs.neuron_store import KEPT, TOP_K
from tests.refusals import refused

FOUND = "all is done: this very run was finished before"
ALONE = ("reductions.zarr", "results", "neurons", "neurons.zarr", "weights.json")


def tree(url: str) -> dict[str, tuple[int, int]]:
    """When every file and folder was changed last, and how long it is: a probe would show."""
    found = [Path(url), *Path(url).rglob("*")]
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in found}


@pytest.fixture
def store(neurons_kept, tmp_path) -> Store:
    """A store of which nothing was found yet, of this test alone."""
    shutil.copytree(neurons_kept.url, tmp_path / "store")
    for name in ALONE:
        path = tmp_path / "store" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "store/contributions.zarr/neurons", ignore_errors=True)
    return open_store(str(tmp_path / "store"))


def test_every_job_that_analyses_writes_to_out_alone(store, tmp_path, capsys):
    place, url = str(tmp_path / "place"), store.url
    given = {"store": url, "out": place}
    here = {**given, "workers": "here"}
    before = tree(url)

    reduced = reduce.main(reduce.ReduceConfig(**here, where="shape == 'star'"))
    assert reduced.head_mean(1, 0).shape == (store.meta.embed,)
    encode_texts.main(encode_texts.EncodeTextsConfig(**given, pool="microworld"))
    described = textspan.main(
        textspan.TextSpanConfig(**here, pool="microworld", layers="last:1", texts_per_head=2)
    )
    asked = second_order.SecondOrderConfig(**here, mlp_layers=str(KEPT), top_k=TOP_K)
    effects = second_order.main(asked)
    coded = omp.OmpConfig(
        **here, mlp_layers=str(KEPT), pool="microworld", terms=4, classes="microworld:shape"
    )
    found = omp.main(coded)
    classified = ablate.main(
        ablate.AblateConfig(
            **here, classes="microworld:shape", study=("mlps", "neurons"), mlp_layers=str(KEPT)
        )
    )
    mapped = heatmap.main(heatmap.HeatmapConfig(**given, image="3", text=("a red star",)))
    said = concepts.main(concepts.ConceptsConfig(**here, image=("3",)))
    nearest = search.main(search.SearchConfig(**here, image=("3",), heads=("2.1",)))
    held = segment.main(
        segment.SegmentConfig(
            **here, classes="microworld:shape", methods=("neurons",), mlp_layers=str(KEPT)
        )
    )
    for run in (described, effects, found, classified, mapped, said, nearest, held):
        assert run.result.url.startswith(f"{place}/results/")

    # From now on the place is all that has to be named.
    capsys.readouterr()
    second_order.main(replace(asked, store=place, out=None))
    omp.main(replace(coded, store=place, out=None))
    assert capsys.readouterr().out.count(FOUND) == 2
    show.main(show.ShowConfig("neuron", place, layer=KEPT, neuron=3))
    told = status.main(status.StatusConfig(place))
    assert told.extraction.images_ok == 60
    assert {r["job"] for r in told.results} >= {"textspan", "second_order", "omp", "ablate"}
    view = open_store(place)
    assert view.validate() == []
    assert tree(url) == before

    # It is what would be found in the store.
    again = textspan.main(
        textspan.TextSpanConfig(
            url, "microworld", layers="last:1", texts_per_head=2, workers="here"
        )
    )
    pd.testing.assert_frame_equal(again.descriptions, described.descriptions)
    inside = second_order.main(replace(asked, out=None))
    pd.testing.assert_frame_equal(inside.neurons, effects.neurons)


def test_a_store_that_grows_under_its_view(store, tmp_path):
    place = str(tmp_path / "place")
    asked = second_order.SecondOrderConfig(
        store.url, mlp_layers=str(KEPT), top_k=TOP_K, out=place, workers="here"
    )
    described = textspan.TextSpanConfig(
        store.url, "microworld", layers="last:1", texts_per_head=2, out=place, workers="here"
    )
    second_order.main(asked)
    textspan.main(described)
    more = extract.ExtractConfig(
        images="microworld:n=70,seed=3,split=test",
        model=store.meta.architecture,
        pretrained="none",
        store=store.url,
        store_dtype="float32",
        shard_size=32,
        seed=5,
        workers="here",
    )
    with refused(FacetError, f"--store {place} holds what was found of {store.url}: images go"):
        extract.main(replace(more, store=place))
    grown = extract.main(more)
    assert grown.meta.images == 70
    assert textspan.main(described).result.provenance["images"] == 70
    coded = omp.OmpConfig(place, str(KEPT), "microworld", terms=4, workers="here")
    with refused(FacetError, r"are over 60 images.*run `facet second-order .*` again"):
        omp.main(coded)
    effects = second_order.main(asked)
    assert effects.result.provenance["images"] == 70
    alone = second_order.main(replace(asked, out=None))
    pd.testing.assert_frame_equal(effects.neurons, alone.neurons)
    assert open_store(place).validate() == []
    assert len(finished_results(place, "second_order")) == 2


def test_a_place_that_is_not_there_is_not_made_for_a_mistake(store, tmp_path):
    place = tmp_path / "place"
    with refused(FacetError, "no column 'shap'"):
        reduce.main(
            reduce.ReduceConfig(store.url, "shap == 'star'", out=str(place), workers="here")
        )
    assert not os.path.exists(place)
