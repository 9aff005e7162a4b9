"""Relevance propagation against its formulae, and what it conserves."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from pipeline.heatmaps import rules
from pipeline.heatmaps.memory import relevance_bytes
from pipeline.heatmaps.relevance import RELEVANCE, RelevanceMaps
from pipeline.models import ModelSpec, load_model
from pipeline.models.families import FAMILIES
from tests.pipeline.heatmaps.asked_kit import asked_of, part_of
from tests.pipeline.heatmaps.plain_kit import shapes
from tests.pipeline.heatmaps.plain_relevance import relevance
from tests.pipeline.models import toy_vit
from tests.pipeline.neurons.forward_kit import TEXT, TINY, perturbed, random_images


@settings(max_examples=12)
@given(config=shapes(), seed=st.integers(0, 1000))
def test_every_method_equals_its_formula_and_all_is_conserved(tmp_path_factory, config, seed):
    model = perturbed(config, tmp_path_factory.mktemp("model"), seed)
    images, asked = random_images(model, seed, 2), asked_of(model, seed, 2)
    found = RelevanceMaps(model)(images, asked)
    for b, image in enumerate(images):
        wanted = relevance(model, image, asked.texts_be[b])
        for name in RELEVANCE:
            scale = wanted.maps[name].abs().max()
            assert (found[name][b] - wanted.maps[name]).abs().max() <= 1e-8 * scale
        assert abs(float(found["lrp"][b].sum()) + wanted.rest + wanted.lost - 1) < 1e-10


def test_batches_and_their_order_change_nothing(tmp_path):
    model = perturbed({**TINY, "quick_gelu": True}, tmp_path, 2, torch.float32)
    images, asked = random_images(model, 2, 6).float(), asked_of(model, 2, 6)
    maps, order = RelevanceMaps(model), torch.tensor([4, 2, 0, 5, 1, 3])
    whole, turned = maps(images, asked), maps(images[order], part_of(asked, order))
    for name in RELEVANCE:
        assert whole[name].dtype == torch.float32
        size_b11 = whole[name].abs().amax((1, 2), keepdim=True)
        assert (turned[name] - whole[name][order]).abs().le(1e-5 * size_b11[order]).all()
        for b in range(6):
            alone = maps(images[b : b + 1], part_of(asked, slice(b, b + 1)))[name][0]
            assert (alone - whole[name][b]).abs().le(1e-5 * size_b11[b]).all()


def test_a_model_in_float32_has_the_maps_of_float64():
    """Not where relevance is divided in float32: ``lrp`` is then off by a hundredth."""
    spec = ModelSpec("microworld", "microworld")
    rough, exact = load_model(spec), load_model(spec, dtype=torch.float64)
    images = random_images(rough, 0, 16).float()
    found, wanted = (RelevanceMaps(m)(images, asked_of(m, 0, 16)) for m in (rough, exact))
    for name in RELEVANCE:
        size_b11 = wanted[name].abs().amax((1, 2), keepdim=True)
        assert (found[name] - wanted[name]).abs().le(1e-5 * size_b11).all(), name


@pytest.mark.parametrize("name", RELEVANCE)
def test_a_method_alone_is_that_among_all(tmp_path, name):
    model = perturbed(TINY, tmp_path, 1)
    images, asked = random_images(model, 1, 2), asked_of(model, 1, 2)
    alone = RelevanceMaps(model, [name])(images, asked)
    assert alone.keys() == {name}
    torch.testing.assert_close(
        alone[name], RelevanceMaps(model)(images, asked)[name], rtol=1e-9, atol=0
    )
    assert not alone[name].requires_grad
    assert alone[name].std() > 1e-9


@pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_empty_pictures_have_finite_maps(tmp_path, value, dtype):
    """Also in a model as it is made, without biases: patches of a black picture are all zero."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    model = load_model(ModelSpec(str(path), "none", 0), dtype=dtype)
    with torch.no_grad():
        model.visual.positional_embedding.zero_()
    images = torch.full((2, 3, *model.preprocess.size), value)
    for name, found in RelevanceMaps(model)(images, asked_of(model, 0, 2)).items():
        assert found.isfinite().all(), name
        if name == "lrp" and not value:
            assert not found.any()


def test_a_family_of_its_own_with_registers(tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, toy_vit.NAME, toy_vit)
    vision = {
        "timm_model_name": toy_vit.NAME, "image_size": [12, 18], "patch_size": 6, "width": 16,
        "layers": 3, "head_width": 4,
    }  # fmt: skip
    path = tmp_path / "toy.json"
    path.write_text(json.dumps({"embed_dim": 7, "vision_cfg": vision, "text_cfg": TEXT}))
    model = load_model(ModelSpec(str(path), "none", 3), dtype=torch.float64)
    images, asked = random_images(model, 0, 3), asked_of(model, 0, 3)
    found = RelevanceMaps(model)(images, asked)
    for map_brc in found.values():
        assert map_brc.shape == (3, *model.grid)
        assert map_brc.isfinite().all()
        assert map_brc.std() > 1e-9


