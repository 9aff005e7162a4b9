"""Accuracies without neurons, against effects written out in full."""

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from pipeline.cluster.work import Workers
from pipeline.images.batches import load_batch
from pipeline.models import ModelSpec, load_model
from pipeline.neurons import comparison
from pipeline.neurons.ablation import SERIES, Classify, NeuronStudy, steps
from pipeline.neurons.effects import IndirectEffects, direct_map
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.maps import published_scale, second_order_maps
from pipeline.neurons.phases import find_effects
from pipeline.neurons.studies import Question
from pipeline.neurons.tables import NEURONS
from pipeline.stats.accuracy import count
from pipeline.texts import load_classes
from pipeline.texts.classes import Classes
from storage import neurons
from storage.errors import StoreError
from storage.results import as_table, save_result
from tests.pipeline.extraction.kit import extract_all, new_store
from tests.pipeline.neurons.kit import CONFIG, LAYERS, K, effects
from tests.tiny import write_config

ONE = "count == 1"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = write_config(tmp_path_factory.mktemp("model"), CONFIG)
    model = load_model(ModelSpec(path, "none", 5))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # neurons of fresh weights hardly matter
        for value in model.visual.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def classes() -> Classes:
    return load_classes("microworld:shape")


@pytest.fixture(params=["coefficients", "moments"])
def found(request, model, tmp_path, here):
    store = new_store(tmp_path / "store", "microworld:n=40,seed=3,split=test", model, 16)
    extract_all(store, model)
    tables, directions, _ = find_effects(effects(store.url, model, keep=request.param))
    result = save_result(
        store.url, "second_order", {"a": 1}, {"mlp_layers": [0, 2]},
        tables={n: as_table(t, NEURONS[n]) for n, t in tables.items()},
        arrays={"components": directions},
    )  # fmt: skip
    return store, result, directions


def no_bar(what, total):
    return nullcontext(lambda n: None)


class Watched:
    """Keeps the sinks that a task opens, and so what was predicted of every image."""

    def open(self, store, mlp_layer, shard, known):
        sink = super().open(store, mlp_layer, shard, known)
        self.sinks[mlp_layer, shard] = sink
        return sink


def watch(task, sinks):
    """A task that keeps its sinks in a dict."""
    fields = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
    made = type("Watched", (Watched, type(task)), {"sinks": sinks})(**fields)
    return made


def seen(sinks) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (1 + ablations, images) of all layers, and the images' classes."""
    layers = sorted({layer for layer, _ in sinks})
    shards = sorted({shard for _, shard in sinks})
    of_layers = [
        np.concatenate([p for s in shards for p in sinks[i, s].predicted], 1) for i in layers
    ]
    predicted = np.concatenate([of_layers[0], *(rows[1:] for rows in of_layers[1:])])
    return predicted, np.concatenate([sinks[layers[0], s].labels.classes for s in shards])


def predictions(store, result, model, classes, readout, where=None, reference=None):
    study, sinks = NeuronStudy(store, model, Workers("cpu", 1, 1, 6), 0, no_bar, print), {}
    counted = study.predict(
        result,
        LAYERS,
        lambda layers: watch(Classify(where, "shape", classes, readout, layers), sinks),
        reference,
    )
    predicted, truth = seen(sinks)
    expected = count(predicted, truth, len(classes.names))
    np.testing.assert_array_equal(counted.classes, expected.classes)
    return predicted, truth


def chosen_by(store, reference) -> np.ndarray:
    """Which images a reference of the tests means."""
    counts = np.array(store.images()["count"].to_pylist())
    return counts == 1 if reference == ONE else counts > 0


@pytest.mark.parametrize("reference", [None, ONE])
def test_every_ablation_is_that_of_effects_written_out(found, model, classes, reference):
    store, result, directions = found
    over = torch.from_numpy(chosen_by(store, reference))
    assert over.all() == (reference is None)
    batch = load_batch(store.url, 0, 40, model.preprocess.resize)
    parts = NeuronPass(model, LAYERS)(
        model.preprocess.to_tensor(torch.from_numpy(batch.loaded.pixels))
    )
    unit = (parts.embedding_be / parts.embedding_be.norm(dim=1, keepdim=True)).double()
    # What all images have in common would decide alone.
    readout = np.random.default_rng(0).normal(size=(len(classes.names), 24))
    common = unit.mean(0).numpy()
    readout -= np.outer(readout @ common, common) / (common @ common)
    readout = (readout / np.linalg.norm(readout, axis=1, keepdims=True)).astype(np.float32)
    expected = [unit]
    for layer in LAYERS:
        maps = second_order_maps(model, layer, torch.float64)
        raw = parts.coefficients[layer].double()
        scaled = published_scale(raw, parts.ln_std_b, parts.embedding_be)
        phi = maps.effects(scaled, range(model.mlp_width))
        norms = (phi - phi.mean(0)).norm(dim=2)
        phi = phi - phi[over].mean(0)
        threshold = norms.sort(0, descending=True).values[K - 1]
        large = norms >= threshold * (1 - 1e-5)
        assert (large.sum(0) >= K).all()
        r = torch.from_numpy(directions["direction"].sel(layer=layer).values).double()
        along = (phi * r).sum(2, keepdim=True) * r
        expected += [
            unit - phi.sum(1),
            unit - (phi * ~large[..., None]).sum(1),
            unit - (phi * large[..., None]).sum(1),
            unit - (phi - along).sum(1),
        ]
    logits = torch.stack(expected) @ torch.from_numpy(readout).double().T
    best = logits.topk(2, dim=-1).values
    sure = (best[..., 0] - best[..., 1] > 2e-3).numpy()
    predicted, truth = predictions(store, result, model, classes, readout, reference=reference)
    assert sure.mean() > 0.8
    np.testing.assert_array_equal(predicted[sure], logits.argmax(-1).numpy()[sure])
    assert len({tuple(row) for row in predicted.tolist()}) > 2, "nothing was changed"
    shapes = store.images()["shape"].to_pylist()
    assert truth.tolist() == classes.truth(shapes).tolist()
    subset, _ = predictions(store, result, model, classes, readout, ONE, reference)
    chosen = chosen_by(store, ONE)
    np.testing.assert_array_equal(subset, predicted[:, chosen])


