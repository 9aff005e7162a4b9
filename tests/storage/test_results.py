"""Results of jobs: written whole, found again."""

import pyarrow as pa
import pytest
import xarray as xr

from storage import urls
from storage.errors import NotFinite, StoreError
from storage.reductions import as_spans
from storage.results import (
    INDEX_COLUMNS,
    ask_again,
    find_result,
    index,
    latest_result,
    may_be_unknown,
    read_index,
    result_url,
    save_result,
)

TEXTS = pa.table({"text": ["a", "b"]})


def test_a_result_is_found_by_its_configuration_and_the_latest_by_its_job(tmp_path):
    url = str(tmp_path)
    with pytest.raises(StoreError, match="no results of encode_texts in "):
        latest_result(url, "encode_texts")
    for name in ("one", "two"):
        data = xr.Dataset({"embedding": (("text", "embed"), [[1.0, 2.0]])})
        saved = save_result(
            url, "encode_texts", {"pool": name}, {"source": name},
            tables={"texts": TEXTS}, arrays={"embeddings": data}, files={"note.txt": b"hi"},
        )  # fmt: skip
    found = find_result(url, "encode_texts", {"pool": "one"})
    assert found is not None
    assert found.provenance["source"] == "one"
    assert found.table("texts").equals(TEXTS)
    assert found.arrays("embeddings")["embedding"].values.tolist() == [[1, 2]]
    assert urls.read_bytes(urls.join(found.url, "note.txt")) == b"hi"
    assert latest_result(url, "encode_texts") == saved
    assert find_result(url, "encode_texts", {"pool": "three"}) is None


def test_what_decides_a_result_tells_it_from_others(tmp_path):
    url, config = str(tmp_path), {"pool": "pool.txt"}
    first, second = (
        save_result(url, "encode_texts", config, {"n": n}, identity={"content": n}) for n in (1, 2)
    )
    assert first.url != second.url
    assert first.config == second.config == config
    assert first.url.endswith(first.name)
    assert find_result(url, "encode_texts", {"content": 1}).provenance["n"] == 1
    assert latest_result(url, "encode_texts") == second
    again = ask_again(first)
    assert latest_result(url, "encode_texts") == again
    assert again.provenance["finished"] == first.provenance["finished"]
    assert again.provenance["identity"] == {"content": 1}


def test_a_result_that_was_cut_short_counts_as_none(tmp_path):
    url, config = str(tmp_path), {"pool": "one"}
    save_result(url, "encode_texts", config, {}, tables={"texts": TEXTS})
    urls.remove(urls.join(result_url(url, "encode_texts", config), "provenance.json"))
    assert find_result(url, "encode_texts", config) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_figures_are_known_and_finite_unless_the_law_says_otherwise(tmp_path, bad):
    url = str(tmp_path)
    fits = pa.table({"layer": [0, 0], "neuron": [0, 1], "terms": [8, 8], "residual": [0.5, bad]})
    with pytest.raises(NotFinite, match=r"omp/fits, column residual: .* the first is 1"):
        save_result(url, "omp", {}, {}, tables={"fits": fits})
    assert find_result(url, "omp", {}) is None
    schema = pa.schema([("neuron", pa.int64()), may_be_unknown("explained")])
    neurons = pa.table({"neuron": [1, 2], "explained": [0.5, bad]}, schema)
    if bad == float("inf"):
        with pytest.raises(NotFinite, match="column explained"):
            save_result(url, "second_order", {}, {}, tables={"neurons": neurons})
    else:
        save_result(url, "second_order", {}, {}, tables={"neurons": neurons})


def test_runs_of_shards():
    assert as_spans([]) == []
    assert as_spans({5, 1, 2, 3, 9}) == [(1, 3), (5, 5), (9, 9)]


def test_the_index_lists_what_is_finished_and_follows_it(tmp_path):
    url = str(tmp_path)
    late = save_result(url, "textspan", {"store": url, "pool": "a", "where": None}, {"images": 7})
    early = save_result(url, "ablate", {"study": ["mlps"]}, {"differs": {}, "classified": 5})
    found = read_index(url)
    assert found.schema.equals(INDEX_COLUMNS)
    assert found.to_pylist() == [
        {
            "job": of.job, "finished": of.provenance["finished"], "asked": of.provenance["asked"],
            "images": images, "settings": settings, "address": f"results/{of.job}/{of.name}",
        }
        for of, images, settings in ((late, 7, '{"pool": "a"}'), (early, 5, "{}"))
    ]  # fmt: skip
    again = ask_again(late)
    assert read_index(url)["asked"].to_pylist()[0] == again.provenance["asked"]
    urls.remove(urls.join(early.url, "provenance.json"))
    urls.put_bytes(urls.join(url, "results", "run", "nightly.json"), b"{}")
    for name in ("README", "textspan/NOTES"):  # of whoever keeps files there
        urls.put_bytes(urls.join(url, "results", name), b"ours")
    assert index(url)["job"].to_pylist() == ["textspan"]
    urls.put_bytes(urls.join(late.url, "provenance.json"), b"{")
    with pytest.raises(StoreError, match="is damaged"):
        index(url)


def test_the_index_of_runs_that_end_at_once_holds_them_all(tmp_path, monkeypatch):
    url, put = str(tmp_path), urls.put_bytes

    def late(place, content):
        """While this run writes the index, another ends and writes its own."""
        if place.endswith("index.parquet"):
            monkeypatch.setattr(urls, "put_bytes", put)
            save_result(url, "omp", {}, {})
        put(place, content)

    monkeypatch.setattr(urls, "put_bytes", late)
    save_result(url, "textspan", {}, {})
    assert sorted(read_index(url)["job"].to_pylist()) == ["omp", "textspan"]


def test_an_old_place_has_no_index(tmp_path):
    assert read_index(str(tmp_path)) is None
    assert index(str(tmp_path)).num_rows == 0