def peak(call):
    """Most bytes that were held at once while something was done."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as taken:
        call()
    held = most = 0
    events = [e for e in taken.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("methods", [*((name,) for name in RELEVANCE), RELEVANCE], ids=" ".join)
@pytest.mark.parametrize(
    ("patch", "layers", "quick_gelu"), [(8, 6, False), (8, 6, True), (4, 4, False)]
)
def test_memory_is_as_projected(tmp_path, methods, patch, layers, quick_gelu):
    vision = {"image_size": 64, "patch_size": patch, "width": 64, "layers": layers}
    config = {
        "embed_dim": 32, "vision_cfg": {**vision, "head_width": 16}, "quick_gelu": quick_gelu
    }  # fmt: skip
    model = perturbed(config, tmp_path, 0, torch.float32)
    images, asked = random_images(model, 0, 4), asked_of(model, 0, 4)
    held = peak(lambda: RelevanceMaps(model, methods)(images, asked))
    projected = relevance_bytes(model, 4, methods)
    assert projected / 2.5 < held < projected


def test_other_methods_are_refused(tmp_path):
    model = perturbed(TINY, tmp_path, 0, torch.float32)
    with pytest.raises(ValueError, match=r"methods \['legrad'\] are none of lrp, partial-lrp, tra"):
        RelevanceMaps(model, ["lrp", "legrad"])


# -- the rules -----------------------------------------------------------------------------

SIZES = st.integers(1, 6)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(batch=SIZES, tokens=SIZES, inputs=SIZES, outputs=SIZES, seed=st.integers(0, 10**6))
def test_a_linear_layer_conserves_all_but_what_is_dead(batch, tokens, inputs, outputs, seed):
    x, weight = random(seed, batch, tokens, inputs), random(seed + 1, outputs, inputs)
    x *= random(seed + 2, *x.shape) > -0.5  # some zeros
    relevance_bto = random(seed + 3, batch, tokens, outputs)
    found, per_unit = rules.linear(relevance_bto, x, weight, x @ weight.T)
    given = (x[..., None, :] * weight).clamp(min=0)
    alive = given.sum(-1) > 0
    share = torch.where(alive, relevance_bto / given.sum(-1), 0)
    torch.testing.assert_close(found, (given * share[..., None]).sum(-2), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found, x * per_unit)
    kept = (relevance_bto * alive).sum((1, 2))
    torch.testing.assert_close(found.sum((1, 2)), kept, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_nothing_was_given_to_is_dead_whatever_rounding_leaves(dtype):
    x, weight = random(0, 4, 500).abs(), random(1, 300, 500).to(dtype)
    weight[:250] = -weight[:250].abs()
    wide, relevance_bo = weight.double(), random(2, 4, 300)
    found, _ = rules.linear(relevance_bo, x, weight, x @ wide.T)
    alone, _ = rules.linear(relevance_bo[:, 250:], x, wide[250:], x @ wide[250:].T)
    assert (found - alone).norm() < 4 * torch.finfo(dtype).eps * alone.norm()


@given(batch=SIZES, rows=SIZES, columns=SIZES, inner=SIZES, seed=st.integers(0, 10**6))
def test_a_product_gives_half_to_each(batch, rows, columns, inner, seed):
    left, right = random(seed, batch, rows, inner), random(seed + 1, batch, columns, inner)
    whole = left @ right.mT
    relevance_brc = random(seed + 2, *whole.shape)
    parts = rules.operands(rules.parted(relevance_brc, whole), left, right)
    for part in parts:
        size = part.abs().sum((1, 2))
        error = part.sum((1, 2)) - relevance_brc.sum((1, 2)) / 2
        assert (error.abs() <= 1e-10 * (1 + size)).all()


@given(batch=SIZES, tokens=SIZES, width=SIZES, seed=st.integers(0, 10**6))
def test_an_addition_conserves_picture_by_picture(batch, tokens, width, seed):
    left, right, given = (random(seed + i, batch, tokens, width) for i in range(3))
    left[0] = 0  # one of the summands is nothing
    found = rules.addition(given, left, right)
    share = given / (left + right)
    sums = [(part * share).sum((1, 2)) for part in (left, right)]
    for part, found_part, own in zip((left, right), found, sums, strict=True):
        ratio = own.abs() / (sums[0].abs() + sums[1].abs())
        wanted = part * share
        wanted = wanted * (ratio * given.sum((1, 2)) / torch.where(own == 0, 1, own))[:, None, None]
        torch.testing.assert_close(found_part, wanted, rtol=1e-8, atol=1e-10)
    total, size = found[0] + found[1], (found[0].abs() + found[1].abs()).sum((1, 2))
    error = total.sum((1, 2)) - given.sum((1, 2))
    assert (error.abs() <= 1e-10 * (1 + size)).all()


def test_nothing_added_to_nothing_has_nothing():
    nothing = torch.zeros(2, 3, 4, dtype=torch.float64)
    for part in rules.addition(torch.ones_like(nothing), nothing, nothing):
        assert not part.any()
