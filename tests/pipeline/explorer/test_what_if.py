"""How images are classified, and with any gains: held to plain loops and to edits themselves."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cluster import machines
from pipeline.explorer import scene as views
from pipeline.explorer import what_if as gains_views
from pipeline.explorer.classified import Rate, classified, rate
from pipeline.explorer.gains import part_names, read_gains, write_gains
from pipeline.explorer.library import Library, NotHere
from pipeline.explorer.model import NotYet
from pipeline.explorer.scene import Asked, read_classes
from pipeline.explorer.what_if import edit_file, table, what_if
from pipeline.heads.ablation import Readout
from pipeline.heads.edits import edited_logits, read_edit
from pipeline.heads.studies import maps_of, shard_parts
from pipeline.repair.gains import Components
from pipeline.stats.reductions import reduce_store
from storage.errors import FacetError
from tests.pipeline.repair import kit
from tests.storage import stores

pytestmark = pytest.mark.usefixtures("here")
ASKED = Asked("duck, wren", "label", "place", "")
PARTS = Components(2, 3)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    store = kit.leaning_store(tmp_path_factory.mktemp("leaning"))
    machines.work("here")
    reduce_store(store)
    return Library([store.url], [], lambda store, typed: {"reduce": "the command"})


@pytest.fixture(scope="module")
def opened(library):
    return library.stores["store"]


@pytest.fixture(autouse=True)
def known_texts(monkeypatch):
    """What the model would say of the classes' prompts."""

    def directions(library, here, texts):
        return np.stack([kit.READOUT[int("wren" in text)] for text in texts])

    monkeypatch.setattr(views, "directions", directions)


def by_hand(store, logits) -> list[tuple[int, str, str, int]]:
    """Number, label, place and answer of every image that is ok."""
    rows = store.images().to_pylist()
    return [
        (i, rows[i]["label"], rows[i]["place"], int(row[1] > row[0]))
        for i, row in enumerate(logits)
        if np.isfinite(row).all()
    ]


def cosines(store) -> np.ndarray:
    embedding = store.contributions()["embedding"].values.astype(np.float64)
    return embedding[:, :2] / np.linalg.norm(embedding, axis=1)[:, None]


def test_classes_groups_and_confusions_are_those_counted_one_by_one(library, opened):
    found = classified(library, opened, ASKED, (0, 1))
    told = by_hand(opened.store, cosines(opened.store))
    assert found.sample == f"all {len(told)} images that fit"
    assert len(told) == kit.IMAGES - 1  # one is bad
    for a, name in enumerate(found.classes):
        for b in (0, 1):
            assert found.confusion[a][b] == sum(t[1] == name and t[3] == b for t in told)
        own = [t for t in told if t[1] == name]
        assert found.by_class[a].rate.right == sum(t[3] == a for t in own)
    assert len(found.by_group) == 4
    for group in found.by_group:
        label, place = group.name.split(", ")
        own = [t for t in told if t[1:3] == (label, place)]
        right = sum(found.classes[t[3]] == label for t in own)
        assert (group.rate.n, group.rate.right) == (len(own), right)
    shares = [group.rate.share for group in found.by_group]
    assert shares[found.worst] == min(shares)
    mistaken = {t[0] for t in told if t[1] == "duck" and t[3] == 1}
    assert {one.index for one in found.cell.images} == mistaken
    margins = [one.margin for one in found.cell.images]
    assert margins == sorted(margins, reverse=True)
    assert found.cell.text == f"a photo of a {found.classes[1]}."
    assert found.cell.against == f"a photo of a {found.classes[0]}."
    at = found.cell.images[0].index
    assert margins[0] == pytest.approx(np.subtract(*cosines(opened.store)[at][::-1]), abs=1e-6)
    for mistake in found.mistakes:
        own = [t for t in told if t[1] == found.classes[mistake.truth]]
        assert mistake.share == mistake.images / len(own)
    right = classified(library, opened, ASKED, (1, 1)).cell.images
    gap = np.subtract(*cosines(opened.store)[right[0].index][::-1])
    assert right[0].margin == pytest.approx(gap, abs=1e-6)
    assert [m.images for m in found.mistakes] == sorted(
        (found.confusion[0][1], found.confusion[1][0]), reverse=True
    )


