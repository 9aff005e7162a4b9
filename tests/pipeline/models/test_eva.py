"""timm's `Eva`: EVA01, EVA02, EVA02-E, DINOv3 and ViTs with rotary positions."""

import json

import pytest
import timm
import torch

from pipeline.extraction.decompose import Decomposer
from pipeline.models import ModelSpec, UnsupportedModel, check_supported, eva_tower
from pipeline.models.timm_trunk import trunk_of
from pipeline.neurons.effects import IndirectEffects
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.maps import second_order_maps
from tests.families.hooks import golden
from tests.families.zoo import CLASSES, SMALL, ZOO, Member, alone
from tests.pipeline.models.trunk_kit import EXACT, frozen, loaded, pictures

MORE = {
    # No norm before the output.
    "pe-spatial": Member(
        "eva",
        alone("vit_pe_spatial_base_patch16_512", "avg", **SMALL, ref_feat_shape=3),
        "mean",
    ),
    # Norms inside of attention and MLP where the mean is read.
    "eva02-mean": Member(
        "eva",
        alone("eva02_base_patch16_clip_224", "avg", CLASSES, **SMALL, ref_feat_shape=3),
        "mean",
    ),
}
TOWERS = {n: m for n, m in ZOO.items() if m.family == "eva"} | MORE
READ_AT_THE_CLASS_TOKEN = [n for n, m in TOWERS.items() if m.reading == "class-token"]


@pytest.mark.parametrize("name", TOWERS)
def test_terms_are_those_of_hooks_on_the_library(name):
    model, plain = loaded(TOWERS[name], eva_tower)
    images = pictures(model)
    wanted = golden(plain.visual, images)
    parts = Decomposer(model, ("heads", "mlps", "tokens"), range(model.layers))(images)
    torch.testing.assert_close(parts.embedding_be, wanted.output_be, **EXACT)
    torch.testing.assert_close(parts.heads_blhk, wanted.u_blhk, **EXACT)
    torch.testing.assert_close(parts.mlps_bsd, wanted.rows_bsd, **EXACT)
    assert parts.residual_b.max() < 1e-10
    assert (parts.bias_weights_bl is not None) == model.varying_bias
    if parts.bias_weights_bl is not None:
        torch.testing.assert_close(parts.bias_weights_bl, wanted.weights_bl, **EXACT)
        assert parts.bias_weights_bl.std(0).min() > 1e-6
    torch.testing.assert_close(parts.tokens_bte.sum(1), wanted.heads_blhe.sum((1, 2)), **EXACT)


@pytest.mark.parametrize("name", TOWERS)
def test_patterns_weigh_values_as_loops_do(name):
    model, plain = loaded(TOWERS[name], eva_tower)
    images = pictures(model)
    wanted = golden(plain.visual, images)
    tower = model.tower()
    x_btd = tower.enter(images)
    for layer, block in enumerate(tower.blocks):
        attention = block.attention(x_btd)
        values_bthk = attention.weighted_values().unflatten(2, (model.heads, -1))
        x_btd, u_bd, *_ = block.rest(x_btd, attention)
        torch.testing.assert_close(values_bthk.sum(1).flatten(1), u_bd, **EXACT)
        head = layer % model.heads
        torch.testing.assert_close(values_bthk[:, :, head], wanted.values(layer, head), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", TOWERS)
def test_parts_sum_in_narrower_arithmetic(name, dtype):
    model, _ = loaded(TOWERS[name], eva_tower, dtype)
    parts = Decomposer(model)(pictures(model).float())
    assert parts.residual_b.max() < (1e-5 if dtype == torch.float32 else 5e-2)


@pytest.mark.parametrize("name", READ_AT_THE_CLASS_TOKEN)
def test_second_order_effects_are_what_a_frozen_pass_loses(name):
    model, plain = loaded(TOWERS[name], eva_tower)
    images = pictures(model)
    parts = NeuronPass(model, [0, 1], ("coefficients", "totals"))(images)
    for layer in (0, 1):
        maps = second_order_maps(model, layer, torch.float64)
        total = maps.total(parts.coefficients[layer]) / parts.ln_std_b[:, None]
        torch.testing.assert_close(total, parts.totals[layer], **EXACT)
        torch.testing.assert_close(total, frozen(plain.visual, images, layer), **EXACT)


@pytest.mark.parametrize("name", ["eva02", "dinov3-swiglu", "rope-registers"])
def test_an_ablated_layer_is_the_module_without_it(name):
    model, plain = loaded(TOWERS[name], eva_tower)
    images = pictures(model)
    none = torch.zeros(model.tokens, model.mlp_width, dtype=torch.float64)
    found = IndirectEffects(model, 1).ablate_all(images, none)
    mlp = trunk_of(plain.visual).blocks[1].mlp
    with torch.no_grad():
        if not isinstance(mlp.norm, torch.nn.Identity):
            mlp.norm.weight.zero_()  # its β still writes
        else:
            mlp.fc2.weight.zero_()
        torch.testing.assert_close(found, plain.encode_image(images), **EXACT)


def test_what_is_no_sum_is_refused():
    def faults(name: str, **given) -> str:
        return " and ".join(eva_tower.examine(timm.create_model(name, **SMALL, **given)))

    assert "no pooling is chosen" in faults("vit_small_patch16_dinov3", global_pool="")
    assert "pools by 'max'" in faults("vit_small_patch16_dinov3", global_pool="max")
    both = {"use_fc_norm": True, "use_post_transformer_norm": True}
    assert "again after" in faults("vit_small_patch16_dinov3", **both)
    each = {"use_fc_norm": False, "global_pool": "avg"}
    assert "its tail each token" in faults("eva02_enormous_patch14_clip_224", **each)
    gated = timm.create_model("eva02_base_patch16_clip_224", **SMALL)
    gated.blocks[1].attn.gate = torch.nn.Linear(48, 48)
    assert "its attention is gated" in eva_tower.examine(gated)[0]


def test_relevance_through_norms_behind_is_refused():
    for name in ("eva02", "eva02-e"):
        model, _ = loaded(TOWERS[name], eva_tower)
        with pytest.raises(UnsupportedModel, match="choose other methods"):
            _ = model.tower().blocks[0].layers


def test_dinov3_is_read_at_its_class_token_unless_a_file_says_otherwise(tmp_path):
    named = check_supported(ModelSpec("timm:vit_small_patch16_dinov3", "none"))
    assert (named.family, named.reading, named.prefix) == ("eva", "class-token", 5)
    place = tmp_path / "config.json"
    place.write_text(json.dumps({**named.config, "global_pool": "avg"}))
    assert check_supported(ModelSpec(str(place), "none")).reading == "mean-of-normed"
