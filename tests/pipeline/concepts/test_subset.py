"""Counts over a store against effects written out; the same from lengths and by passes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jobs import extract, omp, second_order
from pipeline.cluster import machines
from pipeline.cluster.work import Workers
from pipeline.concepts import over, precision, saved_counts, scan
from pipeline.concepts.by_codes import Dictionary, by_embedding, by_heads
from pipeline.concepts.by_neurons import ByNeurons, layer_effects, long_of
from pipeline.concepts.codes import chosen_layers, read_codes
from pipeline.concepts.pools import pool_of_codes
from pipeline.concepts.subset import (
    CHANCE,
    DRAWS,
    NEAREST_RAW,
    RANDOM,
    Question,
    Truth,
    counted,
    merge,
    passed,
    random_sets,
    source_of,
    task_bytes,
)
from pipeline.neurons.maps import second_order_maps
from pipeline.neurons.rows import stored_rows
from pipeline.stats.reductions import reduce_store
from pipeline.texts.encoding import store_model
from storage import neurons, open_store
from storage.errors import FacetError
from tests import tiny

LAYERS, WHERE = (0, 2), "shape in ('star', 'heart', 'moon') and index < 50"
TINY = tiny.tiny({"layers": 4, "mlp_ratio": 1.0}, {"width": 32})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subset")
    made = extract.main(
        extract.ExtractConfig(
            "microworld:n=60,seed=3,split=test", tiny.write_config(folder, TINY),
            str(folder / "store"), "none", store_dtype="float32", shard_size=32, seed=5,
            workers="here",
        )
    )  # fmt: skip
    listed = ",".join(map(str, LAYERS))
    second_order.main(
        second_order.SecondOrderConfig(made.url, mlp_layers=listed, top_k=10, workers="here")
    )
    omp.main(omp.OmpConfig(made.url, listed, "microworld", terms=4, workers="here"))
    return open_store(made.url)


@pytest.fixture(scope="module")
def model(store):
    return store_model(store)


@pytest.fixture(scope="module")
def question(store, model) -> Question:
    machines.work("here")
    layers = chosen_layers(store)
    by = ByNeurons(read_codes(layers), long_of(store, layers), layer_effects(store, model, layers))
    published = ByNeurons(by.codes, by.long, by.effects, published=True)
    pool = pool_of_codes(store, layers[0].codes)
    reductions = reduce_store(store, None, ("heads", "mlps", "embedding"))
    dictionary = Dictionary.of(pool.texts, pool.embeddings)
    methods = {
        "neurons": by,
        "published": published,
        "heads": by_heads(store, dictionary, reductions, [2, 3], 3),
        "embedding": by_embedding(dictionary, reductions, 4),
    }
    truth = Truth(pool.texts, pool.embeddings, reductions.array("embedding_mean").values)
    return Question(store.url, WHERE, methods, source_of(store, methods, LAYERS), truth)


def everything(question, store):
    shards = sorted(store.done_shards())
    return merge([found for _, found in counted(question, store, shards)])


@pytest.fixture(scope="module")
def found(question, store):
    machines.work("here")
    return everything(question, store)


def inside_of(store) -> np.ndarray:
    rows = store.images().to_pandas()
    return (rows["shape"].isin(["star", "heart", "moon"]) & (rows["index"] < 50)).to_numpy()


def written_out(store, model, question) -> dict[str, np.ndarray]:
    """Scores by neurons from effects written out, φ − mean (images, N, E), layer by layer."""
    scores = {"neurons": 0.0, "published": 0.0}
    by = question.methods["neurons"]
    for layer in LAYERS:
        maps = second_order_maps(model, layer, torch.float64)
        rows = [rows for shard in (0, 1) for rows in stored_rows(store, layer, shard)]
        s_bpn = torch.cat([r.coefficients_bpn / r.scale_b[:, None, None] for r in rows]).double()
        phi_bne = maps.effects(s_bpn, range(store.meta.mlp_width)).numpy()
        phi_bne -= phi_bne.mean(0)
        (of,) = chosen_layers(store, [layer])
        r_ne = of.effects.arrays("components")["direction"].sel(layer=layer).values
        lengths = np.linalg.norm(phi_bne, axis=2)
        active = lengths > by.long[layer].lengths_n
        along = np.einsum("bne,ne->bn", phi_bne, r_ne)
        gamma_nm = by.codes.by_layer[layer].toarray()
        scores["neurons"] += np.where(active, along, 0) @ gamma_nm
        scores["published"] += np.where(active, lengths, 0) @ gamma_nm
    return scores


def same(a: over.Sides, b: over.Sides, rel: float = 1e-3) -> None:
    for one, other in ((a.inside, b.inside), (a.outside, b.outside)):
        assert one.scores.n == other.scores.n
        size = np.abs(other.scores.mean).max()
        np.testing.assert_allclose(one.scores.mean, other.scores.mean, rtol=rel, atol=rel * size)
        np.testing.assert_allclose(
            one.scores.m2, other.scores.m2, rtol=rel, atol=rel * other.scores.m2.max()
        )
        # Texts whose scores are all but the same may change places.
        assert np.abs(one.first_m - other.first_m).sum() <= 2


def test_counts_are_those_of_effects_written_out(store, model, question, found):
    assert question.source == "coefficients"
    inside = inside_of(store)
    assert found.images == (inside.sum(), 60 - inside.sum())
    for method, scores in written_out(store, model, question).items():
        assert (np.abs(scores).sum(1) > 0).mean() > 0.5
        same(found.over[method], over.count(scores, inside))


def test_passes_of_the_model_count_the_same(store, model, question, found, here):
    shards = sorted(store.done_shards())
    workers = Workers("cpu", 1, 1, 7)
    by_passes = [c for _, c in passed(question, store, model, workers, 0, shards, say=print)]
    again = merge(by_passes)
    assert again.images == found.images
    for method in question.methods:
        same(again.over[method], found.over[method])
    for series in ("neurons", "published"):
        a, b = again.precision.of[series], found.precision.of[series]
        assert np.abs(a.n - b.n).max() <= 1
        np.testing.assert_allclose(a.total, b.total, atol=1.01)


def test_lengths_alone_are_enough_for_the_published_method(store, question, found, here):
    layers = chosen_layers(store)
    published = ByNeurons(question.methods["published"].codes, long_of(store, layers), {}, True)
    lengths = Question(store.url, WHERE, {"published": published}, "norms", question.truth)
    again = everything(lengths, store)
    same(again.over["published"], found.over["published"])
    assert RANDOM not in again.precision.of  # projections of others are not known
    assert CHANCE in again.precision.of


def test_where_scores_come_from(store, monkeypatch):
    kept_of = {"coefficients": {0, 1}, "norms": {0, 1}}
    monkeypatch.setattr(neurons, "done", lambda url, layer, name: kept_of[name])
    assert source_of(store, ["published"], LAYERS) == "coefficients"
    kept_of["coefficients"] = {0}
    assert source_of(store, ["published", "heads"], LAYERS) == "norms"
    assert source_of(store, ["published", "neurons"], LAYERS) == "model"
    assert source_of(store, ["heads", "embedding"], LAYERS) == "none"
    kept_of["norms"] = set()
    assert source_of(store, ["published"], LAYERS) == "model"


def test_methods_without_neurons_count_what_they_do_beside_them(store, question, found, here):
    methods = {name: question.methods[name] for name in ("heads", "embedding")}
    again = everything(Question(store.url, WHERE, methods, "none", question.truth), store)
    for name in methods:
        same(again.over[name], found.over[name])
        assert again.precision.of[name].n.sum() > 0


def test_baselines_are_what_they_are_called(store, question, found):
    unit = store.embeddings().values.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    texts = question.truth.embeddings_me.astype(np.float64)
    truth = precision.true_values(store.images())
    named = precision.named_values(question.truth.texts)
    centred = texts - texts.mean(0)
    for series, cosines in (
        (NEAREST_RAW, unit @ texts.T),
        (
            precision.NEAREST,
            (unit - unit.mean(0)) @ (centred / np.linalg.norm(centred, axis=1)[:, None]).T,
        ),
    ):
        expected = precision.Sums.of(precision.told(cosines, named, truth).precision)
        np.testing.assert_allclose(found.precision.of[series].total, expected.total, atol=0.51)
    # A random model knows nothing: nothing is much better than texts drawn at random.
    table = precision.precision_table(found.precision)
    whole = table[(table["attribute"] == "all") & (table["at"] == 10)].set_index("series")
    assert set(whole.index) == {*question.methods, NEAREST_RAW, precision.NEAREST, RANDOM, CHANCE}
    assert whole.loc["neurons", "precision"] < whole.loc[CHANCE, "precision"] + 0.1
    assert whole.loc[CHANCE, "named"] == 60


def test_random_sets_are_as_large_and_weigh_what_they_would(store, question):
    by = question.methods["neurons"]
    rows = {layer: next(stored_rows(store, layer, 0)) for layer in LAYERS}
    dead = by.long[0].lengths_n.copy()
    dead[:10] = np.inf
    by = ByNeurons(by.codes, {**by.long, 0: type(by.long[0])(dead, "")}, by.effects)
    draws = list(random_sets(by, rows, np.random.default_rng(0)))
    assert len(draws) == DRAWS
    for layer, of in rows.items():
        active = by.active(layer, by.effects[layer].lengths(of)).sum(1)
        for draw in draws:
            chosen = draw[layer] != 0
            np.testing.assert_array_equal(chosen.sum(1), active)
            np.testing.assert_array_equal(
                draw[layer][chosen], by.effects[layer].projections(of)[chosen]
            )
            assert layer or not chosen[:, :10].any()
    assert (draws[0][2] != draws[1][2]).any()


def test_counts_are_kept_and_read_back_to_the_bit(found, tmp_path, monkeypatch):
    assert saved_counts.read(str(tmp_path)) == (set(), None)
    saved_counts.write(str(tmp_path), {3, 1}, found)
    shards, again = saved_counts.read(str(tmp_path))
    assert shards == {1, 3}
    for name, sides in found.over.items():
        for side in ("inside", "outside"):
            one, other = getattr(sides, side), getattr(again.over[name], side)
            assert one.scores.n == other.scores.n
            np.testing.assert_array_equal(one.scores.mean, other.scores.mean)
            np.testing.assert_array_equal(one.scores.m2, other.scores.m2)
            np.testing.assert_array_equal(one.first_m, other.first_m)
    assert again.precision.images == 60
    ours, theirs = (precision.precision_table(of.precision) for of in (found, again))
    assert ours.equals(theirs)
    monkeypatch.setattr(saved_counts, "revision", lambda: "another")
    assert saved_counts.read(str(tmp_path)) == (set(), None)


def test_a_scan_that_was_stopped_goes_on_and_ends_in_the_same(
    store, question, found, tmp_path, here, monkeypatch
):
    monkeypatch.setattr(scan, "SAVE_SECONDS", -1.0)
    asked = []

    def stopped(question, store, shards):
        for one in counted(question, store, shards):
            asked.append(one[0])
            yield one
            raise KeyboardInterrupt

    monkeypatch.setattr(scan, "counted", stopped)
    planned = scan.plan(question, store, None)
    with pytest.raises(KeyboardInterrupt):
        scan.scan(planned, str(tmp_path))
    shards, _ = saved_counts.read(str(tmp_path))
    assert asked == [0]
    assert shards == {0}
    monkeypatch.setattr(scan, "counted", counted)
    again = scan.scan(planned, str(tmp_path))
    assert scan.scan(planned, str(tmp_path)).images == again.images  # nothing is left to count
    for name in question.methods:
        same(again.over[name], found.over[name], 1e-12)
    tables = [precision.precision_table(of.precision) for of in (again, found)]
    assert tables[0].equals(tables[1])


def test_passes_are_planned_where_the_store_does_not_keep_what_neurons_do(
    store, question, model, found, tmp_path, here
):
    by_model = replace(question, source="model")
    planned = scan.plan(by_model, store, model)
    inside, outside = scan.sizes(store, WHERE)
    assert (inside, outside) == found.images
    facts = planned.facts(inside, outside)
    assert facts["images"] == f"{inside} inside, {outside} outside, in 2 shards"
    assert "as the store does not keep" in facts["passes of the model"]
    kept_plan = scan.plan(question, store, None).facts(inside, outside)
    assert "passes of the model" not in kept_plan
    assert kept_plan["will read"] != facts["will read"]
    for name in question.methods:
        same(scan.scan(planned, str(tmp_path)).over[name], found.over[name])


def test_a_task_takes_the_maps_of_its_layers_once(question, store):
    by = question.methods["neurons"]
    paths = {at: len(store.meta.paths(at)) for at in LAYERS}
    maps = sum(4 * store.meta.mlp_width * (2 * p + p**2) for p in paths.values())
    none = task_bytes(replace(question, methods={"embedding": question.methods["embedding"]}))
    alone = task_bytes(replace(question, methods={"neurons": by}))
    assert alone - none == maps
    assert task_bytes(question) == alone  # the published method reads the same maps


def test_a_subset_of_all_images_is_refused(store, here):
    with pytest.raises(FacetError, match="0 images outside of the subset"):
        scan.sizes(store, "index >= 0")
