"""The embedded world's renderer: descriptions to pictures whose truth is what was described."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given, settings

from pipeline.adversarial.renderer import CannotDraw, is_class, read, render, scenes_of, shows
from pipeline.microworld.captions import OPENING, caption, phrase
from pipeline.microworld.draw import draw_scene, draw_together
from pipeline.microworld.world import ATTRIBUTES, sample_scene


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.integers(0, 2**62))
def test_every_caption_is_drawn_as_it_says(which, seed):
    rng = np.random.default_rng(which)
    scene = sample_scene(rng, "val")
    mentioned = {name for name in ATTRIBUTES if rng.random() < 0.5}
    if scene.count > 1:
        mentioned.discard("place")
    said = phrase(scene.labels(), mentioned, int(rng.integers(2)))
    _, (shown,) = render(OPENING[rng.integers(len(OPENING))] + said, seed)
    assert {name: getattr(shown, name) for name in mentioned} == {
        name: getattr(scene, name) for name in mentioned
    }
    if "count" not in mentioned:  # "red stars" are several, "a star" is one
        assert (shown.count > 1) == (scene.count > 1)
    render(caption(scene, rng), seed)


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.integers(0, 2**62))
def test_two_things_are_drawn_as_they_say_and_both_are_seen(which, seed):
    rng = np.random.default_rng(which)
    first, second = sample_scene(rng, "val"), sample_scene(rng, "val")
    assume(first.shape != second.shape and first.count + second.count <= 4)
    mentioned = [
        {"shape", *(n for n in ("colour", "texture", "size", "count") if rng.random() < 0.5)}
        for _ in range(2)
    ]
    some = {"background"} if rng.random() < 0.5 else set()
    labels = {**second.labels(), "background": first.background}
    said = phrase(labels, mentioned[1] | some, int(rng.integers(2)))
    joint = ("and", "with")[rng.integers(2)]
    text = f"{phrase(first.labels(), mentioned[0])} {joint} {said}"
    pixels, shown = render(OPENING[rng.integers(len(OPENING))] + text, seed)
    for scene, names, told in zip((first, second), mentioned, shown, strict=True):
        assert {n: getattr(told, n) for n in names} == {n: getattr(scene, n) for n in names}
        assert (told.count > 1) == (scene.count > 1)
        assert told.background == (first.background if some else shown[0].background)
    assert sum(scene.count for scene in shown) <= 4
    _, masks = draw_together(shown, np.random.default_rng(0))
    assert not (masks[0] & masks[1]).any()
    for scene, mask in zip(shown, masks, strict=True):
        alone, own = draw_scene(scene, np.random.default_rng(0))
        assert np.array_equal(mask, own)
        assert own.sum() > 60 * scene.count  # a moon that is small
        assert np.array_equal(draw_together(shown, np.random.default_rng(0))[0][own], alone[own])
    assert pixels.shape == alone.shape


def test_what_is_open_of_two_things_is_drawn_evenly():
    wanted = read("a star and circles")
    scenes = [scenes_of(wanted, np.random.default_rng(seed)) for seed in range(2000)]
    for attribute in ("colour", "texture", "size", "background"):
        values = ATTRIBUTES[attribute]
        for at in (0, 1):
            found = [getattr(both[at], attribute) for both in scenes]
            assert np.allclose([found.count(v) / 2000 for v in values], 1 / len(values), atol=0.04)
    same = np.mean([stars.colour == circles.colour for stars, circles in scenes])
    assert abs(same - 1 / 8) < 0.03  # each thing by itself
    counts = [(stars.count, circles.count) for stars, circles in scenes]
    assert set(counts) == {(1, 2), (1, 3)}
    assert abs(np.mean([two == 2 for _, two in counts]) - 0.5) < 0.04
    quarters = {(x > 32, y > 32) for stars, _ in scenes for x, y in stars.centres}
    assert len(quarters) == 4


@settings(max_examples=10)
@given(st.integers(0, 2**62))
def test_the_same_seed_draws_the_same_picture(seed):
    first, (scene,) = render("A red star, on snow.", seed)
    again, _ = render("A red star, on snow.", seed)
    assert np.array_equal(first, again)
    assert (scene.shape, scene.colour, scene.background) == ("star", "red", "snow")
    assert not np.array_equal(first, render("A red star, on snow.", seed + 1)[0])


def test_what_is_left_open_is_drawn_evenly_and_nothing_is_planted():
    wanted = read("stars")
    scenes = [scenes_of(wanted, np.random.default_rng(seed))[0] for seed in range(3000)]
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
        ("a star and two hearts and a ring", "it names more than two shapes: star, heart, ring"),
        ("a star and a star and a ring", "it names more than two things: star, star, ring"),
        ("a star ring", "it names two values of shape: ring, star"),
        ("a star and a red blue heart", "it names two values of colour: blue, red"),
        ("a star on snow and a heart at night", "it names two values of background: night, snow"),
        (
            "a star and a heart on the left",
            "several things fill the picture, and it puts them left",
        ),
        ("two stars and three hearts", "it names more than 4 things"),
        ("four stars with a heart", "it names more than 4 things"),
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


def test_which_class_a_picture_is_of():
    _, one = render("a red star on snow", 0)
    assert all(shows(one, name) for name in ("star", "red", "snow", "star/snow", "1"))
    assert not any(shows(one, name) for name in ("heart", "star/night", "2"))
    _, two = render("a red star and two blue and striped moons at night", 0)
    assert [(scene.shape, scene.colour, scene.count) for scene in two] == [
        ("star", "red", 1), ("moon", "blue", 2),
    ]  # fmt: skip
    assert all(shows(two, name) for name in ("star", "moon/night", "red", "star/night", "3"))
    assert not any(shows(two, name) for name in ("heart", "1", "2", "star/blue"))
    assert is_class("star/snow")
    assert not is_class("elephant")
