"""The index and the scan, held to a float64 brute force over contributions in the joint space."""

import shutil
from dataclasses import dataclass
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.extraction.growth import append
from pipeline.heads.ablation import StoredParts
from pipeline.published import head_contributions, mlp_contributions
from pipeline.search import build, scan
from pipeline.search.choices import Space
from pipeline.search.coordinates import Coordinates
from pipeline.search.scan import Queries, chosen_images, nearest
from pipeline.stats.reductions import forget_redone
from storage import open_store, views
from storage.errors import NotFinite, Remedy, StoreError
from storage.growth import follow
from storage.store import Store
from tests.pipeline.search.index_kit import make, random_shard
from tests.storage import stores

pytestmark = pytest.mark.usefixtures("here")
TEMPORARY = count()


def parts_of(store: Store) -> StoredParts:
    data = store.contributions().load()
    parts = object.__new__(StoredParts)  # rows of bad images, too
    for name, array in (
        ("heads_blhk", "heads"), ("mlps_bsd", "mlps"), ("embedding_be", "embedding"),
        ("ln_std_b", "ln_std"),
    ):  # fmt: skip
        object.__setattr__(parts, name, data[array].values.astype(np.float64))
    return parts


def joint(store: Store, space: Space) -> np.ndarray:
    """What a space's parts write, part after part, (images, parts · E) float64, published scale."""
    parts, model = parts_of(store), store.model()
    norm = np.linalg.norm(parts.embedding_be, axis=1)[:, None]
    heads = head_contributions(
        parts.heads_blhk, model["head_map"].values.astype(np.float64), parts.ln_std_b
    )
    mlps = mlp_contributions(
        parts.mlps_bsd, model["mlp_map"].values.astype(np.float64), parts.ln_std_b
    )
    found = [heads[:, layer, head] for layer, head in space.heads]
    found += [mlps[:, block] for block in space.blocks]
    found += [parts.embedding_be] if space.embedding else []
    return np.concatenate([one / norm for one in found], axis=1)


@dataclass
class Asked:
    """Queries in the joint space and in coordinates."""

    joint: np.ndarray
    queries: Queries


def asked(store: Store, space: Space, images: list[int], texts: np.ndarray) -> Asked:
    coordinates, parts = Coordinates.of(store, space), parts_of(store)
    own = StoredParts(
        parts.heads_blhk[images], parts.mlps_bsd[images], parts.embedding_be[images],
        parts.ln_std_b[images],
    )  # fmt: skip
    vectors = np.concatenate([coordinates.parts(own), coordinates.texts(texts)])
    are_texts = np.arange(len(vectors)) >= len(images)
    tiled = np.tile(texts, (1, len(space.parts)))
    return Asked(np.concatenate([joint(store, space)[images], tiled]), Queries(vectors, are_texts))


def brute_force(
    store: Store, space: Space, asked: Asked, metric: str, centred: bool, chosen: np.ndarray
) -> np.ndarray:
    """Scores of all images, (queries, images) float64, NaN where none may come out."""
    rows, vectors = joint(store, space), asked.joint.copy()
    ok = np.isfinite(rows).all(1)
    if centred:
        mean = rows[ok].mean(0)
        rows = rows - mean
        vectors[~asked.queries.are_texts_q] -= mean
    scores = vectors @ rows.T
    if metric == "cosine":
        scores /= np.linalg.norm(rows, axis=1) * np.linalg.norm(vectors, axis=1)[:, None]
    scores[:, ~(ok & chosen)] = np.nan
    return scores


def held(found: scan.Nearest, scores: np.ndarray, tolerance: float) -> None:
    """The same images in the same order, ties of the rounding aside."""
    for rows, own, all_of in zip(found.rows_qk, found.scores_qk, scores, strict=True):
        order = np.argsort(-all_of, kind="stable")[: np.isfinite(all_of).sum()][: len(rows)]
        there = rows[rows >= 0]
        assert len(there) == len(order) == len(set(there.tolist()))
        assert np.isfinite(all_of[there]).all()
        np.testing.assert_allclose(own[: len(order)], all_of[order], atol=tolerance)
        np.testing.assert_allclose(all_of[there], all_of[order], atol=2 * tolerance)
        assert (rows[len(order) :] == -1).all()
        assert np.isnan(own[len(order) :]).all()


def unit_texts(n: int, embed: int) -> np.ndarray:
    texts = np.random.default_rng(3).normal(size=(n, embed))
    return texts / np.linalg.norm(texts, axis=1, keepdims=True)


SPACES = (
    Space(((1, 0),)),
    Space(((0, 2), (1, 1), (1, 2))),
    Space((), (0, 2)),
    Space((), (), True),
    Space(((0, 0),), (1,), True),
)


