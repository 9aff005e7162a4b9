"""Groups and halves."""

import hashlib

import numpy as np
import pytest

from pipeline.repair.finding import counted
from pipeline.repair.groups import Asked, check_column, drawn, members, namer, refuse_groups
from pipeline.texts.classes import Classes
from storage.errors import FacetError
from tests.pipeline.repair import kit


def test_a_half_is_a_matter_of_the_key_alone():
    keys = [f"image-{i}" for i in range(2000)]
    held_out, places = drawn(keys)
    assert held_out.tolist() == [hashlib.sha256(key.encode()).digest()[0] >= 128 for key in keys]
    assert 0.45 < held_out.mean() < 0.55
    assert places.min() >= 0
    assert places.max() < 1
    assert abs(np.corrcoef(held_out, places)[0, 1]) < 0.1
    some = drawn(keys[300:310])
    assert some[0].tolist() == held_out[300:310].tolist()
    assert drawn([])[0].size == 0


def test_members_of_both_halves_are_all_that_are_ok(tmp_path):
    store = kit.leaning_store(tmp_path)
    rows = store.images().to_pylist()
    seen = []
    for half in ("training", "held-out"):
        for shard in range(store.meta.shards):
            found = members(store, shard, kit.ASKED, half)
            numbers = store.meta.rows(shard)[0] + np.flatnonzero(found.chosen)
            expected = [(kit.CLASSES.index[rows[i]["label"]], rows[i]["place"]) for i in numbers]
            assert found.groups == expected
            assert found.classes.tolist() == [c for c, _ in expected]
            seen += numbers.tolist()
            some = found.keep(found.places < 0.3)
            kept = store.meta.rows(shard)[0] + np.flatnonzero(some.chosen)
            assert kept.tolist() == numbers[found.places < 0.3].tolist()
    assert sorted(seen) == [i for i in range(kit.IMAGES) if i != 7]
    found = counted(store, kit.ASKED, search=True)
    assert sum(found.training.values()) + sum(found.held_out.values()) == kit.IMAGES - 1
    assert found.table(kit.ASKED)["name"].tolist()[0] == "duck, land"
    with pytest.raises(FacetError, match="`groups` plaice: the image table has no such column"):
        check_column(store, "plaice")


def test_names_have_the_class_unless_the_values_say_it():
    assert namer([(0, "sea"), (1, "sea")], kit.CLASSES)((1, "sea")) == "wren, sea"
    assert namer([(0, "duck/sea"), (1, "wren/sea")], kit.CLASSES)((1, "wren/sea")) == "wren/sea"


def test_groups_that_say_nothing_are_refused():
    asked = Asked(None, "label", "place", Classes(("a",), (("a",),), {"a": 0}))
    one = {(0, "sea"): 1}
    two = {**one, (0, "land"): 3}
    refuse_groups(one, two, asked, search=False)
    with pytest.raises(FacetError, match="have training images.*a with place sea: 1 training, 1"):
        refuse_groups(one, two, asked, search=True)
    with pytest.raises(FacetError, match="`groups` place: 1 of the groups .* held-out images"):
        refuse_groups(two, one, asked, search=False)
    with pytest.raises(FacetError, match="no image is chosen"):
        refuse_groups({}, {}, asked, search=False)
