"""Best buddies, merging and clustering against plain loops, and planted units."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.rosetta import matching, plan
from pipeline.rosetta.matching import TileNearest, best_buddies, nearest
from pipeline.rosetta.sums import Layout, PairSums, finalize
from pipeline.stats.top import merge_top
from storage import rosetta
from storage.rosetta import Setup, Tile, create_correlations, tiles, write_correlations
from tests.pipeline.rosetta.kit import card, half_maps


def matrix(rng, rows, columns):
    """Correlations with ties, dead units and negative ones."""
    values = rng.integers(-3, 8, (rows, columns)).astype(np.float32) / 10
    values[rng.random(rows) < 0.2] = np.nan
    values[:, rng.random(columns) < 0.2] = np.nan
    return values


def plain_knn(values, k):
    """The K nearest of every row, by a loop."""
    found = []
    for row in values:
        order = sorted((j for j in range(len(row)) if row[j] > 0), key=lambda j: (-row[j], j))
        found.append(order[:k])
    return found


def parts_of(matrices, k, cuts):
    """What the tiles of a pair would tell."""
    parts = []
    edges = [0, *cuts, len(matrices["whole"])]
    for start, stop in pairwise(edges):
        if start == stop:
            continue
        rows = {n: nearest(m[start:stop], k) for n, m in matrices.items()}
        columns = {n: nearest(m[start:stop].T, k, first=start) for n, m in matrices.items()}
        index = np.maximum(rows["whole"].index, 0)
        halves = {h: np.take_along_axis(matrices[h][start:stop], index, 1) for h in ("even", "odd")}
        parts.append(TileNearest(Tile("a", "b", start, stop), rows, columns, halves))
    return parts


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12), st.integers(1, 14), st.data())
def test_best_buddies_are_mutual_and_symmetric(seed, rows, columns, k, data):
    rng = np.random.default_rng(seed)
    matrices = {name: matrix(rng, rows, columns) for name in matching.MATRICES}
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=3)))
    found = best_buddies(parts_of(matrices, k, cuts)[::-1], k)

    def plain(values):
        forth, back = plain_knn(values, k), plain_knn(values.T, k)
        return {(i, j) for i, near in enumerate(forth) for j in near if i in back[j]}

    pairs = plain(matrices["whole"])
    assert set(zip(found.a.tolist(), found.b.tolist(), strict=True)) == pairs
    sure = pairs & plain(matrices["even"]) & plain(matrices["odd"])
    for i, j, value, even, odd, replicates in zip(
        found.a, found.b, found.correlation, found.even, found.odd, found.replicates, strict=True
    ):
        assert value == matrices["whole"][i, j]
        np.testing.assert_equal((even, odd), (matrices["even"][i, j], matrices["odd"][i, j]))
        assert replicates == ((i, j) in sure)
    turned = {name: m.T for name, m in matrices.items()}
    other = best_buddies(parts_of(turned, k, []), k)
    assert set(zip(other.b.tolist(), other.a.tolist(), strict=True)) == pairs


def test_neighbours_over_runs_are_those_of_the_whole():
    values = matrix(np.random.default_rng(5), 7, 40)
    parts = [nearest(values[:, i : i + 8], 5, first=i) for i in range(0, 40, 8)]
    merged, whole = merge_top(parts, 5), nearest(values, 5)
    np.testing.assert_array_equal(merged.value, whole.value)
    np.testing.assert_array_equal(merged.index, whole.index)


def pairs(*found):
    a, b, value = (np.array(column) for column in zip(*found, strict=True))
    sure = np.ones(len(a), bool)
    return matching.Buddies(a, b, value, value, value, sure)


def test_three_models_are_merged_through_the_hub_and_clustered_by_it():
    hub = card("h", (4, 2, 2), (4, 1, 1))
    others = {name: card(name, (9, 2, 2)) for name in ("p", "q")}
    buddies = {
        "p": pairs((0, 5, 0.9), (1, 6, 0.8), (1, 7, 0.4), (3, 2, 0.7), (6, 1, 0.95)),
        "q": pairs((0, 0, 0.6), (1, 3, 0.9), (6, 4, 0.97), (7, 8, 0.5)),
    }
    own = pairs((0, 1, 0.8), (1, 0, 0.8), (3, 0, 0.5), (0, 3, 0.5))
    np.testing.assert_array_equal(matching.shared_units(buddies), [0, 1, 6])
    np.testing.assert_array_equal(matching.cluster(np.array([0, 1, 6]), own), [0, 0, 1])
    table = matching.concept_table(hub, others, buddies, own)
    # Unit 6 is the third of the second layer and the stronger concept.
    assert table["concept"].tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert table[["hub_layer", "hub_unit"]].values.tolist()[:2] == [["l1", 2]] * 2
    rest = table[table["concept"] == 1]
    assert rest[["hub_unit", "model", "unit"]].values.tolist() == [
        [0, "p", 5], [0, "q", 0], [1, "p", 6], [1, "p", 7], [1, "q", 3],
    ]  # fmt: skip
    alone = matching.concept_table(hub, {"p": others["p"]}, {"p": buddies["p"]}, own)
    assert set(alone["hub_unit"]) == {0, 1, 3, 2}


def test_no_shared_unit_is_an_empty_table():
    hub, others = card("h", (4, 2, 2)), {name: card(name, (4, 2, 2)) for name in ("p", "q")}
    buddies = {"p": pairs((0, 1, 0.5)), "q": pairs((1, 1, 0.5))}
    table = matching.concept_table(hub, others, buddies, pairs((0, 1, 0.5)))
    assert len(table) == 0
    assert "replicates" in table.columns


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Noise, with unit 2 of one model in another at another size, and dead and constant units."""
    rng = np.random.default_rng(7)
    a, b = card("a", (6, 8, 8)), card("b", (3, 4, 4), (5, 4, 4))
    maps_a, maps_b = (
        [rng.normal(size=(24, x.height, x.width, x.units)).astype(np.float32) for x in c.layers]
        for c in (a, b)
    )
    coarse = rng.normal(size=(24, 4, 4)).astype(np.float32)
    maps_b[1][..., 1] = coarse
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2)
    maps_a[0][..., 2] = fine + 0.3 * rng.normal(size=fine.shape).astype(np.float32)
    maps_a[0][..., 4], maps_b[0][..., 0] = 0, 2.5
    monkeypatch.setattr(rosetta, "TILE_BYTES", 4 * 2 * 8 * b.units)
    url = str(tmp_path)
    create_correlations(url, a, b)
    for tile in tiles(a, b):
        layout = Layout(a, b, tile)
        sums = PairSums(layout)
        for half in (0, 1):
            members = np.arange(half, 24, 2)
            sums.add(half, half_maps(maps_a, members), half_maps(maps_b, members))
        write_correlations(url, tile, finalize(layout, sums.sums()).arrays())
    return url, a, b