def test_moments_of_other_images_are_refused(found, model, classes):
    store, result, _ = found
    neurons.drop_state(store.url, 2, "moments")
    with pytest.raises(StoreError, match="moments of MLP layer 2"):
        predictions(store, result, model, classes, np.zeros((len(classes.names), 24), np.float32))


def test_the_model_runs_where_coefficients_are_not_kept(found, classes):
    store, _, _ = found
    kept = neurons.kept(store.url, 2)

    def runs(*kinds):
        ask = Question(kinds, classes, "shape", None, None, (), (), LAYERS)
        return ask.runs_model(store)

    assert runs("neurons") == ("coefficients" not in kept)
    assert runs("mlps", "effects")
    assert not runs("mlps", "heads")


def test_steps_name_layer_and_series():
    made = steps(LAYERS)
    assert [s.at for s in made] == ["0"] * 4 + ["2"] * 4
    assert [s.series for s in made[:4]] == list(SERIES)
    assert len({s.name for s in made}) == 8


@pytest.mark.parametrize("reference", [None, ONE])
def test_the_comparison_is_that_of_every_effect_by_itself(
    found, model, classes, monkeypatch, reference
):
    store, _, _ = found
    over = torch.from_numpy(chosen_by(store, reference))
    monkeypatch.setattr(comparison, "IMAGES", 17)
    monkeypatch.setattr(comparison, "NEURONS", 5)
    layer, chosen = 1, comparison.sample(64)
    assert chosen == [0, 15, 31, 47, 63]
    batch = load_batch(store.url, 0, 40, model.preprocess.resize)
    images = model.preprocess.to_tensor(torch.from_numpy(batch.loaded.pixels))
    parts = NeuronPass(model, [layer], ("coefficients", "class_neurons"))(images)
    norm = parts.embedding_be.norm(dim=1)[:, None]
    unit, common = parts.embedding_be / norm, (parts.embedding_be / norm).mean(0)
    readout = torch.randn(len(classes.names), 24, generator=torch.Generator().manual_seed(1))
    readout -= (readout @ common)[:, None] * common / common.square().sum()
    readout /= readout.norm(dim=1, keepdim=True)
    direct = parts.class_neurons[layer][:, :, None] * direct_map(model, layer).float()
    scaled = published_scale(parts.coefficients[layer], parts.ln_std_b, parts.embedding_be)
    indirect = IndirectEffects(model, layer)
    means = indirect.activations(images)[over].mean(0)
    effects = {
        "first-order": direct / (parts.ln_std_b[:, None, None] * norm[:, None]),
        "indirect": indirect(images, means, range(64))[0] / norm[:, None],
        "second-order": second_order_maps(model, layer).effects(scaled, range(64)),
    }
    after = {name: unit - (phi - phi[over].mean(0)).sum(1) for name, phi in effects.items()}
    ablated = indirect.ablate_all(images, means)
    after["indirect"] = ablated / ablated.norm(dim=1, keepdim=True)
    sinks = {}
    plain = comparison.Compare
    monkeypatch.setattr(comparison, "Compare", lambda *fields: watch(plain(*fields), sinks))
    counted, explained = comparison.compare(
        NeuronStudy(store, model, Workers("cpu", 1, 1, 6), 0, no_bar, print),
        [layer], None, reference, "shape", classes, readout.numpy(),
    )  # fmt: skip
    predicted, truth = seen(sinks)
    np.testing.assert_array_equal(
        counted.classes, count(predicted, truth, len(classes.names)).classes
    )
    for row, name in enumerate(("none", *comparison.EFFECTS)):
        logits = (unit if name == "none" else after[name]) @ readout.T
        best = logits.topk(2, dim=1).values
        sure = (best[:, 0] - best[:, 1] > 1e-3).numpy()
        assert sure.mean() > 0.8
        np.testing.assert_array_equal(
            predicted[row][sure], logits.argmax(1).numpy()[sure], err_msg=name
        )
    assert len({tuple(row) for row in predicted.tolist()}) > 2
    assert explained["effect"].tolist() == list(comparison.EFFECTS)
    assert (explained["neurons"] == 5).all()
    assert (explained["images"] == 17).all()
    for name, share in zip(explained["effect"], explained["explained"], strict=True):
        deviations = effects[name][:17, chosen]
        deviations = (deviations - deviations.mean(0)).movedim(1, 0).double()
        singular = torch.linalg.svdvals(deviations)
        expected = (singular[:, 0] ** 2 / singular.square().sum(1)).mean()
        assert share == pytest.approx(float(expected), rel=1e-3), name
    assert explained["explained"][0] == pytest.approx(1)  # one direction by construction
