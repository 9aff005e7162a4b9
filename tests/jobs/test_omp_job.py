"""From second-order effects to sparse codes, accuracies and the known truth, on a real Ray."""

import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs import omp, show
from jobs.recipes import omp as recipe
from pipeline.microworld.words import microworld_values
from pipeline.neurons.answers import STRONGEST
from pipeline.neurons.code_accuracy import DIRECTION, MEANS, CodeStudy, layer_means
from pipeline.neurons.codes import code_block
from pipeline.neurons.coding import FoundCodes
from pipeline.neurons.found_directions import read_directions
from pipeline.neurons.maps import second_order_maps
from pipeline.neurons.omp import build_dictionary
from pipeline.neurons.omp import omp as pursue
from pipeline.neurons.results import second_order_result
from pipeline.neurons.rows import pack, stored_rows
from pipeline.texts import load_classes, load_pool
from pipeline.texts.classes import PoolError, class_means
from pipeline.texts.encoding import TextEncoder, store_model
from storage import open_store, urls
from storage.errors import FacetError, StoreError
from storage.results import save_result
from storage.store import Store
from tests.jobs.neuron_store import KEPT, PLANTED, plant
from tests.refusals import refused


@pytest.fixture(scope="module")
def store(neurons_kept) -> Store:
    return neurons_kept


@pytest.fixture(scope="module")
def coded(store) -> FoundCodes:
    return omp.main(
        omp.OmpConfig(
            store.url, str(KEPT), "microworld", terms=6, classes="microworld:shape", workers="here"
        )
    )


@pytest.fixture(scope="module")
def dictionary(store) -> torch.Tensor:
    pool = load_pool("microworld")
    encoded = TextEncoder(store).encode(pool.source, pool.texts)
    return build_dictionary(torch.from_numpy(encoded.embeddings))


@pytest.fixture(scope="module")
def effects(store) -> np.ndarray:
    """φ − mean of every image and neuron, written out, (image, neuron, embed)."""
    maps = second_order_maps(store_model(store), KEPT)
    rows = [rows for shard in (0, 1) for rows in stored_rows(store, KEPT, shard)]
    s_bpn = torch.cat([r.coefficients_bpn / r.scale_b[:, None, None] for r in rows])
    phi_bne = maps.effects(s_bpn, range(store.meta.mlp_width)).numpy()
    return phi_bne - phi_bne.mean(0)


def directions(store: Store, layer: int) -> np.ndarray:
    return (
        second_order_result(store, [layer])
        .arrays("components")["direction"]
        .sel(layer=layer)
        .values
    )


def test_codes_are_those_of_the_algorithm(store, coded, dictionary):
    r = directions(store, KEPT)
    assert r.any(1).all()
    direct = pursue(dictionary, torch.from_numpy(r), 6)
    texts = load_pool("microworld").texts
    for neuron, rows in coded.codes.groupby("neuron"):
        support, values = direct.supports[neuron], direct.coefficients[neuron]
        order = values.abs().argsort(descending=True)
        assert rows["text"].tolist() == [texts[i] for i in support[order]]
        np.testing.assert_allclose(rows["coefficient"], values[order], rtol=1e-4, atol=1e-6)
        assert rows["rank"].tolist() == list(range(6))
    fits = coded.fits.pivot(index="neuron", columns="most", values="residual")
    assert fits.columns.tolist() == [4, 6]
    np.testing.assert_allclose(fits, direct.residual_norms[:, [3, 5]], rtol=1e-4, atol=1e-6)
    kept = coded.result.table("codes").to_pandas()
    assert kept["coefficient"].equals(coded.codes["coefficient"])
    assert coded.result.provenance["mlp_layers"] == [KEPT]
    assert coded.dead == []


def replaced(store: Store, effects: np.ndarray, dictionary: torch.Tensor) -> list[np.ndarray]:
    """Unit embeddings: as they are, with means, with directions, with codes of 4 and 6 texts."""
    r = directions(store, KEPT)
    unit = store.embeddings().values
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    scores = np.einsum("bne,ne->bn", effects, r)
    base = unit - effects.sum(1)
    codes = pursue(dictionary, torch.from_numpy(r), 6, prefixes=(4,))
    written = [
        np.einsum("nk,nke->ne", values, dictionary[support])
        for values, support in (
            (codes.prefixes[4], codes.supports[:, :4]),
            (codes.coefficients, codes.supports),
        )
    ]
    return [unit, base, base + scores @ r, *(base + scores @ w for w in written)]


