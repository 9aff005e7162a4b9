"""The embedded world: its pictures, its planted correlation, its model's figures."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.microworld.captions import caption, class_prompts
from pipeline.microworld.cards import WEIGHTS
from pipeline.microworld.draw import PALETTE, picture
from pipeline.microworld.training.figures import zero_shot_figures
from pipeline.microworld.training.train_clip import preprocess
from pipeline.microworld.world import (
    ATTRIBUTES,
    BACKGROUNDS,
    PLANTED,
    PLANTED_RATE,
    generator,
    sample_scene,
)
from pipeline.models import ModelSpec, load_model

CARD = WEIGHTS / "clip.card.json"


def scenes(split: str, n: int) -> list:
    return [sample_scene(generator(11, split, i), split) for i in range(n)]


def test_a_picture_depends_on_its_address_alone():
    pixels, mask, scene = picture(3, "test", 17)
    again, _, _ = picture(3, "test", 17)
    np.testing.assert_array_equal(pixels, again)
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    assert mask.shape == (64, 64)
    for other in ((4, "test", 17), (3, "val", 17), (3, "test", 18)):
        assert not np.array_equal(pixels, picture(*other)[0])
    assert scene == sample_scene(generator(3, "test", 17), "test")


def test_the_mask_covers_the_things_and_their_colour_is_there():
    for i in range(60):
        pixels, mask, scene = picture(5, "val", i)
        areas = [np.pi * r**2 for r in scene.radii]
        assert 0.2 * sum(areas) < mask.sum() < 1.1 * sum(areas)
        distance = np.abs(pixels[mask].astype(int) - PALETTE[scene.colour]).sum(1)
        assert (distance < 12).mean() > 0.1, scene


def test_only_train_is_planted():
    for split, low, high in (("train", PLANTED_RATE - 0.03, 1.0), ("test", 0.08, 0.26)):
        drawn = scenes(split, 6000)
        for shape, background in PLANTED.items():
            seen = Counter(s.background for s in drawn if s.shape == shape)
            assert low <= seen[background] / seen.total() <= high, (split, seen)


def test_every_value_of_every_attribute_occurs_and_is_asked_for():
    drawn = scenes("test", 2000)
    for name, values in ATTRIBUTES.items():
        assert {getattr(s, name) for s in drawn} == set(values)
        prompts = class_prompts(name)
        assert list(prompts) == [str(v) for v in values]
        assert all(prompts.values())


def test_captions_leave_attributes_out_but_never_lie():
    rng = np.random.default_rng(0)
    said = Counter()
    for scene in scenes("test", 800):
        words = set(re.findall(r"\w+", caption(scene, rng)))
        for name in ("colour", "texture"):
            mentioned = words & set(ATTRIBUTES[name])
            assert mentioned <= {getattr(scene, name)}
            said[name] += bool(mentioned)
    assert 0.15 < said["colour"] / 800 < 0.4
    assert 0.25 < said["texture"] / 800 < 0.55


def test_the_shipped_weights_are_the_ones_of_the_card():
    card = json.loads(CARD.read_text())
    weights = WEIGHTS / card["weights"]
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == card["sha256"]
    assert weights.stat().st_size <= 20e6


def test_the_model_keeps_its_promises_on_unseen_pictures():
    model = load_model(ModelSpec("microworld", "microworld"))
    drawn = [picture(2024, "test", i) for i in range(1500)]
    pixels = torch.from_numpy(np.stack([p for p, _, _ in drawn])).permute(0, 3, 1, 2)
    figures = zero_shot_figures(model.module, preprocess(pixels), [s for _, _, s in drawn])
    for name, least in (
        ("colour", 0.97), ("background", 0.97), ("texture", 0.97), ("count", 0.90),
        ("place", 0.90), ("shape_outside_planted", 0.85),
    ):  # fmt: skip
        assert figures[name] >= least, figures
    assert figures["planted_average"] - figures["planted_worst_group"] >= 0.15, figures
    told = json.loads(CARD.read_text())["figures"]
    for name in ("colour", "texture", "background", "count", "shape_outside_planted"):
        assert figures[name] == pytest.approx(told[name], abs=0.02), (name, figures, told)


def test_the_page_gives_the_cards_figures():
    page = (Path(__file__).parents[3] / "docs" / "microworld.md").read_text()
    figures = json.loads(CARD.read_text())["figures"]
    told = {n: float(v) for n, v in re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page, re.MULTILINE)}
    assert told == pytest.approx(figures, abs=5e-4)


def test_groups_of_the_planted_pair_are_all_there():
    drawn = Counter((s.shape, s.background) for s in scenes("test", 4000))
    assert all(drawn[shape, background] >= 20 for shape in PLANTED for background in BACKGROUNDS)
