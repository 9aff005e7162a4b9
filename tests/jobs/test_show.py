"""What `facet show` prints of every kind of result for machines: that, and nothing else."""

import io
import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

from jobs import show, status
from jobs.recipes import show as recipe
from jobs.show import ShowConfig
from pipeline.cluster import machines
from pipeline.extraction.run import Workers
from pipeline.heads.tables import ABLATIONS, DESCRIPTIONS
from pipeline.heatmaps.tables import SEGMENTATION
from pipeline.models import ModelSpec, load_model
from pipeline.neurons import about, lengths
from pipeline.neurons.phases import Effects, find_effects
from pipeline.neurons.tables import CODES, NEURONS
from pipeline.pages.plain import to_json
from pipeline.rosetta import page
from pipeline.rosetta.tables import SHARED
from pipeline.subsets import spread
from storage import urls
from storage.errors import FacetError, StoreError
from storage.results import as_table, save_result
from storage.store import Store, open_store
from tests.pipeline.adversarial.chain import save_chain
from tests.pipeline.concepts.kept import save_pictures, save_subset
from tests.pipeline.extraction.kit import extract_all, new_store
from tests.pipeline.heatmaps.segmented import SHOWN, segmented
from tests.pipeline.neurons.kit import CONFIG
from tests.pipeline.rosetta.mined import mined
from tests.refusals import refused
from tests.storage import stores
from tests.tiny import write_config

LAYER, NEURON, IMAGES, SHARD = 2, 7, 40, 16
SCHEMAS = {**NEURONS, **CODES, **DESCRIPTIONS, **SEGMENTATION}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = write_config(tmp_path_factory.mktemp("model"), CONFIG)
    return load_model(ModelSpec(path, "none", 5))


@pytest.fixture(scope="module")
def store(model, tmp_path_factory) -> Store:
    """A store with a result of every job; those of texts are made up."""
    folder = tmp_path_factory.mktemp("show")
    made = new_store(folder / "store", f"microworld:n={IMAGES},seed=3,split=test", model, SHARD)
    extract_all(made, model)
    store = open_store(made.url, mode="r+")
    machines.work("here")
    tables, directions, _ = find_effects(
        Effects(
            store, model, Workers("cpu", 1, 1, 7), 0, (LAYER,), "coefficients", 10, "float32",
            False, lambda what, total: nullcontext(lambda n: None), print,
        )
    )  # fmt: skip
    effects = keep(store, "second_order", {"mlp_layers": [LAYER]}, tables, components=directions)
    texts = ["a red star", "snow", "sand"]
    neuron = {"layer": LAYER, "neuron": NEURON}
    codes = pd.DataFrame(
        [{**neuron, "rank": i, "text": t, "coefficient": 0.5 - i} for i, t in enumerate(texts)]
    )
    known = {"mlp_layers": [LAYER], "second_order": effects.url, "truth": {"2": [["AUC", "high"]]}}
    keep(store, "omp", known, {"codes": codes, "accuracy": accuracy()}, {"classes": "x"})
    descriptions = pd.DataFrame(
        [
            {"layer": 3, "head": head, "rank": i, "text": t, "score": 2.0 - i,
             "explained_variance": 0.5, "cumulative": 0.5 + i / 4}
            for head in range(2) for i, t in enumerate(texts)
        ]
    )  # fmt: skip
    roles = pd.DataFrame(
        [{"layer": 3, "head": 1, "attribute": "place", "share": 0.75, "variance": 2.0,
          "texts_about": 2}]
    )  # fmt: skip
    shares = xr.Dataset(
        {"share": (("layer", "head", "attribute"), np.full((4, 2, 2), 0.25))},
        attrs={"attributes": ["shape", "place"]},
    )
    tables = {"descriptions": descriptions, "roles": roles}
    keep(store, "textspan", {"truth": True, "identity": {}}, tables, shares=shares)
    keep(store, "ablate", {}, {"accuracy": accuracy()}, {"study": ["mlps"]})
    keep(store, "segment", {}, segmented(folder)[0], {"classes": "microworld:shape"})
    return store


def accuracy() -> pd.DataFrame:
    row = {f.name: 0.5 if f.type == pa.float64() else "all" for f in ABLATIONS["accuracy"]}
    return pd.DataFrame([{**row, "n": 40, "study": s, "ablation": s} for s in ("none", "mlps")])


