"""Approximate searches, held to the scan and to a recall that is counted by hand."""

import numpy as np
import pytest

from pipeline.extraction.growth import append
from pipeline.search import approximate, build
from pipeline.search.approximate import Lists
from pipeline.search.choices import Space
from pipeline.search.scan import Queries, nearest
from storage import head_index, open_store
from storage.store import Store
from tests.pipeline.search.index_kit import make, random_shard
from tests.storage import stores

pytestmark = pytest.mark.usefixtures("here")
IMAGES, TOP = 300, 7
ONE = Space(((1, 0), (1, 2)), (1,), True)


@pytest.fixture(autouse=True)
def few(monkeypatch) -> None:
    """Many lists, of which a search looks into two."""
    monkeypatch.setattr(approximate, "PROBED", 2)
    monkeypatch.setattr(approximate, "SPARE", 0)
    monkeypatch.setattr(approximate, "LEAST_OF_A_LIST", 4)
    monkeypatch.setattr(approximate, "ROWS_OF_A_LIST", 8)


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setattr("storage.layout.ROWS_PER_INDEX_CHUNK", 60)
    store = make(str(tmp_path / "s"), {4: "gone", 250: "gone"}, images=IMAGES, shard_size=30)
    build.build(store, ONE)
    return store


def own(store: Store, space: Space) -> np.ndarray:
    """All rows as the index keeps them, in coordinates, not centred."""
    parts = head_index.open_parts(store, space.parts)
    return np.concatenate(
        [
            np.array(facts.offset)
            + facts.unit * head_index.open_array(store.url, part)[:].astype(np.float64)
            for part, facts in parts.items()
        ],
        axis=1,
    )


@pytest.mark.parametrize(("metric", "centred"), [("cosine", True), ("dot", False)])
def test_scores_are_a_scans_and_the_recall_is_that_of_a_count(store, metric, centred, monkeypatch):
    monkeypatch.setattr(approximate, "HELD", 1000)  # several spans
    lists = Lists(store, ONE, metric, centred)
    lists.build()
    assert len(list(lists.place.glob("span-*"))) > 2
    rows = own(store, ONE)
    texts = np.random.default_rng(3).normal(size=(2, rows.shape[1]))
    vectors = np.concatenate([rows[[0, 5]], texts]).astype(np.float32)
    query = Queries(vectors, np.arange(4) >= 2)
    how = {"metric": metric, "centred": centred}
    every = nearest(store, ONE, query, top=IMAGES, **how)
    found = lists.nearest(query, TOP)
    for near, scores, all_rows, all_scores in zip(
        found.rows_qk, found.scores_qk, every.rows_qk, every.scores_qk, strict=True
    ):
        known = dict(zip(all_rows.tolist(), all_scores.tolist(), strict=True))
        there = near[near >= 0]
        assert len(there) == len(set(there.tolist())) > 0
        np.testing.assert_allclose(
            scores[: len(there)], [known[i] for i in there], rtol=1e-5, atol=1e-6
        )
        assert (np.diff(scores[: len(there)]) <= 0).all()
        assert not {4, 250} & set(there.tolist())

    recall = lists.recall(TOP)
    images = np.sort(np.random.default_rng(approximate.SEED).choice(IMAGES, 100, replace=False))
    images = [i for i in images if np.isfinite(rows[i, 0])]
    shares, mean = [], np.nanmean(rows, 0) if centred else 0.0
    got = lists.nearest(
        Queries(rows[images].astype(np.float32), np.zeros(len(images), bool)), TOP + 1
    )
    for image, near in zip(images, got.rows_qk, strict=True):
        scores = (rows - mean) @ (rows[image] - mean)
        if metric == "cosine":
            scores = scores / np.linalg.norm(rows - mean, axis=1)
        right = [i for i in np.argsort(-scores) if np.isfinite(scores[i]) and i != image][:TOP]
        shares.append(len(set(right) & set([i for i in near if i != image][:TOP])) / TOP)
    assert recall.queries == len(images)
    assert recall.images == pytest.approx(np.mean(shares), abs=2e-3)  # neighbours within rounding
    assert 0 < recall.images < 1
    assert 0 < recall.directions < 1
    assert lists.facts().recall == {str(TOP): recall}


def test_all_is_found_where_all_lists_are_looked_into(store, monkeypatch):
    monkeypatch.setattr(approximate, "PROBED", IMAGES)
    lists = Lists(store, ONE, "cosine", True)
    lists.build()
    recall = lists.recall(TOP)
    assert (recall.images, recall.directions) == (1, 1)


def test_what_is_of_other_rows_counts_as_none(store, monkeypatch):
    lists = Lists(store, ONE, "cosine", True)
    assert lists.facts() is None
    lists.build()
    assert lists.facts().images == IMAGES - 2
    assert Lists(store, ONE, "dot", True).facts() is None
    append(store, [stores.image_table(30, IMAGES)])
    random_shard(open_store(store.url, "r+"), 10, {})
    grown = open_store(store.url)
    build.build(grown, ONE)
    lists = Lists(grown, ONE, "cosine", True)
    assert lists.facts() is None
    lists.build()
    assert lists.facts().images == IMAGES + 28
    assert [p.name for p in lists.place.parent.iterdir()] == [lists.place.name]
    (span,) = lists.place.glob("span-*")
    span.write_bytes(span.read_bytes()[:-1])
    assert lists.facts() is None
