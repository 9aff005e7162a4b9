"""Every job that has workers, with all work in its own process, where there is little of it."""

import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from jobs import cli, extract, textspan
from jobs.settings import choose_place
from pipeline.cluster import machines
from storage import ledger, open_store, urls
from storage.errors import FacetError
from storage.results import finished_results, latest_result

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from jobs import (
    ablate, adversarial, align, compare, concepts, extract, index, label, omp, reduce, repair,
    rosetta, search, second_order, segment, textspan,
)
folder, world, shape = sys.argv[1], "microworld:n=24,seed=3,split=test", "microworld:shape"
kept = {"store": f"{folder}/store"}
extract.main(extract.ExtractConfig(
    images=world, model="microworld", pretrained="microworld", shard_size=8, batch_size=8, **kept))
reduce.main(reduce.ReduceConfig(**kept))
index.main(index.IndexConfig(**kept))
textspan.main(textspan.TextSpanConfig(
    pool="microworld", layers="last:1", texts_per_head=3, **kept))
second_order.main(second_order.SecondOrderConfig(mlp_layers="2", top_k=5, **kept))
search.main(search.SearchConfig(image=("3",), heads=("3.1",), **kept))
omp.main(omp.OmpConfig(mlp_layers="2", pool="microworld", terms=2, classes=shape,
    label_column="shape", **kept))
concepts.main(concepts.ConceptsConfig(image=("3",), method=("neurons", "heads"), **kept))
ablate.main(ablate.AblateConfig(classes=shape, label_column="shape",
    study=("mlps", "neurons"), mlp_layers="2", **kept))
adversarial.main(adversarial.AdversarialConfig(drawn="star", target="heart", cues=2, ask=4,
    repeats=1, descriptions=2, pictures=1, sources=("second-order",), **kept))
label.main(label.LabelConfig(layers="last:1", **kept))
compare.main(compare.CompareConfig(a="shape == 'star'", b="shape != 'star'", **kept))
repair.main(repair.RepairConfig(classes=shape, groups="background", heads=("3.0",), **kept))
align.main(align.AlignConfig(kept["store"], kept["store"], layers="last:1"))
segment.main(segment.SegmentConfig(classes=shape, batch_size=8, **kept))
rosetta.main(rosetta.RosettaConfig(models=("microworld", "microworld-cnn"), out=f"{folder}/shared",
    images=world, shard_size=8))
assert "ray" not in sys.modules
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """What all jobs made, one after the other in one process."""
    folder = tmp_path_factory.mktemp("here")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": "", "RAY_TMPDIR": str(folder)},  # no cluster is at hand
        timeout=600,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_job_works_here_without_ray(alone):
    store = open_store(str(alone / "store"))
    assert store.validate() == []
    made = {p.name for p in (alone / "store" / "results").iterdir()}
    assert made >= {
        "extract",
        "textspan",
        "search",
        "label",
        "second_order",
        "omp",
        "concepts",
        "ablate",
        "compare",
        "repair",
        "adversarial",
        "align",
        "segment",
    }
    assert store.reductions().count() == 24
    # Maps that are correlated are float32 throughout, elsewhere it is as torch has it.
    for place, job, convolutions in (
        (store.url, "extract", True),
        (store.url, "second_order", True),
        (str(alone / "shared"), "rosetta", False),
    ):
        facts = latest_result(place, job).provenance
        assert facts["tf32"] == {"convolutions": convolutions, "products": False}
        assert facts["workers"] == "here"
    assert (alone / "shared" / "results" / "rosetta").is_dir()


def test_a_store_made_here_is_the_one_that_ray_makes(alone, ray_cluster, tmp_path):
    config = extract.ExtractConfig(
        images="microworld:n=24,seed=3,split=test", model="microworld", pretrained="microworld",
        store=str(tmp_path / "s"), shard_size=8, batch_size=8,
    )  # fmt: skip
    found, other = extract.main(config).contributions(), open_store(str(alone / "store"))
    for name, values in other.contributions().data_vars.items():
        if values.dtype.kind == "f":  # threads split sums another way
            np.testing.assert_allclose(found[name], values, rtol=1e-2, atol=2e-3, err_msg=name)
    assert found.sizes == other.contributions().sizes
    assert latest_result(config.store, "extract").provenance["workers"] == "ray"


def test_work_begun_here_goes_on_under_ray_and_the_reverse(alone, ray_cluster, tmp_path, capsys):
    whole, place = open_store(str(alone / "store")), str(tmp_path / "s")
    shutil.copytree(whole.url, place)
    described = textspan.TextSpanConfig(
        place, "microworld", layers="last:1", texts_per_head=3, workers="ray"
    )
    textspan.main(described)
    assert "this very run was finished before" in capsys.readouterr().out
    begun = latest_result(place, "extract")
    again = extract.ExtractConfig(**{**begun.config, "store": place, "workers": "here"})
    for workers, done in (("ray", 0), ("here", 1)):  # then it is taken away, and done elsewhere
        urls.remove(ledger.part_url(place, done))
        found = extract.main(replace(again, workers=workers)).contributions()
        for name, values in whole.contributions().data_vars.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(found[name], values, rtol=1e-2, atol=2e-3, err_msg=name)
    assert [r.name for r in finished_results(place, "extract")] == [begun.name]


def test_workers_are_not_counted_where_there_is_only_this_process(tmp_path):
    config = extract.ExtractConfig("photos", "microworld", str(tmp_path / "s"), "microworld")
    asked = {f.name: getattr(config, f.name) for f in fields(config)}
    with pytest.raises(FacetError, match="--num-actors belongs to --workers ray"):
        extract.main(extract.ExtractConfig(**{**asked, "num_actors": 2, "workers": "here"}))


def test_several_copies_of_a_model_are_work_for_ray(tmp_path, monkeypatch):
    config = extract.ExtractConfig("photos", "microworld", str(tmp_path / "s"), "microworld")
    for workers, count, here in (("auto", "auto", True), ("auto", 1, True), ("auto", 2, False)):
        monkeypatch.setattr(machines, "_at_hand", lambda: False)
        choose_place(replace(config, workers=workers, num_actors=count))
        assert machines.here() is here


def test_jobs_that_have_workers_say_where():
    having = {
        name for name in cli.JOBS if "workers" in {f.name for f in fields(cli.config_of(name))}
    }
    assert having == {
        "extract", "reduce", "index", "textspan", "label", "ablate", "compare", "second-order",
        "omp", "repair", "rosetta", "search", "segment", "align", "concepts", "adversarial",
    }  # fmt: skip
