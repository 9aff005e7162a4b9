"""timm's ViTs in the ways that they can be built, and what of them is refused."""

from dataclasses import asdict, replace
from functools import partial

import pytest
import timm
import torch
from open_clip.timm_model import TimmModel
from timm.layers import LayerNorm, RmsNorm
from timm.models import vision_transformer as vit
from torch import nn

from pipeline.extraction.decompose import Decomposer
from pipeline.models import VisionModel, timm_vit_tower
from pipeline.models.alone import ImageAlone
from pipeline.models.preprocess import Preprocess
from pipeline.models.timm_trunk import trunk_of
from pipeline.neurons.effects import IndirectEffects
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.maps import second_order_maps
from tests.families.zoo import SMALL, randomise

EXACT = {"rtol": 1e-10, "atol": 1e-10}
# Every choice of timm's ViT that changes what is to be read, at least once.
WAYS = {
    "class-token": {
        "qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True, "init_values": 0.5,
        "reg_tokens": 2, "no_embed_class": True, "num_classes": 5, "dynamic_img_size": True,
        "embed_norm_layer": LayerNorm, "pre_norm": True,
    },
    "class-token, no norm, no biases": {
        "final_norm": False, "qkv_bias": False, "proj_bias": False, "num_classes": 0,
        "pos_embed": "none",
    },
    "class-token, norms without weights": {
        "norm_layer": partial(LayerNorm, affine=False), "num_classes": 0,
    },
    "mean": {"global_pool": "avg", "reg_tokens": 1, "num_classes": 5},
    "mean over all": {"global_pool": "avg", "pool_include_prefix": True, "num_classes": 0},
    "mean-of-normed": {
        "global_pool": "avg", "fc_norm": False, "reg_tokens": 1, "num_classes": 5,
        "norm_layer": RmsNorm, "mlp_layer": vit.SwiGLU, "scale_mlp_norm": True,
        "scale_attn_norm": True, "init_values": 0.5,
    },
    "attention-pool": {"global_pool": "map", "num_classes": 5, "reg_tokens": 1},
    "attention-pool over all": {
        "global_pool": "map", "pool_include_prefix": True, "fc_norm": True, "num_classes": 0,
    },
}  # fmt: skip


def built(name: str = "vit_base_patch16_224", **given: object) -> nn.Module:
    """One of timm's models, tiny, every weight of it drawn."""
    return randomise(timm.create_model(name, **{**SMALL, **given}), 1).double().eval()


def load(visual: nn.Module) -> VisionModel:
    """A timm model as it is once loaded, with the weights that it has."""
    module = ImageAlone(visual).requires_grad_(False)
    trunk = trunk_of(visual)
    assert timm_vit_tower.examine(trunk) == []
    sizes = timm_vit_tower.measure(trunk)
    if trunk is not visual and hasattr(visual.head, "proj"):
        sizes = replace(sizes, embed_dim=visual.head.proj.out_features)
    given = asdict(sizes)
    timm_vit_tower.prepare(module)
    return VisionModel(
        name="tiny", config={}, checkpoint=None, family="timm-vit", has_texts=False, module=module,
        preprocess=Preprocess.of(given.pop("image_size"), {}), dtype=torch.float64,
        device=torch.device("cpu"), weights_digest="", **given,
    )  # fmt: skip