@settings(max_examples=8)
@given(data=st.data())
def test_the_nearest_are_those_of_a_brute_force_in_the_joint_space(data, tmp_path_factory):
    draw = data.draw
    shape = {
        "images": draw(st.integers(2, 60)), "shard_size": draw(st.sampled_from([3, 8, 25])),
        "head_dim": draw(st.integers(1, 9)), "embed": draw(st.integers(2, 7)),
        "width": draw(st.integers(2, 9)),
        "store_dtype": draw(st.sampled_from(["float16", "float32"])),
    }  # fmt: skip
    bad = dict.fromkeys(draw(st.sets(st.integers(1, shape["images"] - 1), max_size=4)), "gone")
    url = str(tmp_path_factory.mktemp("stores") / str(next(TEMPORARY)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.layout.ROWS_PER_INDEX_CHUNK", draw(st.sampled_from([1, 16, 50])))
        patch.setattr(scan, "MOST_ROWS", 64)
        store = make(url, bad, **shape)
        space = draw(st.sampled_from(SPACES))
        build.build(store, space)
        where = draw(st.sampled_from([None, "label in ('class-0', 'class-1')"]))
        chosen = chosen_images(store, where)
        metric, centred = draw(st.sampled_from(["cosine", "dot"])), draw(st.booleans())
        query = asked(store, space, [0, 0], unit_texts(2, shape["embed"]))
        found = nearest(
            store, space, query.queries, metric=metric, top=draw(st.sampled_from([1, 5, 50])),
            chosen=chosen, centred=centred,
        )  # fmt: skip
    everyone = np.ones(store.meta.images, bool) if chosen is None else chosen
    scores = brute_force(store, space, query, metric, centred, everyone)
    size = 1 if metric == "cosine" else max(1.0, np.nanmax(np.abs(scores), initial=0))
    held(found, scores, 2e-3 * size)


ONE = Space(((1, 0), (1, 2)), (1,), True)


def search(store: Store, space: Space = ONE, **changes) -> scan.Nearest:
    query = asked(store, space, [0, 5], unit_texts(1, store.meta.embed))
    how = {"metric": "cosine", "top": 50, **changes}
    return nearest(store, space, query.queries, **how)


def right(store: Store, space: Space = ONE) -> None:
    """A search of the whole store finds what a brute force does."""
    query = asked(store, space, [0, 5], unit_texts(1, store.meta.embed))
    everyone = np.ones(store.meta.images, bool)
    scores = brute_force(store, space, query, "cosine", True, everyone)
    held(nearest(store, space, query.queries, metric="cosine", top=50), scores, 1e-3)


def read(monkeypatch) -> list[int]:
    """Shards whose contributions are turned into coordinates from now on."""
    taken: list[int] = []
    done = build.index_run

    def noting(work, shards):
        taken.extend(shards)
        return done(work, shards)

    monkeypatch.setattr(build, "index_run", noting)
    return taken


def test_a_store_that_grows_is_read_where_it_is_new(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.layout.ROWS_PER_INDEX_CHUNK", 14)
    store = make(str(tmp_path / "s"), {3: "gone", 38: "gone"})  # 5 shards of 7, and one of 5
    build.build(store, ONE)
    right(store)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s/index.zarr").rglob("c/*/*")}
    taken = read(monkeypatch)
    build.build(store, ONE)
    assert taken == []
    grown = append(store, [stores.image_table(9, 40)])
    with pytest.raises(StoreError, match="lacks 1 of 6 finished"):
        random_shard(grown, 5, {38: "gone"})
        search(open_store(store.url))
    random_shard(grown, 6, {})
    grown = open_store(store.url)
    build.build(grown, ONE)
    assert taken == [5, 6]  # the short one, with its new images, and what follows
    after = {p: p.stat().st_mtime_ns for p in before}
    assert {p.parent.name for p in before if after[p] != before[p]} == {"2"}
    right(grown)
    # Other parts leave those alone that are there.
    build.build(grown, Space(((0, 1),), (0,)))
    assert {p: p.stat().st_mtime_ns for p in before} == after
    right(grown, Space(((0, 1), (1, 2)), (0,)))


def test_a_store_much_larger_than_before_is_cut_anew(tmp_path, monkeypatch):
    store = make(str(tmp_path / "s"), images=4, shard_size=2)
    build.build(store, ONE)
    grown = append(store, [stores.image_table(40, 4)])
    for shard in range(2, grown.meta.shards):
        random_shard(grown, shard, {})
    taken = read(monkeypatch)
    build.build(open_store(store.url), ONE)
    assert taken == list(range(22))
    right(open_store(store.url))


def test_a_shard_that_is_done_again_is_indexed_again(tmp_path, monkeypatch):
    store = make(str(tmp_path / "s"))
    build.build(store, ONE)
    (tmp_path / "s/ledger/part-00000002.parquet").unlink()
    forget_redone(store)
    found = search(store)
    assert not np.isin(found.rows_qk, range(14, 21)).any()  # of what it was nothing is found
    random_shard(open_store(store.url, "r+"), 2, {15: "gone"}, seed=9)
    taken = read(monkeypatch)
    build.build(store, ONE)
    assert taken == [2]
    right(open_store(store.url))


def test_an_index_of_a_view_follows_its_store(tmp_path, monkeypatch):
    store, place = make(str(tmp_path / "s")), str(tmp_path / "place")
    views.make(store.url, place, store.meta)
    build.build(open_store(place), ONE)
    right(open_store(place))
    assert not (tmp_path / "s/index.zarr").exists()
    append(store, [stores.image_table(7, 40)])
    for shard in (5, 6):
        random_shard(open_store(store.url, "r+"), shard, {})
    taken = read(monkeypatch)
    follow(open_store(place))
    build.build(open_store(place), ONE)
    assert taken == [5, 6]
    right(open_store(place))


def test_what_is_told_of_an_index_that_cannot_be_searched(tmp_path):
    store = make(str(tmp_path / "s"))
    with pytest.raises(StoreError, match=r"no index of heads/1.0, heads/1.2, blocks/1, embedding"):
        search(store)
    build.build(store, Space(((1, 0), (1, 2)), (1,)))
    with pytest.raises(StoreError, match="no index of embedding") as lacking:
        search(store)
    assert lacking.value.remedy == Remedy.first("index", store.url, embedding=True)
    build.build(store, ONE)
    # Of another store, which stands in its place.
    other = make(str(tmp_path / "other"), weights_digest="v")
    shutil.copytree(tmp_path / "s/index.zarr", tmp_path / "other/index.zarr")
    with pytest.raises(StoreError, match="is of another store") as wrong:
        search(other)
    assert wrong.value.remedy == Remedy.anew("index", other.url, layers="1")
    build.build(other, ONE)
    right(other)
    # Damaged rows, lost rows, and a part that says nothing of itself.
    chunk = tmp_path / "s/index.zarr/heads/1.0/c/0/0"
    data = bytearray(chunk.read_bytes())
    data[10] ^= 1
    chunk.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"heads/1\.0 is damaged .*Remove it") as damaged:
        search(store)
    assert damaged.value.remedy == Remedy.anew("index", store.url, layers="1")
    chunk.unlink()
    with pytest.raises(StoreError, match=r"heads/1\.0 is damaged .*Remove it"):
        search(store)
    (tmp_path / "s/index.zarr/heads/1.0/zarr.json").write_text("{}")
    for work in (search, lambda store: build.build(store, ONE)):
        with pytest.raises(StoreError, match=r"heads/1\.0 is damaged .*Remove it"):
            work(store)
    shutil.rmtree(tmp_path / "s/index.zarr/heads/1.0")
    build.build(store, ONE)
    right(store)


def test_parts_that_a_store_does_not_keep(tmp_path):
    store = make(str(tmp_path / "s"), components=("heads",), token_layers=())
    with pytest.raises(StoreError, match="has no mlps"):
        build.build(store, ONE)


def test_images_too_far_out_for_float16_are_named(tmp_path):
    store = make(str(tmp_path / "s"), images=4, shard_size=2)
    rows = stores.values(store, 1)
    rows["ln_std"][1] = 1e-30
    open_store(store.url, "r+").write_shard(1, rows, stores.ledger_rows(store, 1), {"bad": {}})
    with pytest.raises(NotFinite, match=r"index.zarr/heads/1.0: NaN or infinite .* first is 3"):
        build.build(open_store(store.url), ONE)


def test_a_build_that_was_stopped_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.layout.ROWS_PER_INDEX_CHUNK", 7)
    monkeypatch.setattr(build, "SECONDS_BETWEEN_NOTES", -1.0)
    store = make(str(tmp_path / "s"))
    taken = read(monkeypatch)

    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.build(store, ONE, report=stop)
    with pytest.raises(StoreError, match="lacks 3 of 6 finished shards: it was not finished"):
        search(store)
    build.build(store, ONE)
    assert taken == [0, 1, 2, 3, 4, 5]
    right(store)


def test_equal_images_come_in_the_stores_order(tmp_path):
    store = make(str(tmp_path / "s"), images=12, shard_size=4)
    for shard in range(3):
        rows = stores.values(store, 0)
        rows = {n: np.repeat(v[:1], 4, 0) if v.dtype != object else v for n, v in rows.items()}
        open_store(store.url, "r+").write_shard(
            shard, rows, stores.ledger_rows(store, shard), {"bad": {}}
        )
    space = Space((), (), True)
    build.build(open_store(store.url), space)
    found = search(open_store(store.url), space, top=7, metric="dot", centred=False)
    assert (found.rows_qk == np.arange(7)).all()
