"""timm's `Beit`: BEiT and BEiT v2, whose positions are biases of the attention's logits."""

import pytest
import timm
import torch

from pipeline.extraction.decompose import Decomposer
from pipeline.models import UnsupportedModel, beit_tower
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.maps import second_order_maps
from tests.families.hooks import golden
from tests.families.zoo import CLASSES, SMALL, ZOO, Member, alone
from tests.pipeline.models.trunk_kit import EXACT, frozen, loaded, pictures

ALL = {"use_shared_rel_pos_bias": True, "use_abs_pos_emb": True, "scale_mlp": True}
TOWERS = {
    "beit": ZOO["beit"],
    "beit-class-token": Member(
        "beit", alone("beitv2_base_patch16_224", "token", CLASSES, **SMALL), "class-token"
    ),
    # Every option of the class: a table of all layers beside each layer's, and positions.
    "beit-all": Member(
        "beit",
        alone("beit_base_patch16_224", "token", **SMALL, **ALL, swiglu_mlp=True),
        "class-token",
    ),
    "beit-mean-of-normed": Member(
        "beit",
        alone("beit_base_patch16_224", "avg", **SMALL, **ALL, use_fc_norm=False),
        "mean-of-normed",
    ),
}


@pytest.mark.parametrize("name", TOWERS)
def test_terms_are_those_of_hooks_on_the_library(name):
    model, plain = loaded(TOWERS[name], beit_tower)
    images = pictures(model)
    wanted = golden(plain.visual, images)
    parts = Decomposer(model, ("heads", "mlps", "tokens"), range(model.layers))(images)
    torch.testing.assert_close(parts.embedding_be, wanted.output_be, **EXACT)
    torch.testing.assert_close(parts.heads_blhk, wanted.u_blhk, **EXACT)
    torch.testing.assert_close(parts.mlps_bsd, wanted.rows_bsd, **EXACT)
    assert parts.residual_b.max() < 1e-10
    torch.testing.assert_close(parts.tokens_bte.sum(1), wanted.heads_blhe.sum((1, 2)), **EXACT)
    tower = model.tower()
    x_btd = tower.enter(images)
    for layer, block in enumerate(tower.blocks):
        attention = block.attention(x_btd)
        values_bthk = attention.weighted_values().unflatten(2, (model.heads, -1))
        x_btd, u_bd, *_ = block.rest(x_btd, attention)
        torch.testing.assert_close(values_bthk.sum(1).flatten(1), u_bd, **EXACT)
        torch.testing.assert_close(values_bthk[:, :, 1], wanted.values(layer, 1), **EXACT)


@pytest.mark.parametrize("name", TOWERS)
def test_parts_sum_in_float32(name):
    model, _ = loaded(TOWERS[name], beit_tower, torch.float32)
    assert Decomposer(model)(pictures(model).float()).residual_b.max() < 1e-5


def test_second_order_effects_are_what_a_frozen_pass_loses():
    for name in ("beit-class-token", "beit-all"):
        model, plain = loaded(TOWERS[name], beit_tower)
        images = pictures(model)
        parts = NeuronPass(model, [0], ("coefficients", "totals"))(images)
        maps = second_order_maps(model, 0, torch.float64)
        total = maps.total(parts.coefficients[0]) / parts.ln_std_b[:, None]
        torch.testing.assert_close(total, parts.totals[0], **EXACT)
        torch.testing.assert_close(total, frozen(plain.visual, images, 0), **EXACT)


def test_what_is_no_sum_is_refused():
    none = timm.create_model("beit_base_patch16_224", **SMALL, global_pool="")
    assert "no pooling is chosen" in beit_tower.examine(none)[0]
    model, _ = loaded(TOWERS["beit"], beit_tower)
    with pytest.raises(UnsupportedModel, match="biases of the attention's logits"):
        _ = model.tower().blocks[0].layers
