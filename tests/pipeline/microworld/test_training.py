"""The script that makes the embedded CLIP: its captions' tokens, its pictures, its two towers."""

import json

import numpy as np
import torch
from safetensors.torch import load_file

from pipeline.lean import open_clip
from pipeline.microworld.captions import caption
from pipeline.microworld.cards import card_of
from pipeline.microworld.training.shared import render
from pipeline.microworld.training.train_clip import TrainConfig, WordTokenizer, train
from pipeline.microworld.world import PLANTED, generator, sample_scene

SMALL = TrainConfig(pictures=48, steps=2, batch=16, test_pictures=40)


def test_words_looked_up_are_the_tokenizers_own_tokens():
    rng = np.random.default_rng(0)
    scenes = [sample_scene(generator(0, "train", i), "train") for i in range(200)]
    texts = [caption(scene, rng) for scene in scenes]
    whole = open_clip.SimpleTokenizer(context_length=32)
    assert torch.equal(WordTokenizer(32)(texts), whole(texts))


def test_the_planted_rate_is_of_the_planted_pair_alone():
    pixels, always = render(0, "train", 60, 1.0)
    others, never = render(0, "train", 60, 0.0)
    assert all(s.background == PLANTED[s.shape] for s in always if s.shape in PLANTED)
    assert all(s.background != PLANTED[s.shape] for s in never if s.shape in PLANTED)
    free = [i for i, s in enumerate(always) if s.shape not in PLANTED]
    assert len(free) < 60
    assert [always[i] for i in free] == [never[i] for i in free]
    assert torch.equal(pixels[free], others[free])


def test_a_second_run_of_the_texts_leaves_the_image_tower_as_it_was(tmp_path):
    first, second = (tmp_path / name / "clip.safetensors" for name in ("first", "second"))
    train(TrainConfig(**{**vars(SMALL), "out": first}))
    train(TrainConfig(**{**vars(SMALL), "out": second, "start": first, "tower": "text"}))
    before, after = load_file(first), load_file(second)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("visual.")} <= same
    assert not any(name.startswith("transformer.resblocks.0.mlp.c_fc.weight") for name in same)
    runs = json.loads(card_of(second).read_text())["made_by"]
    assert [run["config"]["tower"] for run in runs] == ["both", "text"]
