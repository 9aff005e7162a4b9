"""Deletion and insertion against a loop that drops tokens a picture at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.extraction.decompose import Decomposer
from pipeline.heatmaps.asked import Asked
from pipeline.heatmaps.erasure import Erasure
from tests.pipeline.heatmaps.asked_kit import asked_of, part_of
from tests.pipeline.heatmaps.plain_vit import embed, forward
from tests.pipeline.neurons.forward_kit import TINY, perturbed, random_images

CLOSE = {"rtol": 1e-8, "atol": 1e-10}


def random_map(model, seed, count):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *model.grid, generator=generator, dtype=torch.float64)


def probability(model, image, texts, wanted, kept):
    embedding = embed(model.visual, forward(model, image, kept).streams[-1][0])
    logits = model.module.logit_scale.exp() * texts @ embedding / embedding.norm()
    return logits.softmax(0)[wanted].item()


def oracle(model, image, texts, wanted, scores, steps):
    """Fractions, deletion and insertion curves, and the areas under them, of one picture."""
    patches = len(scores)
    curves, areas = [], []
    for sign in (-1, 1):
        order = sorted(range(patches), key=lambda patch: (sign * scores[patch], patch))
        gone, heights = [], []
        for step in range(steps + 1):
            count = round(step * patches / steps)
            if count in gone:
                continue
            gone.append(count)
            heights.append(probability(model, image, texts, wanted, sorted(order[count:])))
        curves.append(heights)
        areas.append(sum(
            (gone[i + 1] - gone[i]) / patches * (heights[i] + heights[i + 1]) / 2
            for i in range(len(gone) - 1)
        ))  # fmt: skip
    return [count / patches for count in gone], curves, areas


@settings(max_examples=15)
@given(
    rows=st.integers(1, 3), columns=st.integers(1, 3), steps=st.integers(1, 12),
    quick=st.booleans(), ties=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_it_equals_dropping_tokens_one_picture_at_a_time(
    tmp_path_factory, rows, columns, steps, quick, ties, seed
):
    vision = {**TINY["vision_cfg"], "image_size": [4 * rows, 4 * columns]}
    config = {**TINY, "vision_cfg": vision, "quick_gelu": quick}
    model = perturbed(config, tmp_path_factory.mktemp("model"), seed)
    images, asked = random_images(model, seed, 3), asked_of(model, seed, 3)
    map_brc = random_map(model, seed, 3)
    if ties:
        map_brc = map_brc.round()
    erasure = Erasure(model, steps)
    pairs = erasure.curves(images, asked, {"m": map_brc})["m"]
    found = erasure(images, asked, {"m": map_brc})["m"]
    for b in range(3):
        fractions, curves, areas = oracle(
            model, images[b], asked.texts_ce, asked.classes_b[b], map_brc[b].flatten(), steps
        )
        torch.testing.assert_close(erasure.fractions_s.tolist(), fractions)
        for way in (0, 1):
            torch.testing.assert_close(pairs[way][b].tolist(), curves[way], **CLOSE)
            torch.testing.assert_close(found[way][b].item(), areas[way], **CLOSE)


def test_curves_begin_with_the_plain_probability_and_end_alike(tmp_path):
    model = perturbed(TINY, tmp_path, 0)
    images, asked = random_images(model, 0, 4), asked_of(model, 0, 4)
    cosines = torch.nn.functional.normalize(Decomposer(model)(images).embedding_be)
    logits = model.module.logit_scale.exp() * cosines @ asked.texts_ce.T
    plain = logits.softmax(1)[torch.arange(4), asked.classes_b]
    maps = {"a": random_map(model, 0, 4), "b": random_map(model, 1, 4)}
    found = Erasure(model, 3).curves(images, asked, maps)
    ends = torch.stack([curve[:, -1] for pair in found.values() for curve in pair])
    for pair in found.values():
        for curve in pair:
            torch.testing.assert_close(curve[:, 0], plain)
    assert (ends == ends[0]).all()


def test_a_constant_map_removes_patches_in_their_order(tmp_path):
    model = perturbed(TINY, tmp_path, 1)
    images, asked = random_images(model, 1, 2), asked_of(model, 1, 2)
    by_place = -torch.arange(9.0).view(1, 3, 3).expand(2, -1, -1)
    maps = {"zero": torch.zeros(2, 3, 3), "seven": torch.full((2, 3, 3), 7.0), "place": by_place}
    found = Erasure(model, 4)(images, asked, maps)
    for name in ("zero", "seven"):
        for area in found[name]:
            assert torch.equal(area, found["place"][0])


def test_a_map_turned_round_swaps_its_curves(tmp_path):
    model = perturbed(TINY, tmp_path, 2)
    images, asked = random_images(model, 2, 3), asked_of(model, 2, 3)
    map_brc = random_map(model, 2, 3)
    found = Erasure(model, 5)(images, asked, {"a": map_brc, "b": 3 - 2 * map_brc})
    assert torch.equal(found["a"][0], found["b"][1])
    assert torch.equal(found["a"][1], found["b"][0])


def test_the_true_effect_of_a_patch_beats_its_reverse(tmp_path):
    """The class asked for is the picture's own embedding, the other what no patch has a part in."""
    model = perturbed(TINY, tmp_path, 3)
    images = random_images(model, 3, 4)
    for image in images:
        streams = [forward(model, image, kept).streams[-1][0] for kept in (None, [])]
        texts = torch.nn.functional.normalize(
            torch.stack([embed(model.visual, x) for x in streams])
        )
        everything = set(range(9))
        whole = probability(model, image, texts, 0, sorted(everything))
        effects = [
            whole - probability(model, image, texts, 0, sorted(everything - {patch}))
            for patch in range(9)
        ]
        true = torch.tensor(effects).view(1, 3, 3)
        first = torch.zeros(1, dtype=torch.int64)
        asked = Asked(first, texts.detach(), first)
        deletion, insertion = Erasure(model, 9)(image[None], asked, {"true": true})["true"]
        assert deletion < insertion


def test_batches_and_their_order_change_nothing(tmp_path):
    model = perturbed(TINY, tmp_path, 4, torch.float32)
    images, asked = random_images(model, 4, 6).float(), asked_of(model, 4, 6)
    map_brc, order = random_map(model, 4, 6), torch.tensor([4, 2, 0, 5, 1, 3])
    erasure = Erasure(model, 4)
    whole = erasure(images, asked, {"m": map_brc})["m"]
    turned = erasure(images[order], part_of(asked, order), {"m": map_brc[order]})["m"]
    alone = [
        erasure(images[b : b + 1], part_of(asked, [b]), {"m": map_brc[b : b + 1]})["m"]
        for b in range(6)
    ]
    for way in (0, 1):
        assert (turned[way] - whole[way][order]).abs().max() < 1e-5
        assert (torch.cat([pair[way] for pair in alone]) - whole[way]).abs().max() < 1e-5


def test_what_cannot_be_removed_is_refused(tmp_path):
    model = perturbed(TINY, tmp_path, 0, torch.float32)
    images, asked = random_images(model, 0, 2).float(), asked_of(model, 0, 2)
    with pytest.raises(ValueError, match="steps 0: patches are removed in 1 step or more"):
        Erasure(model, 0)
    with pytest.raises(ValueError, match=r"map 'm' has shape \(2, 2, 3\), not .* \(2, 3, 3\)"):
        Erasure(model, 2)(images, asked, {"m": torch.zeros(2, 2, 3)})