def test_accuracy_is_that_of_effects_written_out(store, coded, dictionary, effects):
    classes = load_classes("microworld:shape")
    encoded = TextEncoder(store).encode("classes", classes.flat).embeddings
    readout = class_means(encoded, classes)
    truth = classes.truth(store.images()["label"].to_pylist())
    expected = [
        ((rows @ readout.T).argmax(1) == truth).mean()
        for rows in replaced(store, effects, dictionary)
    ]
    whole = coded.accuracy[coded.accuracy["scope"] == "all"]
    assert whole["at"].tolist() == ["", "", "", "4", "6"]
    assert whole["series"].tolist()[1:3] == [f"layer {KEPT}, {MEANS}", f"layer {KEPT}, {DIRECTION}"]
    np.testing.assert_allclose(whole["accuracy"], expected, atol=1.01 / 60)  # one near-tie
    assert whole["n"].eq(60).all()
    assert (Path(coded.result.url) / f"accuracy-layer-{KEPT:02d}.html").stat().st_size > 5000
    kept = coded.result.table("accuracy").to_pandas()
    assert kept["accuracy"].equals(coded.accuracy["accuracy"].astype(float))


def test_predictions_with_codes_are_those_of_effects_written_out(store, dictionary, effects):
    rows = replaced(store, effects, dictionary)
    # A random model's images are all alike: random classes over what differs between them.
    mean = rows[0].mean(0)
    _, sizes, axes = np.linalg.svd(rows[0] - mean, full_matrices=False)
    readout = np.random.default_rng(0).standard_normal((200, 20)) @ (axes[:20] / sizes[:20, None])
    readout -= np.outer(readout @ mean, mean) / (mean @ mean)
    r = directions(store, KEPT)
    codes = code_block(dictionary.numpy(), r, "omp", (4, 6), written=True)
    plan = CodeStudy(
        url=store.url,
        layer=KEPT,
        label_column="label",
        classes=load_classes("microworld:shape"),
        readout_ce=readout.astype(np.float32),
        maps=pack(second_order_maps(store_model(store), KEPT)),
        means_pn=layer_means(store, KEPT),
        directions_ne=r,
        sizes=(4, 6),
        written=codes.written,
    )
    found = np.concatenate([plan.predict(shard)[0] for shard in (0, 1)], axis=1)
    expected = np.stack([(part @ readout.T).argmax(1) for part in rows])
    assert (found == expected).mean() > 0.99  # 2 of 300 may be near-ties
    assert len({tuple(row) for row in expected}) == 5  # every replacement shows


def test_the_truth_is_measured_by_scores_along_directions(store, coded, effects):
    found = coded.truths[KEPT]
    scores = np.einsum("bne,ne->bn", effects, directions(store, KEPT))
    columns = store.images().to_pydict()
    assert found.by == "scores"
    assert found.images == 60
    assert len(found.table) + found.unnamed == store.meta.mlp_width
    for row in found.table.itertuples():
        values = microworld_values(row.text)
        assert row.value == ", ".join(v for _, v in sorted(values))
        has = np.array([all(str(columns[a][i]) == v for a, v in values) for i in range(60)])
        fires = scores[:, row.neuron]
        pairs = [(a > b) for a, b in product(fires[has], fires[~has])]
        assert row.auc == pytest.approx(np.mean(pairs), abs=1.01 / len(pairs))
    kept = coded.result.table("truth").to_pandas()
    assert kept["auc"].equals(found.table["auc"])
    assert 0.4 < found.draws.mean() < 0.6  # a random model's neurons know nothing


