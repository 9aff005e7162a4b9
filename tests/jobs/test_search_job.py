"""Searches against all pairs of contributions written out, in float64."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import extract, report, search, show
from jobs.search import SearchConfig
from pipeline.heads.ablation import StoredParts
from pipeline.heads.edits import edit_from, edited_embedding, write_edit
from pipeline.heads.studies import maps_of
from pipeline.images.again import load_again
from pipeline.search.found import NEAREST, RANDOM_HEADS, RANDOM_IMAGES
from pipeline.stats.reductions import reduce_store
from pipeline.texts.encoding import TextEncoder
from storage import ledger, views
from storage.errors import FacetError, StoreError
from storage.results import save_result
from storage.store import Store
from tests import tiny
from tests.commands_kit import understood
from tests.refusals import refused

TINY = tiny.tiny({"mlp_ratio": 1.0}, {"width": 32}, quick_gelu=True)
IMAGES = 50
LABELS = [(1, 0, "colours"), (2, 1, "colours"), (2, 2, "shapes"), (0, 0, None)]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("search")
    return extract.main(
        extract.ExtractConfig(
            images=f"microworld:n={IMAGES},seed=3,split=test",
            model=tiny.write_config(folder, TINY),
            pretrained="none",
            store=str(folder / "store"),
            store_dtype="float32",
            shard_size=16,
            workers="here",
        )
    )


@pytest.fixture
def labelled(store) -> Iterator[None]:
    """Heads with labels: what a search reads of them."""
    rows = pa.table(list(zip(*LABELS, strict=True)), names=["layer", "head", "label"])
    result = save_result(store.url, "label", {}, {}, tables={"labels": rows})
    yield
    shutil.rmtree(result.url)


@pytest.fixture(scope="module")
def plain(store) -> SearchConfig:
    return SearchConfig(
        store.url, image=("7", "12"), text=("a red star",), heads=("1.0", "2.1"), top=5,
        workers="here",
    )  # fmt: skip


def found(config: SearchConfig, **changes: object) -> pd.DataFrame:
    return search.main(replace(config, **changes)).found.table


def written(store: Store, parts: list) -> list[np.ndarray]:
    """What parts wrote of every image, each (image, embed) float64 on the published scale."""
    norm = np.linalg.norm(store.embeddings().values.astype(np.float64), axis=1)[:, None]
    kept = {
        tuple: lambda part: store.heads(*part),
        int: store.mlps,
        str: lambda _: store.embeddings(),
    }
    return [kept[type(part)](part).values.astype(np.float64) / norm for part in parts]


def brute(store, parts, query, *, metric="cosine", centred=True, among=None, top=5):
    """The best images of a query by a plain loop: an image's number, or a text."""
    rows = written(store, parts)
    means = [part.mean(0) if centred else 0 * part[0] for part in rows]
    own = None
    if isinstance(query, str):
        text = TextEncoder(store).encode("texts", [query]).embeddings[0].astype(np.float64)
        asked, length = [text] * len(parts), np.sqrt(len(parts))
    else:
        asked = [part[query] - mean for part, mean in zip(rows, means, strict=True)]
        own, length = query, np.sqrt(sum(part @ part for part in asked))
    scores = []
    for image in range(IMAGES):
        these = [part[image] - mean for part, mean in zip(rows, means, strict=True)]
        score = sum(a @ b for a, b in zip(asked, these, strict=True))
        if metric == "cosine":
            score /= length * np.sqrt(sum(part @ part for part in these))
        scores.append((-score, image))
    kept = [(i, -s) for s, i in sorted(scores) if i != own and (among is None or i in among)]
    return kept[:top]


def assert_same(table: pd.DataFrame, number: int, expected: list) -> None:
    """The images and scores of a query, but for neighbours that lie within rounding."""
    rows = table[(table["number"] == number) & (table["series"] == NEAREST)]
    assert rows["rank"].tolist() == list(range(len(expected)))
    np.testing.assert_allclose(rows["score"], [score for _, score in expected], atol=1e-3)
    scores = dict(expected)
    for image, score in zip(rows["image"], rows["score"], strict=True):
        assert scores.get(image, score) == pytest.approx(score, abs=1e-3)
    assert len(set(rows["image"]) & set(scores)) >= len(expected) - 1


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, [(1, 0), (2, 1)]),
        ({"heads": (), "property": "Colours"}, [(1, 0), (2, 1)]),
        ({"heads": (), "layer": 2}, [(2, 0), (2, 1), (2, 2)]),
        ({"heads": ("2.2",), "blocks": "3"}, [(2, 2), 3]),
        ({"heads": ()}, ["embedding"]),
        ({"metric": "dot"}, [(1, 0), (2, 1)]),
        ({"centred": False}, [(1, 0), (2, 1)]),
        ({"metric": "dot", "centred": False, "heads": ("0.2",)}, [(0, 2)]),
        ({"top": 3, "where": "shape in ('star', 'heart')"}, [(1, 0), (2, 1)]),
    ],
)
def test_settings_of_searches(store, labelled, plain, changes, parts):
    table = found(plain, **changes)
    config = replace(plain, **changes)
    among = None
    if config.where is not None:
        shapes = store.images()["shape"].to_pylist()
        among = {i for i, shape in enumerate(shapes) if shape in ("star", "heart")}
    for number, query in enumerate((7, 12, "a red star")):
        expected = brute(
            store, parts, query, metric=config.metric, centred=config.centred, among=among,
            top=config.top,
        )  # fmt: skip
        assert_same(table, number, expected)
    rows = store.images().to_pylist()
    for row in table.to_dict("records"):
        for name in ("key", "uri", "label"):
            assert row[name] == rows[row["image"]][name]


