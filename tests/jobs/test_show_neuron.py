"""Pictures of neurons, and the tables of second-order effects."""

from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import omp, show
from pipeline.images.decode import read_bytes, to_image
from pipeline.images.errors import BadImage
from pipeline.neurons import about, lengths
from pipeline.neurons.about import NeuronReader
from pipeline.neurons.answers import STRONGEST
from pipeline.neurons.coding import FoundCodes
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.results import second_order_result
from pipeline.texts.encoding import store_model
from storage.errors import FacetError, StoreError
from storage.store import Store
from tests.jobs.neuron_store import KEPT
from tests.refusals import refused


@pytest.fixture(scope="module")
def store(neurons_kept) -> Store:
    return neurons_kept


@pytest.fixture(scope="module")
def coded(store) -> FoundCodes:
    return omp.main(omp.OmpConfig(store.url, str(KEPT), "microworld", terms=4, workers="here"))


@pytest.fixture(scope="module")
def reader(store, coded) -> NeuronReader:
    effects = second_order_result(store, [KEPT])
    return NeuronReader(store, store_model(store), KEPT, effects, coded.result)


def test_activations_are_the_neurons_on_its_top_images(store, reader):
    model = store_model(store)
    images = reader.about(7).images
    assert len(images) == 8
    pixels = np.stack([image.pixels for image in images])
    first = store.images(images[0].image, images[0].image + 1).to_pylist()[0]
    np.testing.assert_array_equal(
        pixels[0], model.preprocess.to_uint8(to_image(first, read_bytes(first)))
    )
    assert images[0].key == first["key"]
    batch = model.preprocess.to_tensor(torch.from_numpy(pixels))
    tokens = NeuronPass(model, [KEPT]).token_maps(batch, KEPT, [7])[:, 1:, 0].numpy()
    found = np.stack([image.activations for image in images])
    assert found.shape == (8, 4, 4)
    np.testing.assert_array_equal(found.reshape(8, 16), tokens)
    peaks = [image.peak for image in images]
    np.testing.assert_allclose(found.max((1, 2)), peaks, rtol=1e-4, atol=1e-6)


def test_the_histogram_is_over_all_images_where_norms_are_kept(store, reader, monkeypatch):
    norms = reader.about(7).norms
    assert norms.over == "60 images"
    assert norms.counts.sum() == 60
    top = second_order_result(store, [KEPT]).table("top_images").to_pandas()
    top = top[top["neuron"] == 7]
    assert norms.edges[-1] == pytest.approx(top["norm"].max(), rel=1e-3)
    monkeypatch.setattr(reader, "_most", store.meta.shard_size)
    assert reader.about(7).norms.over == "32 images, of 1 of 2 shards"
    monkeypatch.setattr(Store, "done_shards", lambda self: set())
    alone = reader.about(7).norms
    assert alone.over == "its 10 top images alone"
    np.testing.assert_array_equal(alone.counts, np.histogram(top["norm"], lengths.BINS)[0])


def test_a_neuron_is_drawn_and_its_texts_printed(store, coded, tmp_path, capsys):
    config = show.ShowConfig("neuron", store.url, layer=KEPT, neuron=7, top=3, out=str(tmp_path))
    show.main(config)
    said = capsys.readouterr().out
    rows = coded.codes[coded.codes["neuron"] == 7][:3]
    for text, coefficient in zip(rows["text"], rows["coefficient"], strict=True):
        assert f"{coefficient:+.4f}" in said
        assert text in said
    path = tmp_path / f"neuron-{KEPT:02d}-00007.html"
    assert str(path) in said
    page = path.read_text()
    assert f"<h1>MLP layer {KEPT}, neuron 7</h1>" in page
    assert page.count("<img ") == 16
    assert all(text in page for text in rows["text"])
    show.main(show.ShowConfig("neuron", store.url, layer=KEPT, neuron=7))
    assert (Path(second_order_result(store, [KEPT]).url) / path.name).exists()


def test_images_that_are_gone_are_grey_and_named(reader, monkeypatch):
    def gone(row: object) -> None:
        raise BadImage("does not exist")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.images.again.read_bytes", gone)
        images = reader.about(7).images
    assert all((image.pixels == about.GREY).all() for image in images)
    assert {image.unreadable for image in images} == {"does not exist"}
    monkeypatch.setattr("pipeline.images.again.read_bytes", lambda row: b"\0" * 3 * 64 * 64)
    first = reader.about(7).images[0]
    assert (first.pixels == about.GREY).all()
    assert first.unreadable == "its bytes are others"


def test_second_order_effects_are_printed(store, coded, capsys):
    assert len(show.main(show.ShowConfig("second-order", store.url)).found) == STRONGEST
    neurons = second_order_result(store, [KEPT]).table("neurons").to_pandas()
    strongest = neurons.loc[neurons["norm_large"].idxmax()]
    said = capsys.readouterr().out
    line = next(x for x in said.splitlines() if x.strip().startswith(f"{KEPT} "))
    assert line.split()[:3] == [
        f"{KEPT}",
        f"{strongest['neuron']:.0f}",
        f"{strongest['norm_mean']:.4f}",
    ]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, FacetError, "needs --layer and --neuron"),
        ({"layer": 2}, FacetError, "needs --layer and --neuron"),
        ({"layer": 3, "neuron": 0}, FacetError, "MLP layers 0 to 2"),
        ({"layer": -1, "neuron": 0}, FacetError, "MLP layers 0 to 2"),
        ({"layer": 2, "neuron": 48}, FacetError, "neurons 0-47"),
        ({"layer": 2, "neuron": -1}, FacetError, "neurons 0-47"),
        ({"layer": 0, "neuron": 0}, StoreError, "run `facet second-order"),
        (
            {"what": "textspan", "neuron": 1},
            FacetError,
            "--neuron belongs to `facet show neuron …`",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused(store, changes, error, message):
    with refused(error, match=message):
        show.main(show.ShowConfig(**{"what": "neuron", "store": store.url, **changes}))
