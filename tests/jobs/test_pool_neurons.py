"""Neurons before an attention pool through every job that asks for neurons."""

from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from jobs import ablate, adversarial, concepts, extract, omp, second_order, segment, show
from jobs.pages import as_typed, following
from jobs.recipes.second_order import SecondOrderRun
from jobs.report import ReportConfig
from jobs.report import main as report
from jobs.second_order import SecondOrderConfig
from pipeline.explorer.library import Library
from pipeline.explorer.web.app import make_app
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.setup import cpu_model
from storage import open_store
from storage.errors import FacetError
from storage.store import Store
from tests import tiny
from tests.families.zoo import POOLED, ZOO

COCA = tiny.tiny({**POOLED, "layers": 2, "mlp_ratio": 1.0})
SIGLIP = {**ZOO["siglip"].config, "text_cfg": tiny.TEXT}
KINDS = {"coca": COCA, "siglip": SIGLIP}
LAYERS = {"coca": 2, "siglip": 3}
LAST = "last:1"


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory) -> tuple[Store, SecondOrderRun]:
    """30 pictures of the embedded world, effects of the trunk's last two layers, codes of one."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    path = tiny.write_config(folder, KINDS[request.param])
    store = extract.main(
        extract.ExtractConfig(
            "microworld:n=30,seed=3,split=test", path, str(folder / "store"), "none",
            shard_size=16, batch_size=8, seed=5, store_dtype="float32", workers="here",
        )
    )  # fmt: skip
    run = second_order.main(
        SecondOrderConfig(store.url, mlp_layers="last:2", top_k=8, workers="here")
    )
    omp.main(omp.OmpConfig(store.url, LAST, "microworld", terms=2, workers="here"))
    return open_store(store.url), run


@pytest.fixture
def kind(request) -> str:
    return request.node.callspec.params["made"]


def test_what_is_kept_is_what_a_pass_gives(made, kind, capsys):
    store, run = made
    meta, layers = store.meta, LAYERS[kind]
    assert store.validate() == []
    assert (meta.layers, meta.trunk_layers, meta.second_order_layers) == (1, layers, layers)
    assert sorted(run.neurons["layer"].unique()) == [layers - 2, layers - 1]
    assert len(run.neurons) == 2 * meta.trunk_mlp_width
    assert (run.neurons["norm_max"] > 0).all()
    model = cpu_model(store)
    images = model.preprocess.to_tensor(_pixels(store, 3))
    parts = NeuronPass(model, [layers - 1], ("coefficients", "peaks"))(images)
    kept = store.neurons(layers - 1)
    assert kept["path_layer"].values.tolist() == [0] * meta.heads
    for name, found in (
        ("coefficients", parts.coefficients[layers - 1]),
        ("peaks", parts.peaks[layers - 1]),
    ):
        np.testing.assert_allclose(kept[name].values[:3], found, rtol=1e-3, atol=1e-5)
    again = second_order.main(
        SecondOrderConfig(store.url, mlp_layers="last:2", top_k=8, workers="here")
    )
    assert again.result.url == run.result.url
    told = "what neurons do through the pool's own MLP"
    assert (told in capsys.readouterr().out) == (kind == "siglip")


def _pixels(store: Store, count: int):
    import torch

    from pipeline.heatmaps.seen import resize_of
    from pipeline.images.again import load_again

    resize = resize_of(store.meta)
    return torch.from_numpy(np.stack([resize(load_again(store, i)) for i in range(count)]))


def test_maps_and_studies_and_concepts(made, kind):
    store, _ = made
    segmented = segment.main(
        segment.SegmentConfig(
            store.url, "microworld:shape", methods=("tokens", "neurons", "raw-attention"),
            mlp_layers=LAST, batch_size=8, workers="here",
        )
    )  # fmt: skip
    assert set(segmented.methods["method"]) == {"tokens all", "neurons", "raw-attention"}
    ablated = ablate.main(
        ablate.AblateConfig(
            store.url, "microworld:shape", study=("neurons", "effects"), label_column="shape",
            mlp_layers=LAST, workers="here",
        )
    )  # fmt: skip
    whole = ablated.accuracy[ablated.accuracy["scope"] == "all"]
    assert whole.groupby("study").size().to_dict() == {"none": 1, "neurons": 4, "effects": 3}
    said = concepts.main(
        concepts.ConceptsConfig(
            store.url, image=("2",), method=("neurons", "published"), workers="here"
        )
    )
    maps = said.result.arrays("maps")
    total = maps["map"].sum(("row", "column")) + maps["class_token"] + maps["mean"]
    table = said.result.table("concepts").to_pandas()
    scores = table[table["method"] == "neurons"].set_index("text")["score"]
    np.testing.assert_allclose(total, scores[maps["text"].values], rtol=1e-4, atol=1e-7)


def test_neurons_are_shown_and_mined(made, kind, tmp_path):
    store, _ = made
    layer = LAYERS[kind] - 1
    show.main(show.ShowConfig("neuron", store.url, layer=layer, neuron=4, out=str(tmp_path)))
    assert any(tmp_path.iterdir())
    with pytest.raises(FacetError, match=f"MLP layers 0 to {layer} have"):
        show.check(show.ShowConfig("neuron", store.url, layer=layer + 1, neuron=4))
    report(ReportConfig(store.url, out=str(tmp_path / "page.html")))
    page = (tmp_path / "page.html").read_text()
    assert f"MLP layer {layer}" in page
    assert ("Not in these effects: what neurons do" in page) == (kind == "siglip")
    library = Library([store.url], [], following, as_typed)
    explorer = TestClient(make_app(library), base_url="http://127.0.0.1")
    listed = explorer.get("/api/s/store/neurons").json()
    assert (listed["layer"], listed["neurons"]) == (layer, store.meta.trunk_mlp_width)
    assert bool(listed["beside"]) == (kind == "siglip")
    assert ("; not in it: what neurons" in explorer.get("/s/store/neurons").text) == (
        kind == "siglip"
    )
    assert explorer.get(f"/s/store/neuron/{layer}.4").status_code == 200
    found = adversarial.main(
        adversarial.AdversarialConfig(
            store.url, "star", "heart", sources=("second-order", "indirect"), repeats=1,
            draw_with="none", ask=4, descriptions=2, neurons=5, cues=4, workers="here",
        )
    )  # fmt: skip
    assert found.result is not None