def test_a_property_is_its_heads_side_by_side(labelled, plain):
    by_label = found(plain, heads=(), property="colours")
    pd.testing.assert_frame_equal(by_label, found(plain))


def test_a_picture_finds_what_the_image_finds(store, plain, tmp_path):
    load_again(store, 7).save(tmp_path / "seven.png")
    Image.new("RGB", (90, 40), "red").save(tmp_path / "red.png")
    pictures = (str(tmp_path / "seven.png"), str(tmp_path / "red.png"))
    run = search.main(replace(plain, image=(), text=(), picture=pictures))
    table = run.found.table
    rows = table[table["number"] == 0]
    assert rows["image"].iloc[0] == 7  # it is in the store, and no query of it
    assert rows["score"].iloc[0] == pytest.approx(1, abs=1e-3)
    expected = brute(store, [(1, 0), (2, 1)], 7)[:4]
    assert rows["image"].tolist()[1:] == [image for image, _ in expected]
    np.testing.assert_allclose(rows["score"][1:], [score for _, score in expected], atol=1e-3)
    assert set(table["kind"]) == {"picture"}
    page = Path(run.result.url, "search.html").read_text()
    assert page.count("<img ") == 2 * (1 + 5)
    assert Image.open(Path(run.result.url, "query-001.png")).size == (90, 40)


@pytest.mark.usefixtures("here")
def test_whole_embeddings_with_an_edit(store, plain, tmp_path):
    edit = edit_from(
        store, reduce_store(store), "three parts", {(2, 1): 0.0, (1, 0): 0.5}, {0: 0.0}, {2: 0.0}
    )
    file = tmp_path / "edit.json"
    file.write_bytes(write_edit(edit))
    picture = tmp_path / "7.png"
    load_again(store, 7).save(picture)
    asked = replace(plain, heads=(), edit=str(file), picture=(str(picture),))
    run = search.main(asked)
    data = store.contributions()
    parts = (data[n].values for n in ("heads", "mlps", "embedding", "ln_std"))
    edited = edited_embedding(StoredParts(*parts), edit, maps_of(store))
    edited -= edited.mean(0)
    edited /= np.linalg.norm(edited, axis=1, keepdims=True)
    text = TextEncoder(store).encode("texts", ["a red star"]).embeddings[0]
    wanted = {"7": edited[7], "12": edited[12], "a red star": text, str(picture): edited[7]}
    for query, vector in wanted.items():
        own = int(query) if query.isdecimal() else -1
        scores = edited @ vector
        order = [i for i in np.argsort(-scores) if i != own][:5]
        rows = run.found.table[run.found.table["query"] == query]
        assert rows["image"].tolist() == order
        np.testing.assert_allclose(rows["score"], scores[order], atol=1e-5)
    assert run.found.space == "the whole embedding, edited (three parts)"
    assert not found(replace(asked, edit=None)).equals(run.found.table)
    with refused(FacetError, "--heads belongs to searches without --edit"):
        search.main(replace(asked, heads=("1.0",)))
    file.write_bytes(write_edit(replace(edit, weights="another")))
    with refused(FacetError, "is of weights another, and the store at"):
        search.main(asked)


def test_more_than_there_are_is_all_that_there_are(plain):
    table = found(plain, top=10**12, random=True)
    assert set(table.groupby(["number", "series"]).size()) == {IMAGES - 1, IMAGES}