def test_a_subset_and_what_is_left_open(library, opened):
    found = classified(library, opened, Asked("", "label", "", "place == 'land'"))
    assert found.classes == ("duck", "wren")  # the labels themselves
    assert found.form.asked.classes == "duck\nwren"
    told = by_hand(opened.store, cosines(opened.store))
    assert found.whole.n == sum(t[2] == "land" for t in told)
    assert found.by_group == found.by_class
    shown = classified(library, opened, Asked("", "key", "", ""))
    assert "say which classes" in shown.problem
    assert shown.whole is None


def test_wilsons_interval():
    found = rate(10, 9)  # Wilson's score interval as tables have it
    assert (found.low, found.high) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert rate(40, 40).high == pytest.approx(1)
    assert rate(40, 40).low < 1
    assert isinstance(rate(0, 0), Rate)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked("duck", "label", "", ""), "has one class"),
        (Asked("duck, crow", "label", "", ""), "labels are no class"),
        (Asked("/etc/hostname", "label", "", ""), "has one class"),  # no file is opened
        (Asked("duck, wren", "colour", "", ""), "no column 'colour'"),
        (Asked("duck, wren", "label", "colour", ""), "no such column"),
        (Asked("duck, wren", "label", "", "place = 3"), "cannot be read"),
        (Asked("duck, wren", "label", "", "place == 'moon'"), "matches no image"),
        (Asked("a," * 300, "label", "", ""), "give 200 at most"),
    ],
)
def test_what_cannot_be_classified_is_told(library, opened, asked, said):
    for look in (classified, what_if):
        with pytest.raises(FacetError, match=re.escape(said)):
            look(library, opened, asked)


def test_what_is_not_there(library, opened):
    with pytest.raises(NotHere, match="classes are 0-1"):
        classified(library, opened, ASKED, (0, 2))
    with pytest.raises(NotHere, match="not among the images"):
        what_if(library, opened, ASKED, image=7)  # which is bad


def test_labels_may_have_other_names():
    found = read_classes("duck = a duck on water, wren=a wren")
    assert found.names == ("a duck on water", "a wren")
    assert found.index == {"duck": 0, "wren": 1}
    assert read_classes("a duck, swimming\r\na wren").names == ("a duck, swimming", "a wren")


