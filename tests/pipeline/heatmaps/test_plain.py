"""Maps without gradients against plain loops from their formulae, a picture at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.heatmaps.asked import Asked
from pipeline.heatmaps.plain import PLAIN, PlainMaps, random_map
from tests.pipeline.heatmaps.asked_kit import asked_of, part_of
from tests.pipeline.heatmaps.plain_kit import (
    every_head,
    shapes,
    shares_of,
    unit_rows,
    values_and_neurons,
)
from tests.pipeline.heatmaps.plain_vit import forward
from tests.pipeline.neurons.forward_kit import TINY, perturbed, random_images

EXACT = {"rtol": 1e-9, "atol": 1e-10}


def some_directions(model, layers, seed):
    """Of all neurons of some MLP layers, (neuron, embed); the first neuron has none."""
    rows = {i: unit_rows(model.mlp_width, model.embed_dim, seed + i).numpy() for i in layers}
    rows[min(layers)][0] = 0
    return rows


def token_map(model, image, heads, text, texts, convention):
    """The map of the text less the mean of the maps of all texts."""
    shares = shares_of(model, image, convention)
    map_te = sum(shares[at] for at in heads)
    return map_te @ text - sum(map_te @ other for other in texts) / len(texts)


def neuron_map(model, trace, directions, text):
    """Mean activation of the 200 neurons with the largest |r·text|."""
    places = sorted(
        ((layer, n) for layer, rows in directions.items() for n in range(len(rows))),
        key=lambda at: -abs(float(directions[at[0]][at[1]] @ text.numpy())),
    )[:200]
    neurons = values_and_neurons(model, trace)
    return sum(neurons[layer][1][:, n] for layer, n in places) / len(places)


def rollout_map(model, trace):
    """The class token's row of Π rownorm(mean_h A + I), without the first block."""
    product = torch.eye(model.tokens, dtype=torch.float64)
    for pattern in trace.patterns[1:]:
        step = sum(pattern) / model.heads + torch.eye(model.tokens, dtype=torch.float64)
        product = torch.stack([row / row.sum() for row in step]) @ product
    return product[0]


@settings(max_examples=25)
@given(config=shapes(), seed=st.integers(0, 1000), data=st.data())
def test_every_map_is_its_formula(tmp_path_factory, config, seed, data):
    model = perturbed(config, tmp_path_factory.mktemp("model"), seed)
    images, asked = random_images(model, seed, 3), asked_of(model, seed, 3)
    convention = data.draw(st.sampled_from(["centred", "equal-share"]))
    some = sorted(data.draw(st.sets(st.sampled_from(every_head(model)), min_size=1)))
    rows = {"all": every_head(model), "some": some}
    methods, directions = {"tokens", "raw-attention", "rollout"}, None
    if model.layers > 1:
        layers = data.draw(st.sets(st.integers(0, model.layers - 2), min_size=1))
        directions = some_directions(model, layers, seed)
        methods.add("neurons")
    found = PlainMaps(model, methods, rows, directions, convention)(images, asked)
    assert set(found) == methods - {"tokens"} | {"tokens all", "tokens some"}
    for b, image in enumerate(images):
        trace, text = forward(model, image), asked.texts_be[b]
        maps = {
            f"tokens {row}": token_map(model, image, heads, text, asked.texts_ce, convention)
            for row, heads in rows.items()
        }
        maps["raw-attention"] = sum(trace.patterns[-1])[0] / model.heads
        maps["rollout"] = rollout_map(model, trace)
        if directions:
            maps["neurons"] = neuron_map(model, trace, directions, text)
        for row, map_bt in found.items():
            wanted = maps[row][1:].reshape(model.grid).detach()
            np.testing.assert_allclose(map_bt[b], wanted, err_msg=row, **EXACT)


@pytest.mark.parametrize("quick", [True, False])
def test_maps_do_not_depend_on_batch_or_order(tmp_path, quick):
    vision = {**TINY["vision_cfg"], "image_size": [16, 32]}
    model = perturbed(
        {**TINY, "vision_cfg": vision, "quick_gelu": quick}, tmp_path, 5, torch.float32
    )
    images, asked = random_images(model, 5, 12).float(), asked_of(model, 5, 12)
    run = PlainMaps(model, PLAIN, {"all": every_head(model)}, some_directions(model, (0, 2), 5))
    together = run(images, asked)

    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    parts = [order[:1], order[1:3], order[3:8], order[8:]]
    apart = [run(images[part], part_of(asked, part)) for part in parts]
    for row, map_byx in together.items():
        again = torch.cat([found[row] for found in apart])
        size = map_byx.abs().amax()
        assert (again - map_byx[order]).abs().amax() < 1e-5 * size, row
        assert map_byx.shape == (12, 4, 8)


