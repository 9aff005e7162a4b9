"""Directions of indirect effects against effects written out, one neuron at a time."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.adversarial import indirect
from pipeline.neurons.codes import code_table
from pipeline.neurons.coding import code
from pipeline.neurons.effects import IndirectEffects
from pipeline.neurons.found_directions import FoundDirections
from pipeline.telling import SILENT
from storage.errors import FacetError
from tests.jobs.neuron_store import TINY, neuron_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return neuron_store(tmp_path_factory.mktemp("indirect"))


@pytest.fixture
def model(store):
    from pipeline.neurons.setup import cpu_model

    return cpu_model(store)


def by_hand(model, layer, sample, neuron):
    """The first principal component of one neuron's effects, and its share."""
    run = IndirectEffects(model, layer)
    images = model.preprocess.to_tensor(torch.from_numpy(sample.pixels_bhwc))
    means = run.activations(images).double().mean(0).float()
    effects, embeddings = run(images, means, [neuron])
    rows = (effects[:, 0] / embeddings.norm(dim=1, keepdim=True)).double().numpy()
    rows -= rows.mean(0)
    _, values, axes = np.linalg.svd(rows)
    return axes[0], values[0] ** 2 / (values**2).sum()


def test_directions_are_those_of_effects_written_out(store, model, tmp_path, here, monkeypatch):
    monkeypatch.setattr(indirect, "BLOCK", 20)
    monkeypatch.setattr(indirect, "BATCH", 5)
    numbers = indirect.sample_numbers(store, 12)
    assert numbers[0] == 0
    assert numbers[-1] == 59
    sample = indirect.load_sample(store, numbers)
    found, table = indirect.find_directions(store, model, (1, 2), sample, str(tmp_path))
    for layer in (1, 2):
        assert found.by_layer[layer].shape == (TINY["vision_cfg"]["width"], 24)
        rows = table[table["layer"] == layer].set_index("neuron")["explained"]
        for neuron in (0, 19, 20, 47):
            axis, share = by_hand(model, layer, sample, neuron)
            assert abs(found.by_layer[layer][neuron] @ axis) == pytest.approx(1, abs=1e-5)
            assert rows[neuron] == pytest.approx(share, abs=1e-5)


def test_blocks_that_are_kept_are_not_done_again(store, model, tmp_path, here, monkeypatch):
    monkeypatch.setattr(indirect, "BLOCK", 24)
    sample = indirect.load_sample(store, [1, 2, 3])
    asked = []

    def stop(*given):
        asked.append(given[-1])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return own(*given)

    own = indirect.block_directions
    monkeypatch.setattr(indirect, "block_directions", stop)
    with pytest.raises(KeyboardInterrupt):
        indirect.find_directions(store, model, (2,), sample, str(tmp_path))
    monkeypatch.setattr(indirect, "block_directions", own)
    whole, _ = indirect.find_directions(store, model, (2,), sample, str(tmp_path / "whole"))
    rest, _ = indirect.find_directions(store, model, (2,), sample, str(tmp_path))
    np.testing.assert_array_equal(rest.by_layer[2], whole.by_layer[2])
    monkeypatch.setattr(indirect, "block_directions", stop)  # it would be asked a third time
    indirect.find_directions(store, model, (2,), sample, str(tmp_path))
    assert len(asked) == 2


def test_pictures_that_are_gone_are_left_out_and_said(store, monkeypatch):
    own = indirect.load_again

    def some(of, number):
        if number % 2:
            raise indirect.BadImage("missing", "does not exist")
        return own(of, number)

    monkeypatch.setattr(indirect, "load_again", some)
    said = []
    found = indirect.load_sample(store, [2, 3, 4], replace(SILENT, say=said.append))
    assert found.images == (2, 4)
    assert "1 image of 3 not to be had as they were" in said[0]
    with pytest.raises(FacetError, match="those of the store are not to be had: image 3"):
        indirect.load_sample(store, [3, 4])


def test_every_layer_is_coded_as_its_second_order_effects_were(here):
    rng = np.random.default_rng(0)
    directions = FoundDirections(
        {layer: rng.normal(size=(3, 8)).astype(np.float32) for layer in (1, 2)}
    )
    pool, texts = rng.normal(size=(9, 8)).astype(np.float32), [f"text {i}" for i in range(9)]
    how = {1: ("omp", 2), 2: ("nonneg-omp", 4)}
    codes = indirect.code_directions(directions, pool, texts, how)
    for layer, (method, terms) in how.items():
        one = FoundDirections({layer: directions.by_layer[layer]})
        alone = code_table(code(one, pool, method, terms, written=False), one.alive, texts)
        own = codes[codes["layer"] == layer].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, alone)
