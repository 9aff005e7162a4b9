"""Shards that were held to masks count as done for the very code that did them."""

from pipeline.heatmaps import shards


def test_what_other_code_did_is_done_again(tmp_path, monkeypatch):
    place = str(tmp_path)
    shards.note_done(place, 3, {"pictures": True})
    shards.note_done(place, 5, {"pictures": False})
    assert shards.done_shards(place, [5, 4, 3]) == {5: {"pictures": False}, 3: {"pictures": True}}
    monkeypatch.setattr(shards, "revision", lambda: "another")
    assert shards.done_shards(place, [3, 5]) == {}
    shards.note_done(place, 5, {"pictures": True})
    assert shards.done_shards(place, [3, 5]) == {5: {"pictures": True}}
