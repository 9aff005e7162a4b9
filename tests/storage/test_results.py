"""Results of jobs: written whole, found again."""

import pyarrow as pa
import pytest
import xarray as xr

from storage import urls
from storage.errors import StoreError
from storage.reductions import runs
from storage.results import ask_again, find_result, latest_result, result_url, save_result

TEXTS = pa.table({"text": ["a", "b"]})


def test_a_result_is_found_by_its_configuration_and_the_latest_by_its_job(tmp_path):
    url = str(tmp_path)
    with pytest.raises(StoreError, match="no results of encode-texts in .*facet encode-texts"):
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


def test_runs_of_shards():
    assert runs([]) == []
    assert runs({5, 1, 2, 3, 9}) == [(1, 3), (5, 5), (9, 9)]