def test_many_queries_from_a_file(store, plain, tmp_path):
    keys = store.images()["key"].to_pylist()
    asked = [("image", keys[i]) for i in range(9)] + [("text", "snow"), ("image", keys[0])]
    lines = tmp_path / "queries.txt"
    lines.write_text("".join(f"{kind}\t{query}\n\n" for kind, query in asked))
    run = search.main(replace(plain, image=(), text=(), queries=str(lines)))
    assert len(run.found.queries) == 10  # each once
    assert run.found.queries["image"].tolist() == [*range(9), -1]
    assert_same(run.found.table, 8, brute(store, [(1, 0), (2, 1)], 8))
    page = Path(run.result.url, "search.html").read_text()
    assert "The first 8 are shown" in page
    assert page.count("<img ") == 8 * (1 + 5)
    table = tmp_path / "queries.parquet"
    kinds, queries = zip(*asked, strict=True)
    pq.write_table(pa.table({"kind": list(kinds), "query": list(queries)}), table)
    again = found(plain, image=(), text=(), queries=str(table))
    pd.testing.assert_frame_equal(again, run.found.table)


def test_what_chance_finds(store, plain):
    run = search.main(replace(plain, random=True))
    table = run.found.table
    assert table[table["series"] == NEAREST].shape == table[table["series"] == RANDOM_HEADS].shape
    assert run.found.random_heads
    drawn = table[table["series"] == RANDOM_IMAGES]
    assert len(drawn) == 15
    rows = written(store, [(1, 0), (2, 1)])
    for row in drawn[drawn["number"] == 0].to_dict("records"):
        both = [(part[row["image"]] - part.mean(0), part[7] - part.mean(0)) for part in rows]
        lengths = [np.sqrt(sum(one @ one for one in some)) for some in zip(*both, strict=True)]
        expected = sum(a @ b for a, b in both) / np.prod(lengths)
        assert row["score"] == pytest.approx(expected, abs=1e-3)
        assert row["image"] != 7
    known = dict(brute(store, [(1, 0), (2, 1)], "a red star", top=IMAGES))
    for row in drawn[drawn["number"] == 2].to_dict("records"):
        assert row["score"] == pytest.approx(known[row["image"]], abs=1e-3)
    others = found(plain, heads=("1.1", "2.0"), random=True)  # drawn again, and of the same layers
    assert set(others["series"]) == {NEAREST, RANDOM_HEADS, RANDOM_IMAGES}
    whole = found(plain, heads=(), random=True)
    assert set(whole["series"]) == {NEAREST, RANDOM_IMAGES}  # there is no other whole


def test_what_was_found_is_shown(store, plain, capsys):
    run = search.main(plain)
    capsys.readouterr()
    search.main(plain)
    assert "this very run was finished before" in capsys.readouterr().out
    shown = show.main(show.ShowConfig("search", store.url)).found
    pd.testing.assert_frame_equal(shown.table, run.found.table)
    assert "layer 1, head 0; layer 2, head 1" in capsys.readouterr().out
    show.main(show.ShowConfig("search", store.url, format="json"))
    told = json.loads(capsys.readouterr().out)["found"]
    assert told["table"][0]["key"] == run.found.table["key"][0]
    show.main(show.ShowConfig("search", store.url, format="csv"))
    assert len(capsys.readouterr().out.splitlines()) == 16
    place = report.main(report.ReportConfig(store.url))
    assert "Nearest in layer 1, head 0" in Path(place).read_text()