def test_of_many_images_a_spread_sample_is_taken(library, monkeypatch):
    monkeypatch.setattr(views, "MOST", 60)
    monkeypatch.setattr(views, "SHARDS", 3)
    fresh = Library([library.stores["store"].url], [], lambda store, typed: {}).stores["store"]
    found = classified(library, fresh, ASKED)
    assert found.sample == "a sample of 60 images, from 3 of 5 shards"
    numbers = views.look(fresh, ASKED).sample.numbers
    assert set(numbers // 50) == {0, 2, 4}
    told = by_hand(fresh.store, cosines(fresh.store))
    own = [t for t in told if t[0] in set(numbers.tolist())]
    assert found.whole.right == sum(found.classes[t[3]] == t[1] for t in own)


gain = st.floats(-2, 3, allow_nan=False).map(lambda g: round(g, 3))
every_gain = st.lists(st.one_of(st.just(1.0), gain), min_size=PARTS.count, max_size=PARTS.count)


@given(every_gain)
def test_gains_come_back_from_their_words(gains):
    gains_s = np.array(gains)
    assert (read_gains(write_gains(gains_s, PARTS), PARTS) == gains_s).all()


@pytest.mark.parametrize("word", ["1.3:0", "mlp2:0", "bias2:1", "1.1", "1.1:x", "1.1:nan", "x:1"])
def test_gains_that_cannot_be(word):
    with pytest.raises(FacetError, match="`gains`"):
        read_gains(word, PARTS)


@settings(max_examples=8, deadline=None)
@given(every_gain)
def test_logits_with_gains_are_those_of_the_edit_that_is_saved(
    library, opened, tmp_path_factory, gains
):
    store, gains_s = opened.store, np.array(gains)
    words = write_gains(gains_s, PARTS)
    place = tmp_path_factory.mktemp("edits") / "edit.json"
    place.write_bytes(edit_file(opened, words))
    edit = read_edit(str(place), store)
    readout = Readout(maps_of(store), kit.READOUT)
    wanted = []
    for shard in range(store.meta.shards):
        ok = np.isfinite(store.contributions()["ln_std"].values)[slice(*store.meta.rows(shard))]
        for _, parts in shard_parts(store, shard, ok):
            wanted.append(edited_logits(parts, edit, readout))
    found = table(library, opened, ASKED)
    wanted_nc = np.concatenate(wanted)
    size = 1 + np.abs(1 - gains_s).sum()
    np.testing.assert_allclose(found.edited(gains_s), wanted_nc, rtol=0, atol=2e-6 * size)
    # And so does a page, from what it is sent.
    n, c, s = len(wanted_nc), 2, PARTS.count
    packed = found.packed()
    floats = np.frombuffer(packed, "<f4", (s + 1) * n * c).reshape(s + 1, n, c)
    ints = np.frombuffer(packed, "<i4", offset=floats.nbytes).reshape(3, n)
    page_nc = floats[0] - np.einsum("s,snc->nc", 1 - gains_s, floats[1:].astype(np.float64))
    np.testing.assert_allclose(page_nc, wanted_nc, rtol=0, atol=2e-6 * size)
    view = what_if(library, opened, ASKED, words)
    clear = abs(page_nc[:, 1] - page_nc[:, 0]) > 1e-4
    told = page_nc.argmax(1)
    least = int((told == ints[0])[clear].sum())
    assert least <= view.after.whole.right <= least + int((~clear).sum())
    assert ints[2].tolist() == found.scene.sample.numbers.tolist()
    assert [view.groups[g] for g in ints[1]] == [
        f"{t[1]}, {t[2]}" for t in by_hand(store, cosines(store))
    ]


def test_what_gains_bring_is_shown(library, opened):
    layer, head = kit.LEANS
    view = what_if(library, opened, ASKED, f"{layer}.{head}:0")
    assert view.before.whole == classified(library, opened, ASKED).whole
    worst = view.after.by_group[view.after.worst].rate.share
    assert worst > view.before.by_group[view.before.worst].rate.share + 0.3
    assert view.gains == "1.2:0"
    assert view.gains_s[view.parts.index("1.2")] == 0
    assert view.parts == tuple(part_names(PARTS))
    assert view.means == "all 239 images"
    assert view.changes >= len(view.changed) > 0
    for one in view.changed:
        assert one.before != one.after
    assert view.picked.after != view.picked.before
    wrong = what_if(library, opened, ASKED).picked
    assert wrong.before[wrong.truth] < max(wrong.before)
    other = view.changed[0]
    own = what_if(library, opened, ASKED, view.gains, other.index).picked
    assert int(np.argmax(own.before)) == other.before
    assert int(np.argmax(own.after)) == other.after
    assert json.loads(edit_file(opened, ""))["head_gains"] == {}


def test_too_many_classes_for_a_table(library, opened, monkeypatch):
    monkeypatch.setattr(gains_views, "BYTES", 4 * 12 * 2 * 99)
    with pytest.raises(FacetError, match="2 classes are too many"):
        what_if(library, opened, ASKED)


def test_without_means_the_command_is_told(tmp_path):
    store = kit.leaning_store(tmp_path)
    library = Library([store.url], [], lambda store, typed: {"reduce": "the command"})
    view = what_if(library, library.stores["store"], ASKED)
    assert view.missing == "the command"
    assert "means of all parts are not known" in view.problem


def test_a_model_that_is_being_loaded_is_no_problem_of_what_was_asked(library, monkeypatch):
    def directions(library, here, texts):
        raise NotYet("the model is being loaded")

    monkeypatch.setattr(views, "directions", directions)
    fresh = Library([library.stores["store"].url], [], lambda store, typed: {}).stores["store"]
    for look in (classified, what_if):
        with pytest.raises(NotYet):
            look(library, fresh, Asked("", "label", "", ""))


def test_a_store_without_what_mlps_wrote_says_so(tmp_path):
    store = stores.fill(stores.new_store(str(tmp_path / "store"), components=("heads",)))
    library = Library([store.url], [], lambda store, typed: {})
    view = what_if(library, library.stores["store"], Asked("", "label", "", ""))
    assert view.problem == "the store keeps no contributions of mlps"