def test_planted_directions_give_their_texts_and_dead_neurons_are_listed(store, tmp_path, capsys):
    planted = {
        3: {"a red thing": 1.5, "a thing at night": -0.75},
        8: {"a star": -2.0},
    }
    store = open_store(shutil.copytree(store.url, tmp_path / "store").as_posix())
    plant(store, planted)
    run = omp.main(omp.OmpConfig(store.url, str(PLANTED), "microworld", terms=4, workers="here"))
    assert set(run.codes["neuron"]) == set(planted)
    for neuron, code in planted.items():
        rows = run.codes[(run.codes["neuron"] == neuron) & (run.codes["coefficient"].abs() > 1e-4)]
        assert dict(zip(rows["text"], rows["coefficient"].round(4), strict=True)) == code
    assert run.dead == [(PLANTED, n) for n in range(store.meta.mlp_width) if n not in planted]
    assert run.truths == {}
    assert run.accuracy is None
    said = capsys.readouterr().out
    assert f"{store.meta.mlp_width - 2}, not coded: MLP layer {PLANTED}, neurons 0, 1" in said
    assert "needs neurons in the store" in said
    shown = show.main(show.ShowConfig("omp", store.url, top=2)).found
    assert len(shown.neurons) == len(planted)
    assert "+ a red thing · − a thing at night" in capsys.readouterr().out


def test_codes_are_shown_with_signs_accuracies_and_truth(store, coded, capsys):
    shown = show.main(show.ShowConfig("omp", store.url, top=2)).found
    said = capsys.readouterr().out
    assert len(shown.neurons) == STRONGEST
    assert "code of 6 texts" in said
    assert "AUC" in said


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"terms": 0}, FacetError, "--terms 0: must be at least 1"),
        ({"terms": 5000}, FacetError, "give a larger pool or fewer --terms"),
        ({"pool": "nothing.txt"}, PoolError, "no pool and no file"),
        ({"mlp_layers": "3"}, FacetError, "no attention comes after layer 3"),
        ({"mlp_layers": "7"}, FacetError, "0 to 2"),
        ({"mlp_layers": "x"}, FacetError, "write all"),
        ({"mlp_layers": "0"}, StoreError, "run `facet second-order .*--mlp-layers 0`"),
        ({"mlp_layers": "1", "classes": "microworld:shape"}, StoreError, "--keep coefficients"),
        ({"classes": "microworld:color"}, PoolError, "did you mean 'colour'"),
        ({"classes": "microworld:colour"}, PoolError, "labels are no class"),
        ({"classes": "microworld:shape", "label_column": "kind"}, FacetError, "no column 'kind'"),
    ],
)
def test_what_cannot_be_coded_is_refused(store, monkeypatch, changes, error, message):
    def encode(*_: object) -> None:
        raise AssertionError("work had begun")

    monkeypatch.setattr(recipe, "embedded", encode)
    config = omp.OmpConfig(store.url, str(KEPT), "microworld", terms=4, workers="here")
    with refused(error, message):
        omp.main(replace(config, **changes))


def test_a_pool_that_no_node_can_hold_is_refused(store, monkeypatch):
    monkeypatch.setattr(recipe.machines, "node_memory", lambda: 1 << 20)
    with pytest.raises(FacetError, match="largest node has 1.0 MB: give a smaller pool"):
        omp.main(
            omp.OmpConfig(store.url, str(KEPT), "microworld", terms=5, workers="here")
        )  # found by nobody


def test_a_parquet_pool_is_read_by_its_texts(store, tmp_path):
    texts = ["a red star", "snow", "a moon", "grass", "two rings"]
    table = {"text": texts, "embedding": [[float("nan")] * 24] * 5}  # not what is coded with
    pq.write_table(pa.table(table), tmp_path / "pool.parquet")
    run = omp.main(
        omp.OmpConfig(
            store.url,
            str(KEPT),
            str(tmp_path / "pool.parquet"),
            terms=3,
            method="lasso",
            workers="here",
        )
    )
    assert set(run.codes["text"]) <= set(texts)


def test_directions_that_are_not_finite_are_refused(store, tmp_path):
    data = second_order_result(store, [KEPT]).arrays("components").load()
    result = save_result(str(tmp_path), "second_order", {}, {}, arrays={"components": data})
    kept = urls.open_group(urls.join(result.url, "components.zarr"), mode="r+")
    kept["direction"][0, 4, 0] = np.nan  # as no run writes it
    with pytest.raises(FacetError, match=f"1 neurons of MLP layer {KEPT}.*NaN"):
        read_directions(result, [KEPT])
