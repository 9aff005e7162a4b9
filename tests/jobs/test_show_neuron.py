"""Pictures of neurons, and the tables of second-order effects."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from jobs import omp, show
from pipeline.images.decode import read_bytes, to_image
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.results import second_order_result
from pipeline.pages.neuron_pictures import NeuronPictures
from pipeline.pages.neurons import most_selective, neuron_sections
from pipeline.texts.encoding import store_model
from storage.errors import FacetError, StoreError
from storage.store import Store
from tests.jobs.neuron_store import KEPT


@pytest.fixture(scope="module")
def store(neurons_kept) -> Store:
    return neurons_kept


@pytest.fixture(scope="module")
def coded(store) -> omp.OmpRun:
    return omp.main(omp.OmpConfig(store.url, str(KEPT), "microworld", terms=4))


@pytest.fixture(scope="module")
def pictures(store, coded) -> NeuronPictures:
    top_images = second_order_result(store, [KEPT]).table("top_images").to_pandas()
    return NeuronPictures(store, store_model(store), KEPT, top_images, coded.codes)


def test_maps_are_the_neurons_activations_on_its_top_images(store, pictures):
    model = store_model(store)
    images = pictures.top(7)["image"].tolist()
    assert len(images) == 8
    pixels = pictures.pixels(images)
    first = store.images(images[0], images[0] + 1).to_pylist()[0]
    np.testing.assert_array_equal(
        pixels[0], model.preprocess.to_uint8(to_image(first, read_bytes(first)))
    )
    batch = model.preprocess.to_tensor(torch.from_numpy(pixels))
    tokens = NeuronPass(model, [KEPT]).token_maps(batch, KEPT, [7])[:, 1:, 0].numpy()
    maps = pictures.maps(pixels, 7)
    assert maps.shape == (8, 4, 4)
    np.testing.assert_array_equal(maps.reshape(8, 16), tokens)
    peaks = pictures.top(7)["peak"]
    np.testing.assert_allclose(maps.max((1, 2)), peaks, rtol=1e-4, atol=1e-6)


def test_the_histogram_is_over_all_images_where_norms_are_kept(store, pictures):
    norms, over = pictures.norms(7)
    assert over == "60 images"
    top = pictures.top(7, 60)
    np.testing.assert_allclose(np.sort(norms)[::-1][:10], top["norm"], rtol=1e-3)
    bare = Store(store.url + "-bare", store.meta, "r")
    bare.done_shards = lambda: set()  # type: ignore[method-assign]
    alone = NeuronPictures(bare, pictures.model, KEPT, pictures._top, None)
    norms, over = alone.norms(7)
    assert over == "its 10 top images alone"
    np.testing.assert_array_equal(norms, top["norm"])


def test_a_neuron_is_drawn_and_its_texts_printed(store, coded, tmp_path, capsys):
    config = show.ShowConfig("neuron", store.url, layer=KEPT, neuron=7, top=3, out=str(tmp_path))
    table = show.main(config)
    assert table.row_count == 3
    said = capsys.readouterr().out
    rows = coded.codes[coded.codes["neuron"] == 7][:3]
    for text, coefficient in zip(rows["text"], rows["coefficient"], strict=True):
        assert f"{coefficient:+.4f}" in said
        assert text in said
    path = tmp_path / f"neuron-{KEPT:02d}-00007.png"
    assert str(path) in said
    assert Image.open(path).size[0] > 800
    show.main(show.ShowConfig("neuron", store.url, layer=KEPT, neuron=7))
    assert (Path(second_order_result(store, [KEPT]).url) / path.name).exists()


def test_images_that_are_gone_are_drawn_grey_and_named(pictures, monkeypatch):
    def gone(row: object) -> None:
        raise FileNotFoundError("no such file")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.images.again.read_bytes", gone)
        pixels = pictures.pixels([4, 5])
    assert (pixels == 211).all()
    assert pictures.unreadable == {4: "no such file", 5: "no such file"}
    pictures.unreadable.clear()
    monkeypatch.setattr("pipeline.images.again.read_bytes", lambda row: b"\0" * 3 * 64 * 64)
    assert (pictures.pixels([4]) == 211).all()
    assert pictures.unreadable == {4: "its bytes are others"}
    pictures.unreadable.clear()


def test_the_page_shows_selective_neurons_and_the_truth(store, coded, pictures):
    neurons = second_order_result(store, [KEPT]).table("neurons").to_pandas()
    chosen = most_selective(neurons, KEPT, 5)
    ratio = (neurons["norm_large"] / neurons["norm_mean"]).to_numpy()
    strong = neurons["norm_large"] >= neurons["norm_large"].median()
    others = ratio[strong & ~neurons["neuron"].isin(chosen)]
    assert strong[chosen].all()
    assert ratio[chosen].min() >= others.max()
    assert (np.diff(ratio[chosen]) <= 0).all()
    sections = neuron_sections(pictures, neurons, coded.truths[KEPT], 1)
    assert len(sections) == 2
    assert "AUC: mean" in sections[0]
    assert f"Neuron {chosen[0]} of MLP layer {KEPT}" in sections[1]
    assert neuron_sections(pictures, neurons, None, 0) == []
    assert not plt.get_fignums()


def test_second_order_effects_are_printed(store, coded, capsys):
    table = show.main(show.ShowConfig("second-order", store.url))
    assert table.row_count == show.STRONGEST
    neurons = second_order_result(store, [KEPT]).table("neurons").to_pandas()
    strongest = neurons.loc[neurons["norm_large"].idxmax()]
    said = capsys.readouterr().out
    line = next(x for x in said.splitlines() if x.strip().startswith(f"{KEPT}."))
    assert line.split()[:2] == [
        f"{KEPT}.{strongest['neuron']:.0f}",
        f"{strongest['norm_mean']:.4f}",
    ]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, FacetError, "needs --layer and --neuron"),
        ({"layer": 2}, FacetError, "needs --layer and --neuron"),
        ({"layer": 3, "neuron": 0}, FacetError, "no attention comes after layer 3"),
        ({"layer": -1, "neuron": 0}, FacetError, "MLP layers 0 to 2"),
        ({"layer": 2, "neuron": 48}, FacetError, "neurons 0 to 47"),
        ({"layer": 2, "neuron": -1}, FacetError, "neurons 0 to 47"),
        ({"layer": 0, "neuron": 0}, StoreError, "run `facet second-order"),
        (
            {"what": "textspan", "neuron": 1},
            FacetError,
            "--neuron belongs to `facet show neuron …`",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused(store, changes, error, message):
    with pytest.raises(error, match=message):
        show.main(show.ShowConfig(**{"what": "neuron", "store": store.url, **changes}))
