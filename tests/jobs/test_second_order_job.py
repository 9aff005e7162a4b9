"""Second-order effects of a store, on a real Ray and a small random model."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image

from jobs import ablate, extract, second_order
from jobs.recipes import second_order as recipe
from jobs.second_order import SecondOrderConfig
from pipeline.images.bad import TooManyBadImages
from pipeline.neurons.results import second_order_result
from storage import open_store
from storage.errors import FacetError, StoreError, StoreMismatch
from tests import tiny as tiny_kit
from tests.processes import kill_in_mid_run
from tests.refusals import refused

ROOT = Path(__file__).resolve().parents[2]
TINY = tiny_kit.tiny({"width": 32, "layers": 4, "mlp_ratio": 2.0})
SOURCE = "microworld:n=60,seed=3,split=test"
LAYERS, K = (0, 2), 10


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return tiny_kit.write_config(tmp_path_factory.mktemp("model"), TINY)


@pytest.fixture(scope="module")
def extracted(tiny, tmp_path_factory) -> str:
    store = tmp_path_factory.mktemp("extracted") / "store"
    extract.main(
        extract.ExtractConfig(
            SOURCE, tiny, str(store), "none", shard_size=16, batch_size=8, seed=5, workers="here"
        )
    )
    return str(store)


def config(store, **changes) -> SecondOrderConfig:
    fields = {"store": str(store), "mlp_layers": "0,2", "top_k": K, "batch_size": 8,
              "workers": "here"}  # fmt: skip
    return SecondOrderConfig(**{**fields, **changes})


def copy(extracted, folder) -> Path:
    shutil.copytree(extracted, folder / "store")
    return folder / "store"


@pytest.fixture(scope="module")
def found(extracted, tmp_path_factory) -> recipe.SecondOrderRun:
    """Coefficients kept, in float32."""
    store = copy(extracted, tmp_path_factory.mktemp("found"))
    return second_order.main(config(store, store_dtype="float32"))


def test_actors_and_tasks_give_what_one_process_gives(found, extracted, tmp_path, ray_cluster):
    on_ray = config(copy(extracted, tmp_path), store_dtype="float32", workers="ray")
    plain = second_order.main(on_ray)
    for name in ("norm_mean", "norm_max", "norm_large", "explained_top", "explained"):
        np.testing.assert_allclose(plain.neurons[name], found.neurons[name], rtol=1e-4)
    assert found.store.validate() == []
    assert set(found.store.neurons(2)) == {"coefficients", "peaks", "norms"}
    assert second_order_result(found.store, [2]).url == found.result.url
    with refused(StoreError, r"--mlp-layers 1,2"):
        second_order_result(found.store, [2, 1])
    table = found.result.table("neurons").to_pandas()
    assert table["layer"].unique().tolist() == [0, 2]
    directions = found.result.arrays("components")["direction"]
    assert directions.shape == (2, 64, 24)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=2), 1, rtol=1e-5)


def same_tables(a, b):
    assert a.neurons.equals(b.neurons)
    assert a.top_images.equals(b.top_images)
    np.testing.assert_array_equal(a.directions["direction"], b.directions["direction"])


def test_passes_of_the_model_give_the_same(found, extracted, tmp_path):
    run = second_order.main(config(copy(extracted, tmp_path), keep="moments"))
    for name in ("norm_mean", "norm_max", "norm_large", "explained_top", "explained"):
        np.testing.assert_allclose(run.neurons[name], found.neurons[name], rtol=2e-3)
    with pytest.raises(StoreError, match="keeps no neurons of MLP layer 2"):
        run.store.neurons(2)


def stamps(store, *folders) -> dict[str, int]:
    return {
        p.relative_to(store).as_posix(): p.stat().st_mtime_ns
        for folder in folders
        for p in (Path(store) / folder).rglob("*")
        if p.is_file() and not p.name.startswith(".")  # what a kill left half written has no name
    }


def finished_rows(store) -> dict[str, int]:
    """When the parts of shards that have their rows were written.

    A shard's peaks are noted before its coefficients: a kill between the two leaves a part of
    peaks whose shard is rightly done again.
    """
    at = stamps(store, "ledger", "neurons")
    done = {n for n in at if "/coefficients/" in n}
    done |= {n.replace("/coefficients/", "/peaks/") for n in done}
    return {n: t for n, t in at.items() if n in done or n.startswith("ledger/")}


def test_the_same_command_again_does_nothing(found):
    before = stamps(found.store.url, "")
    second_order.main(config(found.store.url, store_dtype="float32"))
    assert stamps(found.store.url, "") == before


def test_a_store_is_made_and_its_bad_images_never_enter(tiny, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(14):
        pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    (folder / "05.png").write_bytes(b"not a picture")
    asked = config(
        tmp_path / "s", images=str(folder), model=tiny, pretrained="none", max_bad=0.2,
        mlp_layers="2",
    )  # fmt: skip
    run = second_order.main(asked)
    assert run.store.meta.weights == "none:0"
    assert run.result.provenance["images"] == 13
    assert 5 not in set(run.top_images["image"])
    data = run.store.neurons(2)
    assert np.isnan(data["coefficients"][5].values).all()
    assert np.isfinite(data["norms"][[4, 6]].values).all()
    assert run.store.validate() == []
    again = replace(asked, images=None, model=None, pretrained=None)
    with pytest.raises(TooManyBadImages, match="1 of 14 images are bad"):
        second_order.main(replace(again, max_bad=0.01))
    with refused(FacetError, "--top-k 14: only 13 images are ok"):
        second_order.main(replace(again, top_k=14))
    Image.fromarray(pixels[::-1].copy()).save(folder / "07.png")
    with pytest.raises(FacetError, match=r"image 7 \(.*its bytes are others"):
        second_order.main(replace(again, mlp_layers="1"))


def test_studies_of_neurons_and_their_effects(found):
    run = ablate.main(
        ablate.AblateConfig(
            found.store.url, "microworld:shape", study=("neurons", "effects", "mlps"),
            label_column="shape", mlp_layers="0,2", workers="here",
        )
    )  # fmt: skip
    whole = run.accuracy[run.accuracy["scope"] == "all"]
    assert (whole["n"] == 60).all()
    assert whole.groupby("study").size().to_dict() == {
        "none": 1, "mlps": 1, "neurons": 8, "effects": 6
    }  # fmt: skip
    assert whole[whole["study"] == "neurons"]["at"].tolist() == ["0"] * 4 + ["2"] * 4
    files = {path.name for path in Path(run.result.url).iterdir()}
    assert {"neurons.html", "effects.html", "effects.parquet", "accuracy.parquet"} <= files
    assert run.result.table("effects").to_pandas()["neurons"].eq(16).all()
    with pytest.raises(StoreError, match="second-order effects of MLP layers 1 "):
        ablate.main(
            ablate.AblateConfig(
                found.store.url, "microworld:shape", study=("neurons",), label_column="shape",
                mlp_layers="1", workers="here",
            )
        )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mlp_layers": "3"}, FacetError, "MLP layers 0 to 2 have.*after layer 3"),
        ({"mlp_layers": "9"}, FacetError, "--mlp-layers 9: neurons of MLP layers 0 to 2"),
        ({"mlp_layers": "two"}, FacetError, "--mlp-layers two"),
        ({"top_k": 0}, FacetError, "--top-k 0: must be at least 1"),
        ({"top_k": 100}, FacetError, "--top-k 100: only 60 images are ok"),
        ({"max_bad": 2.0}, FacetError, "is a fraction between 0 and 1"),
        ({"model": "ViT-B-32"}, StoreMismatch, "architecture: the store has .*'ViT-B-32'"),
        ({"pretrained": "openai"}, StoreMismatch, "weights: the store has 'none:5'"),
    ],
)
def test_mistakes_are_refused_before_the_model_runs(
    extracted, changes, error, message, monkeypatch
):
    monkeypatch.setattr(recipe, "cpu_model", None)  # calling it would be another error
    with refused(error, message):
        second_order.main(config(extracted, **changes))


def test_no_store_and_nothing_to_make_it_from(tmp_path, tiny):
    with pytest.raises(FacetError, match="no store at .*--images and --model"):
        second_order.main(config(tmp_path / "none", model=tiny))


@pytest.mark.cluster
def test_a_killed_run_ends_in_the_same_result(extracted, tmp_path, ray_cluster):
    """Kill -9 of the driver once some coefficients are there; then the same command."""

    def start(place: Path) -> subprocess.Popen:
        command = [
            sys.executable, str(ROOT / "jobs" / "second_order.py"),
            "--store", str(copy(extracted, place)), "--mlp-layers", "0,2", "--top-k", str(K),
            "--batch-size", "8", "--store-dtype", "float32",
        ]  # fmt: skip
        address = ray.get_runtime_context().gcs_address
        environment = {**os.environ, "RAY_ADDRESS": address, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    def ready(place: Path) -> bool:
        return bool(list(place.glob("*/neurons/2/coefficients/p*")))

    place = kill_in_mid_run(start, ready, [tmp_path / str(attempt) for attempt in range(3)])
    (store,) = place.iterdir()
    kept = finished_rows(store)
    run = second_order.main(config(store, store_dtype="float32", workers="ray"))
    after = finished_rows(store)
    assert kept
    assert {n: after[n] for n in kept} == kept, "a finished shard was done again"
    assert open_store(str(store)).validate() == []
    (tmp_path / "whole").mkdir()
    whole = config(copy(extracted, tmp_path / "whole"), store_dtype="float32", workers="here")
    same_tables(run, second_order.main(whole))