def keep(store, job, known, tables, config=None, **arrays):
    return save_result(
        store.url, job, config or {}, known,
        tables={n: as_table(t, SCHEMAS[n]) for n, t in tables.items()},
        arrays=arrays,
    )  # fmt: skip


def told(config, capsys, monkeypatch) -> dict:
    """The document; whatever finds the answer may say what it likes."""
    opened = recipe.open_store

    def loud(url):
        print("on the way")
        return opened(url)

    monkeypatch.setattr(recipe, "open_store", loud)
    show.main(config)
    return strict(capsys.readouterr().out)


def strict(said: str) -> dict:
    def refuse(name):
        pytest.fail(f"{name} is no JSON")

    return json.loads(said, parse_constant=refuse)


def test_heads(store, capsys, monkeypatch):
    said = told(ShowConfig("textspan", store.url, top=2, format="json"), capsys, monkeypatch)
    first, second = said["found"]
    assert [t["text"] for t in first["texts"]] == ["a red star", "snow"]
    assert first["role"] is None
    assert second["role"] == {
        "attribute": "place", "shares": {"shape": 0.25, "place": 0.25}, "variance": 2.0,
        "texts_about": 2,
    }  # fmt: skip
    assert "/results/textspan/" in said["result"]


def test_ablations(store, capsys, monkeypatch):
    said = told(ShowConfig("ablate", store.url, format="json"), capsys, monkeypatch)
    assert [row["ablation"] for row in said["found"]["accuracy"]] == ["none", "mlps"]
    assert said["found"]["effects"] is None
    assert said["older"] is False


def test_concepts_of_pictures(tmp_path, capsys, monkeypatch):
    store = stores.new_store(str(tmp_path / "store"))
    save_pictures(store.url)
    found = told(ShowConfig("concepts", store.url, format="json"), capsys, monkeypatch)["found"]
    assert found["concepts"][2]["text"] == "snow & ice"
    assert found["maps"][0]["map_rc"] == [[0.05] * 4] * 4
    assert found["over"] is None
    assert "pixels" not in found
    show.main(ShowConfig("concepts", store.url, top=1))
    said = capsys.readouterr().out
    assert "a red star" in said
    assert "snow & ice" in said  # what is spoken against
    assert "two moons" not in said
    save_subset(store.url)
    show.main(ShowConfig("concepts", store.url, format="csv"))
    assert pd.read_csv(io.StringIO(capsys.readouterr().out))["text"].tolist() == ["snow", "sand"]


def test_adversarial_images(tmp_path, capsys, monkeypatch):
    store = stores.new_store(str(tmp_path / "store"))
    save_chain(store.url)
    found = told(ShowConfig("adversarial", store.url, format="json"), capsys, monkeypatch)["found"]
    assert [row["source"] for row in found["table"]] == ["second-order", "random", "none"]
    assert found["descriptions"][0]["cues"] == ["snow", "<b> & night"]
    gone = {"source": "random", "file": "", "outcome": "refused", "margin": None}
    assert gone.items() <= found["judged"][2].items()
    assert found["maps"][0]["file"] == found["judged"][0]["file"]
    show.main(ShowConfig("adversarial", store.url, format="csv"))
    flat = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert flat["fooled"].tolist() == [41.5, 3.0, 0.0]


def test_second_order_effects(store, capsys, monkeypatch):
    rows = told(ShowConfig("second-order", store.url, format="json"), capsys, monkeypatch)["found"]
    assert len(rows) == 20
    assert rows[0]["norm_large"] == max(row["norm_large"] for row in rows)
    assert all(row["explained"] is None for row in rows)  # no covariances were gathered


def test_codes(store, capsys, monkeypatch):
    found = told(ShowConfig("omp", store.url, top=2, format="json"), capsys, monkeypatch)["found"]
    assert found["neurons"] == [
        {"layer": LAYER, "neuron": NEURON, "texts": [
            {"text": "a red star", "coefficient": 0.5}, {"text": "snow", "coefficient": -0.5}]}
    ]  # fmt: skip
    assert found["truth"] == {"2": {"AUC": "high"}}
    assert len(found["accuracy"]) == 2


