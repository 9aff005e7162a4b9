"""No result is taken for that of another configuration, whatever changed under the same names."""

import shutil
from dataclasses import replace

import pytest

from jobs import ablate, extract, omp, second_order, show, textspan
from pipeline.neurons.results import second_order_result
from storage import open_store
from storage.errors import StoreError
from storage.results import finished_results, latest_result
from tests.jobs.neuron_store import KEPT, TOP_K
from tests.refusals import refused

FOUND = "all is done: this very run was finished before"


@pytest.fixture
def store(neurons_kept, tmp_path):
    """A store with neurons, of this test alone."""
    shutil.copytree(neurons_kept.url, tmp_path / "store")
    for job in ("omp", "ablate"):  # of other tests
        shutil.rmtree(tmp_path / "store" / "results" / job, ignore_errors=True)
    return open_store(str(tmp_path / "store"), mode="r+")


@pytest.fixture
def effects(store):
    """The second-order run of the store's layer that is kept."""
    return second_order.SecondOrderConfig(
        store.url, mlp_layers=str(KEPT), top_k=TOP_K, workers="here"
    )


def test_a_pool_file_that_holds_one_thing_then_another_then_the_first_again(
    store, tmp_path, capsys
):
    pool = tmp_path / "pool.txt"
    config = textspan.TextSpanConfig(
        store.url, str(pool), layers="last:1", texts_per_head=2, workers="here"
    )
    texts = {"a": {"red", "green", "blue"}, "b": {"night", "snow", "sand"}}
    names = []
    for content in "aba":
        pool.write_text("\n".join(sorted(texts[content])))
        capsys.readouterr()
        found = textspan.main(config)
        assert (FOUND in capsys.readouterr().out) == (len(names) == 2)
        assert set(found.descriptions["text"]) <= texts[content]
        latest = latest_result(store.url, "textspan")
        assert latest.table("descriptions").to_pandas().equals(found.descriptions)
        names.append(latest.name)
    assert names[0] == names[2] != names[1]
    assert found.known is not None  # read back, as it was found
    assert found.known.shares.shape == (4, 3, len(found.known.attributes))
    show.main(show.ShowConfig("textspan", store.url))
    assert "red" in capsys.readouterr().out


def test_directions_are_those_that_were_asked_for_last(store, effects, tmp_path, capsys):
    coded = omp.OmpConfig(store.url, str(KEPT), "microworld", terms=4, workers="here")
    look = show.ShowConfig("neuron", store.url, layer=KEPT, neuron=3, out=str(tmp_path))
    first = omp.main(coded)
    second_order.main(replace(effects, top_k=5))
    show.main(look)  # the codes at hand are of other directions
    assert "none: run `facet omp" in " ".join(capsys.readouterr().out.split())
    second = omp.main(coded)
    second_order.main(effects)
    assert FOUND in capsys.readouterr().out
    assert second_order_result(store, [KEPT]).config["top_k"] == TOP_K
    third = omp.main(coded)
    assert FOUND in capsys.readouterr().out
    assert third.result.name == first.result.name != second.result.name
    assert third.codes.equals(first.codes)
    assert third.truths[KEPT].table.equals(first.truths[KEPT].table)
    assert third.truths[KEPT].draws.tolist() == first.truths[KEPT].draws.tolist()
    show.main(look)
    assert "none: run" not in capsys.readouterr().out


def test_a_store_that_has_grown(store, effects, tmp_path, capsys):
    config = textspan.TextSpanConfig(
        store.url, "microworld", layers="last:1", texts_per_head=2, workers="here"
    )
    before = textspan.main(config)
    extract.main(
        extract.ExtractConfig(
            images="microworld:n=70,seed=3,split=test",
            model=store.meta.architecture,
            pretrained="none",
            store=store.url,
            store_dtype="float32",
            shard_size=32,
            seed=5,
            workers="here",
        )
    )
    with refused(StoreError, r"are over 60 images.*run `facet second-order .*` again"):
        omp.main(omp.OmpConfig(store.url, str(KEPT), "microworld", terms=4, workers="here"))
    classified = ablate.AblateConfig(
        store.url, "microworld:shape", study=("neurons",), mlp_layers=str(KEPT), workers="here"
    )
    with pytest.raises(StoreError, match="are over 60 images"):
        ablate.main(classified)
    show.main(show.ShowConfig("second-order", store.url))
    assert "NOTE: this was found over other images" in capsys.readouterr().out
    after = textspan.main(config)
    assert FOUND not in capsys.readouterr().out
    assert (before.result.provenance["images"], after.result.provenance["images"]) == (60, 70)
    second_order.main(effects)
    assert second_order_result(open_store(store.url), [KEPT]).provenance["images"] == 70


def test_a_classes_file_of_another_content_and_means_over_other_images(store, tmp_path, capsys):
    classes = tmp_path / "classes.txt"
    config = ablate.AblateConfig(
        store.url,
        str(classes),
        study=("mlps", "neurons"),
        label_column="count",
        mlp_layers=str(KEPT),
        workers="here",
    )
    classes.write_text("1\tone\n2\ttwo\n3\tthree\n4\tfour\n")
    first = ablate.main(config)
    classes.write_text("1\tfour\n2\ttwo\n3\tone\n4\tthree\n")
    second = ablate.main(config)
    assert first.result.url != second.result.url
    assert not first.accuracy.equals(second.accuracy)
    classes.write_text("1\tone\n2\ttwo\n3\tthree\n4\tfour\n")
    capsys.readouterr()
    third = ablate.main(config)
    assert FOUND in capsys.readouterr().out
    assert third.accuracy.equals(first.accuracy)
    assert len(finished_results(store.url, "ablate")) == 2
    of = "label in ('star', 'heart')"
    some = ablate.main(replace(config, reference=of))
    # This model's neurons change no prediction; what their means are over is seen on the way.
    assert f"means of MLP layer {KEPT}: shards" in capsys.readouterr().out
    labels = store.images()["label"].to_pylist()
    known = some.result.provenance["reference_images"]
    assert known == labels.count("star") + labels.count("heart") < 60
    a, b = (r.accuracy[r.accuracy["study"] == "mlps"] for r in (third, some))
    assert a["accuracy"].tolist() != b["accuracy"].tolist()