def test_maps_in_half_precision(tmp_path):
    def maps(dtype):
        model = perturbed(TINY, tmp_path, 6, dtype)
        given = ({"all": every_head(model)}, some_directions(model, (0, 2), 6))
        images = random_images(model, 6, 4).to(**model.wide)
        return PlainMaps(model, PLAIN, *given)(images, asked_of(model, 6, 4))

    exact, rough = maps(torch.float64), maps(torch.bfloat16)
    for row, map_byx in exact.items():
        assert rough[row].dtype == torch.float32
        assert (rough[row] - map_byx).abs().amax() < 3e-2 * map_byx.abs().amax(), row


def test_one_pass_gives_what_each_method_gives(tmp_path):
    model = perturbed(TINY, tmp_path, 2)
    images, asked = random_images(model, 2, 2), asked_of(model, 2, 2)
    given = ({"last": every_head(model, [3])}, some_directions(model, [1], 2))
    together = PlainMaps(model, PLAIN, *given)(images, asked)
    assert list(together) == ["neurons", "rollout", "raw-attention", "tokens last", "random"]
    for method in PLAIN:
        for row, alone in PlainMaps(model, [method], *given)(images, asked).items():
            np.testing.assert_allclose(alone, together[row], **EXACT)


def test_registers_are_no_part_of_the_picture(tmp_path):
    model = perturbed(TINY, tmp_path, 4)
    images, asked = random_images(model, 4, 2), asked_of(model, 4, 2)
    given = ({"all": every_head(model)}, some_directions(model, [1], 4))
    methods = set(PLAIN) - {"random"}
    whole = PlainMaps(model, methods, *given)(images, asked)
    fewer = replace(model, prefix=4, grid=(2, 3))  # were the first row of patches registers
    for row, map_byx in PlainMaps(fewer, methods, *given)(images, asked).items():
        assert torch.equal(map_byx, whole[row][:, 1:]), row


def test_whole_patterns_are_for_rollout_alone(tmp_path, monkeypatch):
    from pipeline.models.tower import Attention

    asked_for = []
    patterns = Attention.patterns
    monkeypatch.setattr(Attention, "patterns", lambda self: asked_for.append(1) or patterns(self))
    model = perturbed(TINY, tmp_path, 2)
    images, asked = random_images(model, 2, 1), asked_of(model, 2, 1)
    given = ({"all": every_head(model)}, some_directions(model, [1], 2))
    PlainMaps(model, set(PLAIN) - {"rollout"}, *given)(images, asked)
    assert not asked_for
    PlainMaps(model, ["rollout"])(images, asked)
    assert len(asked_for) == model.layers - 1


def test_random_maps_are_of_the_picture_alone(tmp_path):
    model = perturbed(TINY, tmp_path, 0, torch.float32)
    run = PlainMaps(model, ["random"])
    texts = unit_rows(2, model.embed_dim, 0).float()
    images = torch.zeros(2, 3, *model.preprocess.size)
    maps = [
        run(images, Asked(torch.tensor(c), texts, torch.tensor(n)))["random"]
        for c, n in (([0, 1], [7, 8]), ([1, 1], [8, 9]))
    ]
    assert torch.equal(maps[0][1], maps[1][0])
    assert not torch.equal(maps[0][0], maps[0][1])
    drawn = np.stack([random_map(number, (20, 30)) for number in range(20)])
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert abs(drawn.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(drawn.reshape(20, -1)) - np.eye(20)).max() < 0.2


def test_what_is_lacking_is_told(tmp_path):
    model = perturbed(TINY, tmp_path, 0, torch.float32)
    for methods, rest, words in [
        (["legrad"], {}, r"methods \['legrad'\] are none of tokens, neurons"),
        (["tokens"], {}, "'tokens' needs a choice of heads"),
        (["tokens"], {"tokens": {"all": []}}, "no heads chosen"),
        (["tokens"], {"tokens": {"all": [(0, 2)]}}, r"head 0\.2 does not exist"),
        (["neurons"], {}, "'neurons' needs directions"),
        (["neurons"], {"directions": {3: np.zeros((64, 12))}}, "MLP layer 3 is the last"),
        (["neurons"], {"directions": {1: np.zeros((64, 9))}}, r"have shape \(64, 9\), but .*12"),
    ]:
        with pytest.raises(ValueError, match=words):
            PlainMaps(model, methods, **rest)
