"""All phases over a store, in this process: what tasks and actors do, without Ray."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.images.batches import load_batch
from pipeline.models import ModelSpec, load_model
from pipeline.neurons import phases
from pipeline.neurons.directions import directions_of, explained_variance, top_chunk
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.maps import published_scale, second_order_maps
from pipeline.neurons.phases import find_effects, kept_moments
from pipeline.neurons.plan import groups, top_bytes
from pipeline.neurons.rows import Rows
from pipeline.neurons.sinks import KeepRows
from pipeline.stats.moments import chunk, finalize
from storage import neurons, open_store, urls
from storage.errors import FacetError, NotFinite, StoreDtypeError, StoreError
from tests.pipeline.extraction.kit import extract_all, new_store
from tests.pipeline.images.kit import picture
from tests.pipeline.neurons.kit import CONFIG, LAYERS, K, effects
from tests.storage import stores
from tests.tiny import write_config

# No Ray: what tasks and workers do is the same in this process.
pytestmark = pytest.mark.usefixtures("here")

BAD = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = write_config(tmp_path_factory.mktemp("model"), CONFIG)
    return load_model(ModelSpec(path, "none", 5))


@pytest.fixture(scope="module")
def extracted(model, tmp_path_factory) -> Path:
    """50 pictures in four shards, one of them no picture."""
    folder = tmp_path_factory.mktemp("extracted")
    (folder / "pictures").mkdir()
    for i in range(50):
        picture(i, 40, 40).save(folder / "pictures" / f"{i:02}.png")
    (folder / "pictures" / f"{BAD:02}.png").write_bytes(b"not a picture")
    store = new_store(folder / "store", str(folder / "pictures"), model, 16, components=("mlps",))
    extract_all(store, model)
    return folder / "store"


def copy(store, folder) -> Path:
    shutil.copytree(store, folder / "store")
    return folder / "store"


@pytest.fixture(scope="module")
def direct(extracted, model):
    """Every image that is ok through the model at once, and all that follows, in float64."""
    store = open_store(str(extracted))
    batch = load_batch(store.url, 0, 50, model.preprocess.resize)
    ok = torch.from_numpy(batch.loaded.ok)
    images = model.preprocess.to_tensor(torch.from_numpy(batch.loaded.pixels)[ok])
    parts = NeuronPass(model, LAYERS, ("coefficients", "peaks"))(images)
    numbers, found = torch.arange(50)[ok], {}
    for layer in LAYERS:
        maps = second_order_maps(model, layer, torch.float64)
        raw = parts.coefficients[layer].double()
        scaled = published_scale(raw, parts.ln_std_b, parts.embedding_be)
        statistics = finalize(chunk(scaled.movedim(1, 2).numpy()))
        deviations = scaled - torch.from_numpy(statistics.mean.T)
        norms = maps.norms(deviations)
        top = top_chunk(norms, deviations, numbers, K)
        first = directions_of(top, maps)
        covariance = torch.from_numpy(statistics.covariance)
        explained = explained_variance(first.directions, covariance, maps)
        scores = (deviations * maps.readout(first.directions)).sum(1)
        found[layer] = (parts, numbers, statistics, norms, top, first, explained, scores)
    return found


def check(tables, directions, direct, rtol):
    for layer in LAYERS:
        parts, numbers, _, norms, top, first, explained, scores = direct[layer]
        table = tables["neurons"][tables["neurons"]["layer"] == layer]
        expected = {
            "norm_mean": norms.mean(0), "norm_max": top.norms[:, 0], "norm_large": top.norms[:, -1],
            "explained_top": first.explained, "explained": explained,
        }  # fmt: skip
        for name, values in expected.items():
            np.testing.assert_allclose(table[name], values, rtol=rtol, err_msg=name)
        assert (np.abs(table["positive"] - first.positive.numpy()) <= 1).all()
        images = tables["top_images"][tables["top_images"]["layer"] == layer]
        scale = top.norms.numpy().max() * rtol
        shape = (len(table), K)
        chosen = images["image"].to_numpy().reshape(shape)
        places = np.searchsorted(numbers.numpy(), chosen)
        at = places, np.arange(len(table))[:, None]
        # Ranks may swap where norms agree to rounding: what is compared is the image's own.
        np.testing.assert_allclose(norms.numpy()[at], top.norms, atol=2 * scale)
        read = {n: images[n].to_numpy().reshape(shape) for n in ("norm", "score", "peak", "rank")}
        np.testing.assert_allclose(read["norm"], norms.numpy()[at], atol=2 * scale)
        sure = np.abs(first.positive.numpy() - K / 2) > 1  # of the sign
        difference = np.abs(read["score"] - scores.numpy()[at])[sure]
        assert (difference < 5 * scale).mean() > 0.97  # the direction is not always conditioned
        np.testing.assert_allclose(
            read["peak"], parts.peaks[layer].numpy()[at], rtol=rtol, atol=1e-6
        )
        assert (read["rank"] == np.arange(K)).all()
        found = directions["direction"].sel(layer=layer).values
        cosines = (found * first.directions.numpy()).sum(1)
        clear = first.explained.numpy() > 0.7
        assert clear.mean() > 0.5
        assert (cosines[clear] > 1 - rtol).all()


@pytest.mark.parametrize(
    ("keep", "dtype", "rtol"),
    [
        ("coefficients", "float32", 1e-3),
        ("coefficients", "float16", 2e-2),
        ("norms", "float16", 1e-3),
        ("moments", "float16", 1e-3),
    ],
)
def test_whatever_is_kept_the_result_is_that_of_all_images_at_once(
    extracted, model, direct, tmp_path, keep, dtype, rtol
):
    run = effects(copy(extracted, tmp_path), model, keep=keep, dtype=dtype)
    tables, directions, images = find_effects(run)
    assert images == 49
    check(tables, directions, direct, rtol)
    assert run.store.validate() == []
    for layer in LAYERS:
        parts, numbers, statistics, norms, *_ = direct[layer]
        kept = kept_moments(run.store, layer)
        np.testing.assert_allclose(kept.mean, statistics.mean, rtol=rtol, atol=1e-6)
        if keep == "moments":
            with pytest.raises(StoreError, match=f"keeps no neurons of MLP layer {layer}"):
                run.store.neurons(layer)
            continue
        data = run.store.neurons(layer)
        assert neurons.kept(run.store.url, layer)["norms"] == dtype
        assert data["norms"].dtype == np.float32  # whatever it is kept as
        close = {"rtol": max(rtol, 2e-3), "atol": rtol * float(norms.max()) / 10}
        np.testing.assert_allclose(data["norms"].values[numbers], norms, **close)
        assert np.isnan(data["norms"].values[BAD]).all()
        if keep == "coefficients":
            expected = {"coefficients": parts.coefficients[layer], "peaks": parts.peaks[layer]}
            for name, values in expected.items():
                read = data[name].values
                np.testing.assert_allclose(read[numbers], values, rtol=rtol, atol=1e-4)
                assert np.isnan(read[BAD]).all()


def test_without_covariances_only_one_figure_is_missing(extracted, model, direct, tmp_path):
    run = effects(copy(extracted, tmp_path), model, keep="moments", covariance=False)
    tables, _, _ = find_effects(run)
    assert tables["neurons"].pop("explained").isna().all()
    assert tables["neurons"].notna().all().all()
    kept = kept_moments(run.store, 2)
    assert kept.covariance is None
    np.testing.assert_allclose(kept.variance, direct[2][2].variance, rtol=1e-3, atol=1e-9)


class Interrupted(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("keep", ["coefficients", "norms", "moments"])
def test_a_run_stopped_in_any_phase_ends_in_the_same_bits(
    extracted, model, tmp_path, monkeypatch, keep
):
    whole = find_effects(effects(copy(extracted, tmp_path / "whole"), model, keep=keep))
    monkeypatch.setattr(phases, "SAVE_SECONDS", -1.0)
    write, finish = neurons.write_state, neurons.finish_shard
    steps: list[tuple] = []
    allowed = 0

    def step(*what):
        nonlocal allowed
        if allowed == 0:
            raise Interrupted
        allowed -= 1
        steps.append(what)

    def write_state(url, layer, kind, identity, state, dims):
        step(kind, layer, tuple(sorted(state.shards)))
        write(url, layer, kind, identity, state, dims)

    def finish_shard(url, layer, name, shard, known):
        if name == "coefficients":
            step(name, layer, shard)
        finish(url, layer, name, shard, known)

    monkeypatch.setattr(neurons, "write_state", write_state)
    monkeypatch.setattr(neurons, "finish_shard", finish_shard)
    run = effects(copy(extracted, tmp_path), model, keep=keep)
    for _ in range(100):
        allowed = 3
        try:
            tables, directions, images = find_effects(run)
            break
        except Interrupted:
            continue
    assert len(steps) > 6
    assert len(steps) == len(set(steps)), "a shard was done again"
    for name in tables:
        assert tables[name].equals(whole[0][name]), name
    np.testing.assert_array_equal(directions["direction"], whole[1]["direction"])
    assert images == whole[2]
    assert run.store.validate() == []


def stamps(store) -> dict[str, int]:
    return {
        p.relative_to(store).as_posix(): p.stat().st_mtime_ns
        for p in Path(store).rglob("*")
        if p.is_file()
    }


def test_a_deleted_part_is_done_again_and_nothing_else(extracted, model, tmp_path):
    store = copy(extracted, tmp_path)
    first, _, _ = find_effects(effects(store, model))
    (store / "neurons/2/coefficients/part-00000001.parquet").unlink()
    before = stamps(store)
    again, _, _ = find_effects(effects(store, model, top_k=9))
    after = stamps(store)
    written = {n for n in after if after[n] != before.get(n)}
    kept = {n for n in written if "/top-" not in n}  # all but what is gone with the run
    rows = {n for n in kept if "/coefficients/" in n or "/peaks/" in n}
    assert rows == {
        "contributions.zarr/neurons/2/coefficients/c/1/0/0",
        "contributions.zarr/neurons/2/peaks/c/1/0",
        "neurons/2/coefficients/part-00000001.parquet",
        "neurons/2/peaks/part-00000001.parquet",
    }
    assert not [n for n in written if "moments" in n]
    assert again["neurons"]["norm_max"].equals(first["neurons"]["norm_max"])


def test_images_that_have_changed_are_refused(extracted, model, tmp_path):
    store = copy(extracted, tmp_path)
    # The pictures' own table says where they are: another's contents stand there now.
    folder = extracted.parent / "pictures"
    kept = (folder / "20.png").read_bytes()
    try:
        picture(99, 40, 40).save(folder / "20.png")
        with pytest.raises(FacetError, match=r"image 20 \(.*\) is not what it was.*others"):
            find_effects(effects(store, model))
    finally:
        (folder / "20.png").write_bytes(kept)


def test_overflow_is_refused_with_the_remedy_which_works(extracted, model, tmp_path):
    run = effects(copy(extracted, tmp_path), model, mlp_layers=(2,), dtype="float16")
    neurons.create(run.store.url, run.store.meta, 2, ("coefficients", "peaks"), "float16")
    sink = KeepRows().open(run.store, 2, 0, run.store.ledger().slice(0, 16))
    width = run.store.meta.mlp_width
    rows = Rows(
        2, torch.arange(16), torch.full((16, 2, width), 1e5), torch.ones(16, width),
        torch.ones(16), torch.ones(16, 24),
    )  # fmt: skip
    with pytest.raises(StoreDtypeError, match=r"coefficients of MLP layer 2.*float32"):
        sink.add(rows)
    tables, _, _ = find_effects(replace(run, dtype="float32"))
    assert len(tables["neurons"]) == width
    assert neurons.kept(run.store.url, 2)["coefficients"] == "float32"


def test_rows_that_are_ok_and_empty_are_refused(extracted, model, tmp_path):
    run = effects(copy(extracted, tmp_path), model, mlp_layers=(2,))
    find_effects(run)
    urls.open_group(neurons.group_url(run.store.url, 2), mode="r+")["coefficients"][17] = np.nan
    shutil.rmtree(Path(run.store.url) / "neurons.zarr")
    with pytest.raises(NotFinite, match=r"MLP layer 2: images \[17\].*their coefficients hold NaN"):
        find_effects(run)


def test_layers_are_grouped_by_what_they_hold():
    meta = stores.metadata(layers=24, heads=16, head_dim=64, width=1024, mlp_width=4096, embed=768)
    every = tuple(range(23))
    assert sum(groups(meta, every, 100), ()) == every
    assert groups(meta, (22, 21), 100) == [(22, 21)]
    assert len(groups(meta, every, 100)) > 5
    assert top_bytes(meta, 22, 100) == 4 * 4096 * 100 * 17