def test_a_planted_unit_is_found_and_noise_does_not_replicate(planted):
    url, a, b = planted
    parts = [matching.tile_nearest(url, 1, tile) for tile in tiles(a, b)]
    assert len(parts) == 2
    found = best_buddies(parts, 1)
    (place,) = np.flatnonzero((found.a == 2) & (found.b == 3 + 1))
    assert found.replicates[place]
    assert found.correlation[place] > 0.8
    others = np.delete(found.correlation, place)
    assert (others < 0.2).all()
    table = matching.buddy_table(a, b, found)
    assert table[["layer_a", "unit_a", "layer_b", "unit_b"]].values.tolist()[0] == [
        "l0", 2, "l1", 1,
    ]  # fmt: skip


def test_dead_and_constant_units_are_listed_and_match_nothing(planted):
    url, a, b = planted
    units = [matching.unit_table(url, card, other.slug) for card, other in ((a, b), (b, a))]
    states = [dict(zip(zip(t["layer"], t["unit"], strict=True), t["state"], strict=True))
              for t in units]  # fmt: skip
    assert [k for k, v in states[0].items() if v == "dead"] == [("l0", 4)]
    assert [k for k, v in states[1].items() if v == "constant"] == [("l0", 0)]
    assert units[1]["mean"][0] == 2.5
    found = best_buddies([matching.tile_nearest(url, 9, tile) for tile in tiles(a, b)], 9)
    assert 4 not in found.a
    assert 0 not in found.b


def test_work_is_cut_by_bytes_and_by_what_is_done(monkeypatch):
    a, b = card("a", (10, 2, 2)), card("b", (6, 2, 2))
    monkeypatch.setattr(rosetta, "TILE_BYTES", 4 * 2 * 8 * 6)
    cards = {"a": a, "b": b}
    wanted = plan.wanted_tiles([a, b], a)
    assert {t.pair for t in wanted} == {"a--b", "a--a"}
    setup = Setup("d", images=10, shard_size=4, batch_size=2)
    done = {tile: {0} if tile.pair == "a--b" else set() for tile in wanted}
    hold = 2 * max(plan.tile_bytes(t, cards) for t in wanted)
    work = plan.items(done, setup, cards, hold)
    listed = [(item.shard, tile) for item in work for tile in item.tiles]
    assert sorted(listed, key=str) == sorted(
        ((s, t) for t in wanted for s in range(3) if s not in done[t]), key=str
    )
    for item in work:
        assert sum(plan.tile_bytes(t, cards) for t in item.tiles) <= hold
    assert plan.covered({(0, 7), (2, 2), (9, 9)}) == {*range(8), 9}
