"""Which image is meant."""

from types import SimpleNamespace

import pyarrow as pa

from pipeline.images import find


def test_a_key_counts_before_a_number(monkeypatch):
    """Keys of Parquet rows may be numbers, and not those of their places."""
    parts = [
        pa.table({"index": [0, 1], "key": ["2", "x"]}),
        pa.table({"index": [2], "key": ["0"]}),
    ]
    monkeypatch.setattr(find, "read_keys", lambda url: iter(parts))
    store = SimpleNamespace(data="s", url="s", meta=SimpleNamespace(images=3))
    assert [find.find_image(store, asked) for asked in ("2", "0", "1", "x")] == [0, 2, 1, 1]
    assert find.find_images(store, ["x", "1", "2", "x"]) == [1, 1, 0, 1]
