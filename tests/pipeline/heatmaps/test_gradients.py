"""Maps from gradients against their formulae, written out a picture at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.heatmaps.gradients import GRADIENT_METHODS, GradientMaps
from tests.pipeline.heatmaps.asked_kit import asked_of, part_of
from tests.pipeline.heatmaps.plain_kit import shapes
from tests.pipeline.heatmaps.plain_vit import forward, unit_score
from tests.pipeline.neurons.forward_kit import TINY, perturbed, random_images


def oracle(model, image, text):
    """All three maps of one picture, over the patches, as the formulae stand."""
    visual, tokens, heads = model.visual, model.tokens, model.heads
    trace = forward(model, image)
    y = unit_score(visual, trace.streams[-1][0], text)
    slopes = torch.autograd.grad(y, trace.patterns, retain_graph=True)
    last, slope = trace.patterns[-1][:, 0], slopes[-1][:, 0]
    gradcam = torch.zeros(tokens, dtype=torch.float64)
    for h in range(heads):
        gradcam += slope[h, 1:].mean() * last[h] / heads
    gradcam = gradcam.clamp(min=0)

    product = torch.eye(tokens, dtype=torch.float64)
    for pattern, slope in zip(trace.patterns, slopes, strict=True):
        each = [(slope[h] * pattern[h]).clamp(min=0) for h in range(heads)]
        product = (torch.eye(tokens, dtype=torch.float64) + sum(each) / heads) @ product

    legrad = torch.zeros(tokens, dtype=torch.float64)
    for layer in range(model.layers):
        s = unit_score(visual, trace.streams[layer + 1][0], text)
        (slope,) = torch.autograd.grad(s, trace.patterns[layer], retain_graph=True)
        for h in range(heads):
            for query in range(tokens):
                legrad += slope[h, query].clamp(min=0) / heads / tokens
    found = {"gradcam": gradcam, "gradient-attention": product[0], "legrad": legrad}
    return {name: map_t[1:].reshape(model.grid).detach() for name, map_t in found.items()}


@settings(max_examples=15)
@given(config=shapes(), seed=st.integers(0, 1000))
def test_every_method_equals_its_formula(tmp_path_factory, config, seed):
    model = perturbed(config, tmp_path_factory.mktemp("model"), seed)
    images, asked = random_images(model, seed, 3), asked_of(model, seed, 3)
    found = GradientMaps(model)(images, asked)
    for b, image in enumerate(images):
        wanted = oracle(model, image, asked.texts_be[b])
        for name in GRADIENT_METHODS:
            torch.testing.assert_close(found[name][b], wanted[name], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_a_method_alone_is_that_among_all(tmp_path, name):
    model = perturbed(TINY, tmp_path, 1)
    images, asked = random_images(model, 1, 2), asked_of(model, 1, 2)
    alone = GradientMaps(model, [name])(images, asked)
    assert alone.keys() == {name}
    torch.testing.assert_close(alone[name], GradientMaps(model)(images, asked)[name])
    assert not alone[name].requires_grad
    assert alone[name].std() > 1e-6


def test_batches_and_their_order_change_nothing(tmp_path):
    model = perturbed(TINY, tmp_path, 2, torch.float32)
    images, asked = random_images(model, 2, 6).float(), asked_of(model, 2, 6)
    maps, order = GradientMaps(model), torch.tensor([4, 2, 0, 5, 1, 3])
    whole = maps(images, asked)
    turned = maps(images[order], part_of(asked, order))
    for name in GRADIENT_METHODS:
        scale = whole[name].abs().max()
        assert (turned[name] - whole[name][order]).abs().max() < 1e-5 * scale
        for b in range(6):
            alone = maps(images[b : b + 1], part_of(asked, [b]))[name][0]
            assert (alone - whole[name][b]).abs().max() < 1e-5 * scale


def test_bfloat16_is_near(tmp_path):
    exact, rough = (perturbed(TINY, tmp_path, 3, t) for t in (torch.float64, torch.bfloat16))
    images = random_images(exact, 3, 4)
    wanted = GradientMaps(exact)(images, asked_of(exact, 3, 4))
    found = GradientMaps(rough)(images.float(), asked_of(rough, 3, 4))
    for name, map_brc in found.items():
        assert map_brc.dtype == torch.float32
        assert (map_brc - wanted[name]).norm() < 0.1 * wanted[name].norm()


def test_other_methods_are_refused(tmp_path):
    model = perturbed(TINY, tmp_path, 0, torch.float32)
    with pytest.raises(ValueError, match=r"methods \['lrp'\] are none of gradcam, gradient-att"):
        GradientMaps(model, ["gradcam", "lrp"])