def test_a_search_of_a_part_tells_what_it_misses(store, plain, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.search.approximate.PROBED", 1)
    monkeypatch.setattr("pipeline.search.approximate.SPARE", 0)
    monkeypatch.setattr("pipeline.search.approximate.LEAST_OF_A_LIST", 4)
    exact = found(plain, top=IMAGES)
    run = search.main(replace(plain, approximate=True))
    told = run.found.recall
    assert 0.1 < told["images"] < 1
    assert told["queries"] == IMAGES
    scores = exact.set_index(["number", "image"])["score"]
    for row in run.found.table.to_dict("records"):
        assert row["score"] == pytest.approx(scores[row["number"], row["image"]], abs=1e-5)
    said = capsys.readouterr().out
    assert f"{told['images']:.3f} of what a scan finds" in " ".join(said.split())
    assert f"{told['images']:.3f} of what" in Path(run.result.url, "search.html").read_text()
    assert "listing 50 images" in said
    search.main(replace(plain, approximate=True, image=("3",)))
    assert "listing" not in capsys.readouterr().out
    shown = show.main(show.ShowConfig("search", store.url)).found
    assert shown.recall == told
    assert found(plain, top=IMAGES).equals(exact)


def test_what_an_approximate_search_cannot_do(plain, monkeypatch):
    asked = replace(plain, approximate=True)
    with refused(FacetError, "--where, --random belong to exact searches"):
        search.main(replace(asked, where="count == 1", random=True))
    with refused(FacetError, "reads its lists from this machine's disk.* give --out a local"):
        search.main(replace(asked, store="s3://bucket/store"))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with refused(FacetError, r"--approximate needs faiss: pip install 'facet-interp\[ann\]'"):
        search.main(asked)


def test_the_index_is_made_once_and_elsewhere_where_asked(store, plain, capsys, tmp_path):
    search.main(replace(plain, heads=("0.1",)))
    assert "indexing 1 part of 4 shards: up to" in capsys.readouterr().out
    search.main(replace(plain, heads=("0.1",), top=4))
    assert "indexing" not in capsys.readouterr().out
    run = search.main(replace(plain, heads=("0.1",), out=str(tmp_path / "view")))
    assert "indexing 1 part" in capsys.readouterr().out
    pd.testing.assert_frame_equal(run.found.table, found(plain, heads=("0.1",)))
    assert run.result.url.startswith(str(tmp_path))


def test_an_image_that_was_bad_is_no_query_and_never_found(store, plain, monkeypatch):
    rows = ledger.read_part(store.data, 0).to_pylist()
    rows[5] |= {"ok": False, "error": "truncated or damaged"}
    part = pa.Table.from_pylist(rows, ledger.SCHEMA)
    monkeypatch.setattr("pipeline.search.vectors.ledger.read_part", lambda *_: part)
    with refused(FacetError, "--image 5: the store has nothing of it: truncated or damaged"):
        search.main(replace(plain, image=("5",)))


def test_commands_are_understood():
    config = understood("facet search --store s --text star --head 22.1 23.4 --no-centred")
    assert (config.heads, config.centred) == (("22.1", "23.4"), False)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image": (), "text": ()}, FacetError, "say what to search for: --image, --picture"),
        ({"text": (" ",)}, FacetError, "a query is empty"),
        ({"image": ("tst-3/00000007",)}, FacetError, "did you mean 'test-3/00000007'"),
        ({"image": ("50",)}, FacetError, "by number, its images are 0-49"),
        ({"picture": ("gone.png",)}, FacetError, "--picture gone.png: there is no such file"),
        ({"picture": (__file__,)}, FacetError, "cannot be read: not an image"),
        ({"heads": ("3.0",)}, FacetError, "layers 0-2, heads 0-2"),
        ({"heads": (), "layer": 3}, FacetError, "the model's layers are 0-2"),
        ({"layer": 1}, FacetError, "--layer belongs to searches without --heads"),
        ({"property": "colours"}, FacetError, "--property belongs to"),
        ({"heads": (), "property": "music"}, FacetError, "'music'; .* colours, shapes"),
        ({"blocks": "4"}, FacetError, "--blocks 4: the model's blocks are 0-3"),
        ({"heads": (), "edit": __file__}, FacetError, "is no edit"),
        ({"heads": (), "edit": "e", "random": True}, FacetError, "--random belongs to searches"),
        ({"top": 0}, FacetError, "--top 0: must be at least 1"),
        ({"where": "shape == 'cube'"}, FacetError, "matches no image"),
        ({"queries": "gone.txt"}, FacetError, "--queries gone.txt: there is no such file"),
        ({"text": ("dog " * 20,)}, FacetError, "more than the 16 tokens"),
    ],
)
def test_what_cannot_be_searched_is_refused(labelled, plain, changes, error, message):
    with refused(error, message):
        search.main(replace(plain, **changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image\t3\nstar\n", "row 2: 'star' with '' is no query"),
        ("song\tla\n", "row 1: 'song' with 'la' is no query"),
        ("\n\n", "holds no query"),
        (b"\xff\xfe\x00", "neither Parquet nor text"),
        (b"PAR1xxxx", "cannot be read"),
    ],
)
def test_files_that_hold_no_queries_are_refused(plain, tmp_path, content, message):
    file = tmp_path / "queries"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with refused(FacetError, message):
        search.main(replace(plain, queries=str(file)))


def test_an_index_of_another_store_is_made_anew_or_refused(store, plain, tmp_path):
    from storage import head_index

    first = found(plain, heads=("2.0",))
    other = replace(store.meta, weights_digest="other")
    facts = head_index.find_part(store.url, store.meta, "heads/2.0")
    head_index.write_facts(store.url, store.meta, "heads/2.0", replace(facts, store=other.digest()))
    with refused(StoreError, "no index|of another store"):
        head_index.open_parts(views_of(store), ["heads/2.0"])
    again = search.main(replace(plain, heads=("2.0",), top=6)).found.table
    kept = again[again["rank"] < 5].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, first, atol=1e-3)


def views_of(store: Store) -> Store:
    return Store(store.url, views.find(store.url)[1], "r", store.data)
