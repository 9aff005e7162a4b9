"""Heat maps of typed texts and of heads' own texts are those of ``facet heatmap``."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jobs import heatmap
from jobs.heatmap import HeatmapConfig
from pipeline.explorer import maps
from pipeline.explorer.errors import NotHere
from pipeline.explorer.model import ModelProcess
from pipeline.heatmaps.seen import see_file, see_image
from pipeline.heatmaps.split import TERMS
from pipeline.images.again import load_again
from pipeline.pages.plain import plain
from storage.errors import FacetError

TEXTS = ("a red star", "a blue moon")


@pytest.fixture(scope="module")
def seen(modelled):
    return see_image(modelled, 7)


def asked(opened, **given):
    return maps.read_asked(opened, **given)


def drawn(library, opened, seen, **given):
    return maps.draw(library, opened, seen, asked(opened, **given))


def same(found, expected):
    np.testing.assert_allclose(found.maps, expected.maps, atol=1e-6)
    figures = ["shown", *TERMS, "logit"]
    np.testing.assert_allclose(found.table[figures], expected.table[figures], atol=1e-6)
    words = ["text", "against", "head", "extreme"]
    assert found.table[words].equals(expected.table[words])
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    for name in ("layers", "heads", "convention", "stored"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.mark.parametrize(
    "given",
    [
        {"texts": TEXTS},  # from the store's tokens
        {"texts": TEXTS, "layers": "all"},
        {"texts": TEXTS, "layers": "0,3", "convention": "equal-share"},
        {"texts": TEXTS[:1], "against": TEXTS[1], "layers": "all"},
        {"texts": TEXTS, "heads": ["3.0 1.2"]},
        {"texts": TEXTS[:1], "against": TEXTS[1], "heads": ["3.0,1.2"]},
        {"heads": ["3.1", "2.0"], "pool": "microworld"},
    ],
)
def test_they_are_the_terminals(library, opened, modelled, seen, given):
    options = {"text" if name == "texts" else name: value for name, value in given.items()}
    if "heads" in options:
        options["heads"] = tuple(options["heads"][0].replace(",", " ").split()) + tuple(
            options["heads"][1:]
        )
    expected = heatmap.main(HeatmapConfig(modelled.url, image="7", **options)).found
    same(drawn(library, opened, seen, **given).found, expected)


def test_an_uploads_maps_are_those_of_its_file(library, opened, modelled, tmp_path):
    file = tmp_path / "wide.png"
    load_again(modelled, 3).resize((96, 48)).save(file)
    expected = heatmap.main(HeatmapConfig(modelled.url, picture=str(file), text=TEXTS)).found
    upload = see_file(modelled.meta, "wide.png", file.read_bytes())
    same(drawn(library, opened, upload, texts=TEXTS).found, expected)


def test_a_contrast_is_the_difference_over_all_chosen_heads(library, opened, seen):
    heads = ["3.0 3.2 1.1"]
    a, b = (drawn(library, opened, seen, texts=[text], heads=heads).found for text in TEXTS)
    both = drawn(library, opened, seen, texts=TEXTS[:1], against=TEXTS[1], heads=heads)
    np.testing.assert_allclose(both.found.maps[0], a.maps[0] - b.maps[0], atol=1e-8)
    parts = sum(
        drawn(library, opened, seen, texts=TEXTS[:1], against=TEXTS[1], heads=[one]).found.maps[0]
        for one in heads[0].split()
    )
    np.testing.assert_allclose(both.found.maps[0], parts, atol=1e-7)
    one = drawn(library, opened, seen, texts=TEXTS[:1], heads=heads)
    other = drawn(library, opened, seen, texts=TEXTS[1:], heads=heads)
    np.testing.assert_allclose(both.wrote_lh, one.wrote_lh - other.wrote_lh, atol=1e-7)


def test_what_heads_wrote_is_map_and_prefix(library, opened, seen):
    kept = drawn(library, opened, seen, texts=TEXTS[:1], against=TEXTS[1])
    passed = drawn(library, opened, seen, texts=TEXTS[:1], against=TEXTS[1], layers="all")
    assert (kept.found.stored, passed.found.stored) == (True, False)
    np.testing.assert_allclose(kept.wrote_lh, passed.wrote_lh, atol=1e-6)
    for at in ["3.0", "0.2"]:
        found = drawn(library, opened, seen, texts=TEXTS, heads=[at])
        layer, head = map(int, at.split("."))
        row = found.found.table.iloc[0]
        wrote = row["shown"] + row["class_token"] + row["registers"]
        np.testing.assert_allclose(found.wrote_lh[layer, head], wrote, atol=1e-7)


def test_one_pass_answers_for_all_heads(library, opened, seen):
    text = ["a text that no other test has"]
    drawn(library, opened, seen, texts=text, layers="all")
    before = library.model.ask(opened, passes)
    drawn(library, opened, seen, texts=text, heads=["2.2"])
    drawn(library, opened, seen, texts=text, layers="1")
    assert library.model.ask(opened, passes) == before


def passes(loaded):
    return maps._shares.cache_info().misses


def test_a_picture_shows_the_map_over_the_models_own_pixels(library, opened, seen):
    found = drawn(library, opened, seen, texts=TEXTS)
    one, other = (
        np.asarray(Image.open(io.BytesIO(maps.picture_of(found, n))), float) for n in (0, 1)
    )
    side = seen.pixels.shape[0]
    times = len(one) // side
    assert one.shape[:2] == (times * side, times * side)
    assert len(one) >= maps.SIDE
    # Where a map is strongest the picture is most coloured: blue where it is positive, orange
    # where negative, not the other way round; the weaker map of the two is weaker in the picture.
    for picture, map_rc in zip((one, other), found.found.maps, strict=True):
        blue = picture[..., 2] - picture[..., 0]
        patch = len(picture) // len(map_rc)
        grid = blue.reshape(len(map_rc), patch, len(map_rc), patch).mean((1, 3))
        expected = map_rc / found.found.strongest
        np.testing.assert_allclose(grid / 255, 0.85 * expected, atol=0.03)
    with pytest.raises(NotHere, match="no map 2"):
        maps.picture_of(found, 2)


def test_a_view_says_all_that_its_maps_leave_out(library, opened, seen):
    view = maps.maps_view(library, opened, "/s/store/image/7", seen, asked(opened, texts=TEXTS))
    assert [shown.heading for shown in view.maps] == ["“a red star”", "“a blue moon”"]
    assert all("leaves out class token" in shown.caption for shown in view.maps)
    assert view.maps[1].picture.startswith("/s/store/image/7/maps/1.png?text=a+red+star&")
    assert "sum to the logit" in view.how
    assert view.pools == ("microworld",)
    document = plain(view)
    assert np.shape(document["found"]["maps"]) == view.found.maps.shape
    assert "pixels" not in document["found"]


def test_the_address_of_a_picture_asks_for_the_same(library, opened):
    for given in [
        {"texts": TEXTS, "against": "snow", "layers": "last:2"},
        {"heads": ["3.1", "2.0"], "pool": "microworld", "convention": "equal-share"},
    ]:
        first = asked(opened, **given)
        query: dict = {"texts": []}
        for name, value in maps.query_of(first):
            if name == "text":
                query["texts"].append(value)
            else:
                query[name] = [value] if name == "heads" else value
        assert asked(opened, **query) == first


def test_while_the_model_is_loaded_the_view_says_so(library, opened, seen, monkeypatch):
    model = ModelProcess(patience=0.01)
    monkeypatch.setattr(library, "model", model)
    try:
        text = {"texts": ["never met before"]}
        view = maps.maps_view(library, opened, "/x", seen, asked(opened, **text))
        assert "is being loaded" in view.waiting
        assert view.maps == ()
    finally:
        model.close()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"texts": ["a"], "heads": ["9.9"]}, "the model has layers 0-3"),
        ({"texts": ["a"], "layers": "7"}, "layers are 0-3"),
        ({"texts": ["a"], "against": " a "}, "difference is nothing"),
        ({"texts": ["a"], "pool": "microworld"}, "no other texts"),
        ({"pool": "microworld"}, "name heads"),
        ({"texts": ["a"], "convention": "odd"}, "centred or equal-share"),
        ({"texts": list("abcdefghi")}, "8 texts or heads at most"),
    ],
)
def test_what_makes_no_sense_is_refused(opened, given, said):
    with pytest.raises(FacetError, match=said):
        asked(opened, **given)


def test_a_pool_is_one_of_the_stores_and_no_file(library, opened, seen, tmp_path):
    file = tmp_path / "pool.txt"
    file.write_text("a secret\n")
    with pytest.raises(NotHere, match="no heads of"):
        drawn(library, opened, seen, heads=["3.1"], pool=str(file))
    with pytest.raises(NotHere, match=r"layer 0, head 0 has no texts"):
        drawn(library, opened, seen, heads=["0.0"], pool="microworld")


def test_a_picture_that_is_gone_has_the_maps_that_the_store_keeps(library, opened, seen):
    gone = replace(seen, unreadable="its file is gone")
    kept = drawn(library, opened, gone, texts=TEXTS).found
    assert kept.stored
    with pytest.raises(FacetError, match="the model would have to see it"):
        drawn(library, opened, gone, texts=TEXTS, layers="0", convention="equal-share")