def pictures(count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 32, 32, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_its_parts_sum_to_its_output(way):
    own, images = built(**WAYS[way]), pictures()
    wanted = own(images)
    model = load(own)
    assert model.reading == way.split(",")[0].removesuffix(" over all")
    torch.testing.assert_close(own(images), wanted, **EXACT)  # what was folded was exact
    parts = Decomposer(model, ("heads", "mlps", "tokens"), range(model.layers))(images)
    torch.testing.assert_close(parts.embedding_be, wanted, **EXACT)
    assert float(parts.residual_b.max()) < 1e-11
    one_pass = Decomposer(model)(images)
    torch.testing.assert_close(one_pass.heads_blhk, parts.heads_blhk, **EXACT)
    torch.testing.assert_close(one_pass.mlps_bsd, parts.mlps_bsd, **EXACT)
    assert float(one_pass.residual_b.max()) < 1e-11


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_patterns_weigh_values_to_what_heads_are_read_as(way):
    model, images = load(built(**WAYS[way])), pictures()
    parts, tower = Decomposer(model)(images), model.tower()
    x_btd = tower.enter(images)
    for layer, block in enumerate(tower.blocks):
        attention = block.attention(x_btd)
        u_bd = attention.weighted_values().sum(1)
        torch.testing.assert_close(u_bd, parts.heads_blhk[:, layer].flatten(1), **EXACT)
        x_btd = block.rest(x_btd, attention).stream_btd


@pytest.mark.parametrize("way", [way for way in WAYS if "pool" not in way])
@torch.no_grad()
def test_second_order_effects_are_what_later_heads_read(way):
    model, images = load(built(**WAYS[way])), pictures()
    found = NeuronPass(model, [0, 1], ("coefficients", "totals", "class_neurons"))(images)
    for layer in (0, 1):
        maps = second_order_maps(model, layer, torch.float64)
        total = maps.total(found.coefficients[layer]) / found.ln_std_b[:, None]
        torch.testing.assert_close(total, found.totals[layer], **EXACT)
        # What the tail reads of neurons is what it reads of the MLP.
        block = model.tower().blocks[layer]
        written_bd = found.class_neurons[layer] @ block.down[0].T
        weights_b1 = 1.0 if model.reading != "mean-of-normed" else bias_weights(model, images)
        read_bd = Decomposer(model)(images).mlps_bsd[:, layer + 1]
        torch.testing.assert_close(written_bd + weights_b1 * block.down[1], read_bd, **EXACT)


def bias_weights(model: VisionModel, images: torch.Tensor) -> torch.Tensor:
    return Decomposer(model)(images).bias_weights_bl[:, :1]


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_neurons_that_are_gone_are_gone_from_the_librarys_own_output(way):
    own, images = built(**WAYS[way]), pictures()
    model = load(own)
    layer = model.trunk_layers or 1  # behind a trunk comes the pool's own MLP
    effects = IndirectEffects(model, layer)
    none = torch.zeros_like(effects.activations(images)[0])
    single, embedding = effects(images, none, [2, 3])
    found = effects.ablate_all(images, none)
    torch.testing.assert_close(embedding, own(images), **EXACT)
    mlp = own.attn_pool.mlp if model.reading == "attention-pool" else own.blocks[layer].mlp
    if getattr(mlp, "norm", None) is None or isinstance(mlp.norm, nn.Identity):
        kept = mlp.fc2.weight.clone()
        mlp.fc2.weight[:, 2] = 0
        torch.testing.assert_close(embedding - single[:, 0], own(images), **EXACT)
        mlp.fc2.weight.copy_(kept).zero_()
        torch.testing.assert_close(found, own(images), **EXACT)
    else:  # without all neurons their norm's σ does not matter: β alone is left
        mlp.norm.weight.zero_()
        torch.testing.assert_close(found, own(images), **EXACT)


@torch.no_grad()
def test_a_pools_neurons_are_activation_times_column():
    model, images = load(built(**WAYS["attention-pool"])), pictures()
    tower = model.tower()
    (block,), x_btd = tower.blocks, tower.enter(images)
    x_btd, _ = block.attend(x_btd, block.attention(x_btd))
    hidden_b1n, written_b1d = block.mlp(x_btd)
    assert hidden_b1n.shape == (3, 1, model.mlp_width)
    weights = block.weights
    total = hidden_b1n[:, 0] @ torch.from_numpy(weights.down_dn.T)
    total += torch.from_numpy(weights.down_bias_d)
    torch.testing.assert_close(total, written_b1d[:, 0], **EXACT)
    parts = Decomposer(model)(images)
    assert not parts.mlps_bsd[:, 0].any()
    torch.testing.assert_close(parts.mlps_bsd[:, 1], total, **EXACT)
    with pytest.raises(ValueError, match="MLP layer 3 is the last .* no attention comes after it"):
        NeuronPass(model, [3])


@pytest.mark.parametrize(
    ("proj", "pool", "embed"), [("linear", "avg", 9), (None, "token", 9), ("none", "token", 48)]
)
@torch.no_grad()
def test_open_clips_own_projection_comes_behind(proj, pool, embed, monkeypatch):
    def small(name: str, **given: object) -> nn.Module:
        return create(name, **{**SMALL, **given})

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", small)
    own = TimmModel("vit_base_patch16_224", 9, 32, pool, proj, proj_bias=True)
    own, images = randomise(own, 2).double().eval(), pictures()
    wanted, model = own(images), load(own)
    # A pool of another kind than the model was made with leaves its norm where it was.
    assert model.reading == ("mean-of-normed" if pool == "avg" else "class-token")
    assert model.embed_dim == embed == wanted.shape[1]
    parts = Decomposer(model)(images)
    torch.testing.assert_close(parts.embedding_be, wanted, **EXACT)
    assert float(parts.residual_b.max()) < 1e-11


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"block_fn": vit.ParallelScalingBlock}, "attention and MLP side by side"),
        ({"block_fn": vit.ParallelThingsBlock}, "several attentions and MLPs"),
        ({"attn_layer": "diff", "num_heads": 4}, "differences of two attentions"),
        ({"global_pool": "avgmax"}, "'avgmax', which takes largest values"),
        ({"global_pool": "max"}, "'max', which takes largest values"),
        ({"global_pool": ""}, "gives all its tokens"),
        ({"global_pool": "prr"}, "AttentionPoolPrr"),
        ({"norm_layer": nn.Identity, "mlp_layer": timm.layers.GatedMlp}, "GatedMlp"),
    ],
)  # fmt: skip
def test_what_is_no_sum_is_refused(given, why):
    found = timm_vit_tower.examine(timm.create_model("vit_base_patch16_224", **{**SMALL, **given}))
    assert len(found) == 1
    assert why in found[0]


def test_gated_attention_and_a_second_head_are_refused():
    trunk = built()
    trunk.blocks[1].attn.gate = nn.Linear(48, 48)
    assert timm_vit_tower.examine(trunk) == ["its attention is gated"]
    (why,) = timm_vit_tower.examine(timm.create_model("deit_tiny_distilled_patch16_224"))
    assert "two tokens, each through a projection of its own" in why
