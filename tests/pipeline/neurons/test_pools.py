"""Second-order effects through an attention pool, against the libraries' own modules.

Attention and the norms' divisors are held as they are for an image; then what the pool's heads
write is linear in the stream before it, and automatic differentiation of the library's own parts
gives what each neuron does.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.models import (
    ModelSpec,
    UnsupportedModel,
    VisionModel,
    load_model,
    model_maps,
    timm_vit_tower,
)
from pipeline.neurons.effects import IndirectEffects, direct_map
from pipeline.neurons.equal_share import equal_share_offset
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.maps import second_order_maps
from storage.errors import FacetError
from tests.families.layers import Taps
from tests.families.zoo import ZOO, Member, alone
from tests.pipeline.models.trunk_kit import loaded, pictures

CLOSE = {"rtol": 1e-9, "atol": 1e-10}
# From a stream to the embedding, linear; and α, (head, token), and σ of its tokens.
Frozen = tuple[Callable[[Tensor], Tensor], Tensor, Tensor]


def held(norm: nn.Module, at: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A LayerNorm whose σ stays that of `at`, and this σ."""
    if isinstance(norm, nn.Identity):
        return norm, torch.ones_like(at[..., :1])
    std = (at.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    return lambda x: (x - x.mean(-1, keepdim=True)) / std * norm.weight + norm.bias, std


def frozen_latent(own: nn.Module, taps: Taps, image: int) -> Frozen:
    """Of timm's `AttentionPoolLatent`."""
    pool, tokens = own.attn_pool, taps.before[own.attn_pool].shape[1]
    normed, std = held(own.norm, taps.before[own.norm][image])
    q, k = (
        x[image].unflatten(-1, (pool.num_heads, -1)).transpose(0, 1)
        for x in (taps.after[pool.q], taps.after[pool.kv].chunk(2, -1)[0])
    )
    alpha_ht = (q @ k.mT / k.shape[-1] ** 0.5).softmax(-1)[:, 0]
    behind, _ = held(own.fc_norm, taps.before[own.fc_norm][image])

    def embedding(x_td: Tensor) -> Tensor:
        values = pool.kv(normed(x_td)[-tokens:]).chunk(2, -1)[1]
        values_htk = values.unflatten(-1, (pool.num_heads, -1)).transpose(0, 1)
        return own.head(behind(pool.proj((alpha_ht[..., None] * values_htk).sum(1).flatten())))

    return embedding, alpha_ht, std[-tokens:, 0]


def frozen_coca(own: nn.Module, taps: Taps, image: int) -> Frozen:
    """Of open_clip's `AttentionalPooler`."""
    visual, pool = own.visual, own.visual.attn_pool
    attention, context = pool.attn, taps.after[pool.ln_k][image]
    normed, std = held(pool.ln_k, taps.before[pool.ln_k][image])
    _, alpha = attention(
        taps.after[pool.ln_q].flatten(0, -2), context, context, average_attn_weights=False
    )
    behind, _ = held(visual.ln_post, taps.before[visual.ln_post][image][:1])

    def embedding(x_td: Tensor) -> Tensor:
        values = normed(x_td) @ attention.v_proj_weight.T + attention.in_proj_bias.chunk(3)[2]
        values_htk = values.unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
        mixed = (alpha[:, 0, :, None] * values_htk).sum(1).flatten()
        return (behind(attention.out_proj(mixed)[None]) @ visual.proj)[0]

    return embedding, alpha[:, 0], std[:, 0]


def written(taps: Taps, last: nn.Linear, image: int) -> Tensor:
    """What each neuron writes to the stream, (neuron, token, width)."""
    return torch.einsum("tn,dn->ntd", taps.before[last][image], last.weight)


def check(
    model: VisionModel,
    taps: Taps,
    last: list[nn.Linear],
    stream: nn.Module,
    frozen: Callable[[int], Frozen],
    images: Tensor,
) -> None:
    """Every neuron of every layer, its coefficients, and their sums, image by image."""
    layers = range(len(last))
    assert model.second_order_layers == len(last)
    quantities = ("coefficients", "totals", "class_neurons", "peaks")
    run = NeuronPass(model, layers, quantities)
    parts, reads = run(images), run.tokens(images)
    torch.testing.assert_close(parts.embedding_be, taps.output, **CLOSE)
    frozens = [frozen(b) for b in range(len(images))]
    jacobians = [
        torch.func.jacrev(embedding)(taps.before[stream][b])
        for b, (embedding, _, _) in enumerate(frozens)
    ]
    for layer in layers:
        assert model.paths(layer) == [(0, head) for head in range(model.heads)]
        maps = second_order_maps(model, layer, torch.float64)
        phi_bne = maps.effects(parts.coefficients[layer], range(model.neurons))
        phi_bne = phi_bne / parts.ln_std_b[:, None, None]
        torch.testing.assert_close(parts.totals[layer], phi_bne.sum(1), **CLOSE)
        assert not parts.class_neurons[layer].any()
        assert parts.class_neurons[layer].shape == (len(images), model.neurons)
        for b, (_, alpha_ht, std_t) in enumerate(frozens):
            wanted_ne = torch.einsum("ntd,etd->ne", written(taps, last[layer], b), jacobians[b])
            torch.testing.assert_close(phi_bne[b], wanted_ne, **CLOSE)
            fired_tn = taps.before[last[layer]][b][-len(std_t) :]
            torch.testing.assert_close(reads.hidden[layer][b], fired_tn, **CLOSE)
            for head, neuron in ((0, 0), (model.heads - 1, 3)):
                s = sum(
                    float(a) * float(p) / float(sigma)
                    for a, p, sigma in zip(alpha_ht[head], fired_tn[:, neuron], std_t, strict=True)
                )
                assert float(parts.coefficients[layer][b, head, neuron]) == pytest.approx(s)


@st.composite
def pools(draw: st.DrawFn) -> dict:
    prefix = draw(st.sampled_from([False, True]))
    return {
        "img_size": [8 * draw(st.integers(1, 3)), 16],
        "patch_size": 8,
        "embed_dim": 4 * draw(st.integers(1, 3)) * 2,
        "num_heads": 2,
        "depth": draw(st.integers(1, 3)),
        "mlp_ratio": draw(st.sampled_from([1.0, 1.5])),
        "class_token": draw(st.booleans()),
        "reg_tokens": draw(st.integers(0, 2)),
        "pool_include_prefix": prefix,
        "fc_norm": draw(st.booleans()),
        "final_norm": draw(st.booleans()),
        "num_classes": draw(st.sampled_from([0, 5])),
    }


@settings(max_examples=12)
@given(shape=pools(), seed=st.integers(0, 1000))
@torch.no_grad()
def test_every_neuron_before_a_latents_pool(shape, seed):
    given = {**shape}
    config = alone("vit_base_patch16_224", "map", given.pop("num_classes"), **given)
    prefix = (shape["class_token"] + shape["reg_tokens"]) * shape["pool_include_prefix"]
    grid = (shape["img_size"][0] // 8, 2)
    model, plain = loaded(
        Member("timm-vit", config, "attention-pool", grid, prefix), timm_vit_tower
    )
    own = plain.visual
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, *shape["img_size"], generator=generator, dtype=torch.float64)
    taps = Taps(own, images)
    last = [block.mlp.fc2 for block in own.blocks]
    check(model, taps, last, own.norm, lambda b: frozen_latent(own, taps, b), images)


@torch.no_grad()
def test_every_neuron_of_a_coca_whose_effects_are_its_whole_way(tmp_path):
    member = ZOO["coca"]
    own = member.build()
    model = load_model(ModelSpec(*member.write(tmp_path, own)), dtype=torch.float64)
    own, images = own.double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    taps = Taps(own.visual, images)
    blocks = own.visual.transformer.resblocks
    last = [block.mlp.c_proj for block in blocks]
    check(model, taps, last, own.visual.attn_pool.ln_k, lambda b: frozen_coca(own, taps, b), images)
    # All that the embedding is: what blocks add to the stream, the stream as it enters, constants.
    embedding, _, _ = frozen_coca(own, taps, 0)
    torch.testing.assert_close(
        embedding(taps.before[own.visual.attn_pool.ln_k][0]), taps.output[0], **CLOSE
    )


@pytest.fixture
def siglip(tmp_path) -> VisionModel:
    member = ZOO["registers-pooled"]
    return load_model(ModelSpec(*member.write(tmp_path, member.build())), dtype=torch.float64)


def test_float32_is_float64_up_to_rounding(tmp_path, siglip):
    member, images = ZOO["registers-pooled"], pictures(siglip, 4)
    narrow = load_model(ModelSpec(*member.write(tmp_path, member.build())))
    wanted, found = (NeuronPass(model, [0, 2]) for model in (siglip, narrow))
    for layer in (0, 2):
        exact = wanted(images).coefficients[layer]
        rough = found(images.float()).coefficients[layer]
        assert rough.dtype == torch.float32
        assert (rough - exact).norm() / exact.norm() < 1e-5


def test_an_effect_of_one_layer_does_not_hang_on_which_others_are_asked_for(siglip):
    images = pictures(siglip)
    together = NeuronPass(siglip, [0, 1, 2])(images)
    for layer in range(3):
        alone = NeuronPass(siglip, [layer])(images)
        assert torch.equal(alone.coefficients[layer], together.coefficients[layer])


@torch.no_grad()
def test_indirect_effects_run_the_rest_of_the_trunk_and_the_pool(siglip):
    """Registers, which the pool does not look at, pass neurons on through later layers."""
    images, visual = pictures(siglip), siglip.visual
    visual = getattr(visual, "trunk", visual)
    for layer in (0, 2):
        effects = IndirectEffects(siglip, layer)
        assert effects.activations(images).shape[1] == siglip.tokens + 4
        none = torch.zeros_like(effects.activations(images)[0])
        single, embedding = effects(images, none, [2])
        column = visual.blocks[layer].mlp.fc2.weight[:, 2].clone()
        visual.blocks[layer].mlp.fc2.weight[:, 2] = 0
        without = siglip.module.encode_image(images)
        torch.testing.assert_close(embedding - single[:, 0], without, **CLOSE)
        visual.blocks[layer].mlp.fc2.weight[:, 2] = column
        assert not direct_map(siglip, layer).any()
    behind = direct_map(siglip, 3)  # the pool's own MLP
    np.testing.assert_allclose(behind, model_maps(siglip).pool_neuron_map)


def test_what_does_not_hold_is_refused(siglip):
    with pytest.raises(ValueError, match="MLP layer 3 is the last .* choose from 0 to 2"):
        NeuronPass(siglip, [3])
    with pytest.raises(ValueError, match="MLP layer 4 does not exist"):
        IndirectEffects(siglip, 4)
    with pytest.raises(ValueError, match=rf"neurons \[{siglip.neurons}\] do not exist"):
        NeuronPass(siglip, [1]).token_maps(pictures(siglip), 1, [siglip.neurons])
    with pytest.raises(UnsupportedModel, match="pool of .* begins another: choose `convention`"):
        second_order_maps(siglip, 0, convention="equal-share")
    parts = NeuronPass(siglip, [0], ("shifts",))(pictures(siglip))
    with pytest.raises(UnsupportedModel, match="equal-share convention"):
        equal_share_offset(siglip, 0, parts)


def test_convolutions_before_a_pool_have_no_such_neurons(tmp_path):
    member = ZOO["clip-resnet"]
    model = load_model(ModelSpec(*member.write(tmp_path, member.build())))
    with pytest.raises(FacetError, match="are convolutions: its channels are kept"):
        NeuronPass(model, [0])
