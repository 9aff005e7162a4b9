"""The embedded world's renderer: descriptions to pictures whose truth is what was described."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from pipeline.adversarial.renderer import CannotDraw, is_class, read, render, scene_of, shows
from pipeline.microworld.captions import OPENING, caption, phrase
from pipeline.microworld.draw import draw_scene
from pipeline.microworld.world import ATTRIBUTES, sample_scene


@given(st.integers(0, 2**32), st.integers(0, 2**62))
def test_every_caption_is_drawn_as_it_says(which, seed):
    rng = np.random.default_rng(which)
    scene = sample_scene(rng, "val")
    mentioned = {name for name in ATTRIBUTES if rng.random() < 0.5}
    if scene.count > 1:
        mentioned.discard("place")
    said = phrase(scene.labels(), mentioned, int(rng.integers(2)))
    _, shown = render(OPENING[rng.integers(len(OPENING))] + said, seed)
    assert {name: getattr(shown, name) for name in mentioned} == {
        name: getattr(scene, name) for name in mentioned
    }
    if "count" not in mentioned:  # "red stars" are several, "a star" is one
        assert (shown.count > 1) == (scene.count > 1)
    render(caption(scene, rng), seed)


@given(st.integers(0, 2**62))
def test_the_same_seed_draws_the_same_picture(seed):
    first, scene = render("A red star, on snow.", seed)
    again, _ = render("A red star, on snow.", seed)
    assert np.array_equal(first, again)
    assert (scene.shape, scene.colour, scene.background) == ("star", "red", "snow")
    assert not np.array_equal(first, render("A red star, on snow.", seed + 1)[0])


def test_what_is_left_open_is_drawn_evenly_and_nothing_is_planted():
    wanted = read("stars")
    scenes = [scene_of(wanted, np.random.default_rng(seed)) for seed in range(3000)]
    for attribute in ("colour", "texture", "size", "background"):
        values = ATTRIBUTES[attribute]
        shares = [sum(getattr(s, attribute) == value for s in scenes) / 3000 for value in values]
        assert np.allclose(shares, 1 / len(values), atol=0.04)
    assert {s.count for s in scenes} == {2, 3, 4}
    assert {s.place for s in scenes} == {"middle"}
    assert draw_scene(scenes[0], np.random.default_rng(0))[1].any()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a star beside an elephant", "it cannot draw 'beside', 'elephant'"),
        ("a red picture on snow", "it cannot draw 'picture'"),
        ("red, on snow", "it names no shape"),
        ("a star and two hearts", "it names two values of shape: heart, star"),
        ("a thing with a star", "it names two things: thing, star"),
        ("a red and blue star", "it names two values of colour: blue, red"),
        ("a star at night on snow", "it names two values of background: night, snow"),
        ("two stars on the left", "several things fill the picture, and it puts them left"),
        ("", "it names no shape"),
    ],
)
def test_what_cannot_be_drawn_is_refused(text, why):
    with pytest.raises(CannotDraw, match=f"^{why}$"):
        render(text, 0)


def test_which_class_a_scene_is_of():
    _, scene = render("a red star on snow", 0)
    assert all(shows(scene, name) for name in ("star", "red", "snow", "star/snow", "1"))
    assert not any(shows(scene, name) for name in ("heart", "star/night", "2"))
    assert is_class("star/snow")
    assert not is_class("elephant")