def test_methods_held_to_masks(store, capsys, monkeypatch):
    found = told(ShowConfig("segment", store.url, format="json"), capsys, monkeypatch)["found"]
    assert set(found) == {"methods", "differences", "classes", "curve"}
    assert [row["method"] for row in found["methods"]] == 2 * SHOWN
    show.main(ShowConfig("segment", store.url))
    tables = capsys.readouterr().out.split("Maps against masks, ")[1:]
    assert len(tables) == 2
    for of in tables:
        protocol, *lines = of.splitlines()
        rows = [row for row in found["methods"] if row["protocol"] == protocol.strip()]
        best = max(rows, key=lambda row: row["miou"])
        first = next(line for line in lines if "%" in line and "95%" not in line)
        assert best["method"] in first
        assert f"{best['miou']:.1%}" in first


def test_one_neuron(store, model, capsys, monkeypatch):
    monkeypatch.setattr(about, "store_model", lambda store, pretrained: model)
    config = ShowConfig("neuron", store.url, layer=LAYER, neuron=NEURON, top=1, format="json")
    found = told(config, capsys, monkeypatch)["found"]
    assert [t["text"] for t in found["texts"]] == ["a red star"]
    assert found["figures"]["explained"] is None
    assert found["figures"]["norm_max"] == pytest.approx(found["images"][0]["norm"])
    assert len(found["images"]) == 8
    first = found["images"][0]
    row = store.images(first["image"], first["image"] + 1).to_pylist()[0]
    assert (first["key"], first["caption"]) == (row["key"], row["caption"])
    assert np.array(first["activations"]).shape == (4, 4)
    assert np.array(first["activations"]).max() == pytest.approx(first["peak"], rel=1e-3)
    assert "pixels" not in first
    assert sum(found["norms"]["counts"]) == IMAGES
    assert len(found["norms"]["edges"]) == 41
    assert not [n for n in urls.list_names(store.url) if n.endswith(".html")]


def test_concepts(tmp_path, capsys, monkeypatch):
    url = mined(str(tmp_path / "mined"))
    said = told(ShowConfig("rosetta", url, format="json"), capsys, monkeypatch)
    assert [c["number"] for c in said["found"]["concepts"]] == [2, 1, 0]
    members = said["found"]["concepts"][0]["members"]
    assert [(m["layer"], m["unit"]) for m in members] == [("act3", 1), ("act3", 2)]
    entry = said["found"]["entries"][0]
    assert set(entry) == {"concept", "keys"}
    assert len(entry["keys"]) == 6
    assert {row["pairing"] for row in said["found"]["truth"]} == {"shared", "random"}
    assert not urls.exists(urls.join(said["result"], "dictionary.html"))


def test_flat_tables(store, tmp_path, capsys, monkeypatch):
    laws = {
        "textspan": DESCRIPTIONS["descriptions"], "ablate": ABLATIONS["accuracy"],
        "second-order": NEURONS["neurons"], "omp": CODES["codes"],
        "segment": SEGMENTATION["methods"],
    }  # fmt: skip
    for what, law in laws.items():
        out = str(tmp_path / f"{what}.parquet")
        capsys.readouterr()
        show.main(ShowConfig(what, store.url, format="csv"))
        told = pd.read_csv(io.StringIO(capsys.readouterr().out))
        show.main(ShowConfig(what, store.url, format="parquet", out=out))
        assert list(told.columns) == law.names
        kept = pq.read_table(out)
        assert kept.select(law.names).cast(law).num_rows == len(told) > 0
        pd.testing.assert_frame_equal(kept.to_pandas(), told, check_dtype=False)
    with pytest.raises(FacetError, match="--format parquet needs --out FILE"):
        show.main(ShowConfig("omp", store.url, format="parquet"))
    with pytest.raises(FacetError, match="--format parquet needs --out FILE"):
        show.main(ShowConfig("omp", store.url, format="parquet", out=str(tmp_path)))


def test_a_flat_table_of_concepts(tmp_path, capsys):
    show.main(ShowConfig("rosetta", mined(str(tmp_path / "mined")), format="csv"))
    told = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert set(told.columns) < set(SHARED["concepts"].names)
    assert told["concept"].tolist() == [2, 1, 0]


