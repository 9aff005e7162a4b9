"""What a subset has more of, from the command to what is kept."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs import concepts, omp, show
from jobs.concepts import ConceptsConfig
from jobs.recipes import concepts as recipe
from pipeline.concepts import subset
from pipeline.concepts.precision import AT, CELLS
from pipeline.status import status
from storage import neurons, open_store
from storage.errors import FacetError
from storage.store import Store
from tests.jobs.neuron_store import KEPT
from tests.refusals import refused

ALL = ("neurons", "published", "heads", "embedding")
WHERE = "shape in ('star', 'heart', 'moon')"


@pytest.fixture(scope="module")
def store(neurons_kept, tmp_path_factory) -> Store:
    """A copy whose one layer is coded."""
    place = tmp_path_factory.mktemp("where") / "store"
    shutil.copytree(neurons_kept.url, place)
    omp.main(omp.OmpConfig(str(place), str(KEPT), "microworld", terms=4, workers="here"))
    return open_store(str(place))


@pytest.fixture(scope="module")
def config(store) -> ConceptsConfig:
    return ConceptsConfig(store.url, where=WHERE, method=ALL, workers="here")


@pytest.fixture(scope="module")
def found(config):
    return concepts.main(config)


def table(run, name="over"):
    return run.result.table(name).to_pandas()


def test_a_subset_and_all_others_are_told_apart(store, found):
    rows = store.images().to_pandas()
    inside = int(rows["shape"].isin(["star", "heart", "moon"]).sum())
    facts = found.result.provenance
    assert (facts["inside"], facts["images"]) == (inside, 60)
    over = table(found)
    assert over["method"].unique().tolist() == list(ALL)
    for method, own in over.groupby("method"):
        assert own["rank"].tolist() == list(range(len(own)))
        assert facts["surely"][method].startswith(f"{(own['low_all'] > 0).sum()} of {len(own)} ")
    np.testing.assert_allclose(over["difference"], over["inside"] - over["outside"], atol=1e-12)
    assert (over["share_inside"] * inside).round(6).mod(1).isin([0, 1]).all()  # counts of images
    page = Path(found.result.url, recipe.PAGE).read_text()
    assert over["text"][0] in page
    assert found.found.where == WHERE


def test_how_true_concepts_are_is_told_where_that_is_known(found):
    precision = table(found, "precision")
    assert set(precision["series"]) == {
        *ALL, subset.RANDOM, subset.CHANCE, subset.NEAREST, subset.NEAREST_RAW,
    }  # fmt: skip
    assert set(precision["at"]) == set(AT)
    assert set(precision["attribute"]) <= set(CELLS)
    assert precision["precision"].between(0, 1).all()
    assert (precision["images"] == 60).all()


def test_the_same_command_finds_what_is_kept(config, found, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "scan", lambda *_: pytest.fail("it was counted again"))
    again = concepts.main(config)
    assert again.result.url == found.result.url
    assert "How true they are" in capsys.readouterr().out
    assert concepts.main(replace(config, top=3)).result.url == found.result.url  # only shown
    capsys.readouterr()
    show.main(show.ShowConfig("concepts", config.store, format="json"))
    told = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in told["found"]["over"]} == set(ALL)


def test_stopped_half_way_it_goes_on_and_ends_in_the_same(config, found, tmp_path, monkeypatch):
    place = str(tmp_path / "store")
    shutil.copytree(config.store, place)
    shutil.rmtree(Path(place, "results/concepts"))
    again, count = replace(config, store=place), subset.count_shard

    def stopped(question, shard):
        if shard:
            raise KeyboardInterrupt
        return count(question, shard)

    monkeypatch.setattr("pipeline.concepts.scan.SAVE_SECONDS", -1.0)
    monkeypatch.setattr(subset, "count_shard", stopped)
    with pytest.raises(KeyboardInterrupt):
        concepts.main(again)
    assert [one["what"] for one in status(place).unfinished] == ["concepts"]
    seen = []
    monkeypatch.setattr(subset, "count_shard", lambda q, s: seen.append(s) or count(q, s))
    run = concepts.main(again)
    assert seen == [1]
    for name in ("over", "precision"):
        assert table(run, name).equals(table(found, name))
    assert not Path(run.result.url, "counted.npz").exists()
    assert status(place).unfinished == []


def test_with_lengths_alone_the_published_method_asks_no_model(
    config, found, tmp_path, monkeypatch
):
    place = str(tmp_path / "store")
    shutil.copytree(config.store, place)
    neurons.forget(place, KEPT, "coefficients")
    monkeypatch.setattr(
        "pipeline.texts.encoding.TextEncoder.model", lambda *_: pytest.fail("asked the model")
    )
    run = concepts.main(replace(config, store=place, method=("published",)))
    ours, theirs = (table(of).set_index(["method", "text"]) for of in (run, found))
    same = ours.join(theirs.add_suffix("_before"))
    np.testing.assert_allclose(
        same["inside"], same["inside_before"], rtol=1e-3, atol=1e-3 * same["inside"].abs().max()
    )
    assert set(table(run, "precision")["series"]) >= {"published", subset.CHANCE}


def test_what_the_store_does_not_keep_passes_the_model_again(config, found, tmp_path, capsys):
    place = str(tmp_path / "store")
    shutil.copytree(config.store, place)
    for quantity in ("coefficients", "peaks", "norms"):
        neurons.forget(place, KEPT, quantity)
    run = concepts.main(replace(config, store=place, method=("neurons",)))
    assert "passes of the model" in capsys.readouterr().out
    # Without lengths, what is long is told from the top images: other neurons are active.
    assert run.result.provenance["long"] != found.result.provenance["long"]
    assert table(run)["difference"].abs().max() > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": ("3",)}, "give pictures.*or a subset, --where"),
        ({"where": "colours == 'red'"}, "no column 'colours'"),
        ({"where": "shape == 'cube'"}, "matches no image"),
        ({"where": "index < 60"}, "0 images outside of the subset.*a narrower one"),
        ({"where": "index == 3"}, "1 image in the subset.*a wider one"),
    ],
)
def test_subsets_that_cannot_be_told_apart_are_refused(config, changes, said):
    with refused(FacetError, said):
        concepts.main(replace(config, **changes))