def test_the_list_of_results(store, capsys, monkeypatch):
    said = told(ShowConfig("results", store.url, format="json"), capsys, monkeypatch)["found"]
    assert {row["job"] for row in said} == {"ablate", "omp", "second_order", "segment", "textspan"}
    ablation = next(row for row in said if row["job"] == "ablate")
    assert ablation["settings"] == {"study": ["mlps"]}
    assert urls.exists(urls.join(store.url, ablation["address"], "accuracy.parquet"))
    show.main(ShowConfig("results", store.url))
    said = capsys.readouterr().out
    assert "study=mlps" in said
    assert ablation["address"] in said
    with pytest.raises(StoreError, match="no store at"):
        show.main(ShowConfig("results", urls.join(store.url, "ledger")))


def test_a_store(store, capsys):
    for name, finished in (("nightly", "2026-02-01"), ("first", "2026-01-01")):
        summary = {"run": name, "ok": name == "first", "finished": finished, "stages": []}
        place = urls.join(store.url, "results", "run", f"{name}.json")
        urls.put_bytes(place, json.dumps(summary).encode())
    status.main(status.StatusConfig(store.url, format="json"))
    said = strict(capsys.readouterr().out)
    assert said["extraction"]["images_ok"] == IMAGES
    assert [run["run"] for run in said["runs"]] == ["first", "nightly"]
    status.main(status.StatusConfig(store.url))
    assert "failed, 2026-02-01" in capsys.readouterr().out
    assert {r["job"] for r in said["results"]} == {
        "ablate",
        "omp",
        "second_order",
        "segment",
        "textspan",
    }


def test_pictures_are_not_asked_for_in_json(store):
    with pytest.raises(FacetError, match="--out belongs to pages"):
        show.main(
            ShowConfig("neuron", store.url, layer=LAYER, neuron=NEURON, out="x", format="json")
        )


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_drawn(store, monkeypatch):
    class Begun(Exception):
        pass

    def begin(*_: object) -> None:
        raise Begun

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(about, "about_neuron", begin)
    monkeypatch.setattr(page, "find_dictionary", begin)
    monkeypatch.setattr(recipe, "find_setup", lambda url: url)
    monkeypatch.setattr(urls, "put_bytes", refuse)
    asked = (
        ShowConfig("neuron", store.url, layer=LAYER, neuron=NEURON),
        ShowConfig("rosetta", store.url),
    )
    for config in asked:
        with refused(StoreError, f"cannot write to {store.url}: .*Choose a --out where"):
            show.main(config)
        with pytest.raises(Begun):  # nothing is drawn
            show.main(replace(config, format="json"))


def test_what_is_unknown_is_null_and_types_are_plain():
    values = {
        1: np.float32(0.5), "nan": np.nan, "inf": -np.inf, "array": np.array([1.0, np.nan]),
        "table": pd.DataFrame({"n": [1], "x": [np.nan]}), "flag": np.bool_(True), "é": (None, "é"),
    }  # fmt: skip
    assert strict(to_json(values)) == {
        "1": 0.5, "nan": None, "inf": None, "array": [1.0, None], "table": [{"n": 1, "x": None}],
        "flag": True, "é": [None, "é"],
    }  # fmt: skip
    with pytest.raises(TypeError, match="object has no form"):
        to_json(object())


class Reads:
    """A group of arrays that notes the shape of all that is read."""

    def __init__(self, group):
        self.group, self.shapes = group, []

    def __getitem__(self, name):
        array, shapes = self.group[name], self.shapes

        class Noted:
            def __getitem__(self, at):
                found = array[at]
                shapes.append(found.shape)
                return found

        return Noted()


def test_a_histogram_reads_one_neuron_a_shard_at_a_time(store, monkeypatch):
    reads = []

    def noted(url, mode):
        reads.append(Reads(urls.open_group(url, mode=mode)))
        return reads[-1]

    class Noting:
        open_group = staticmethod(noted)

    group = urls.open_group(f"{store.url}/contributions.zarr/neurons/{LAYER}", mode="r")
    whole = np.asarray(group["norms"])
    with monkeypatch.context() as patch:
        patch.setattr(lengths, "urls", Noting)
        found = lengths.column(store, LAYER, NEURON, [0, 1, 2])
    np.testing.assert_array_equal(found, whole[:, NEURON])
    assert [shape for read in reads for shape in read.shapes] == [(SHARD,), (SHARD,), (8,)]


def test_a_histogram_is_over_so_many_images_at_most():
    assert spread(range(5), 9) == [0, 1, 2, 3, 4]
    assert spread([3, 4, 6, 8, 9], 3) == [3, 6, 9]
    assert spread([], 3) == []
