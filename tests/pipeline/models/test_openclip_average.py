"""open_clip's own ViTs that average their patches, and their further blocks."""

import copy

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from pipeline.extraction.decompose import Decomposer
from pipeline.models import ModelSpec, UnsupportedModel, check_supported, load_model, model_maps
from pipeline.models.spec import count_parameters
from pipeline.models.supported import supported_models
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.maps import second_order_maps
from tests import tiny
from tests.families.zoo import randomise

EXACT = {"rtol": 1e-10, "atol": 1e-10}
AVERAGE = {"pool_type": "avg"}
AFTER = {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True}
FURTHER = {"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_fc": True}


def of(folder, vision, **top):
    """A model of random weights, and open_clip's own module with the same."""
    config = tiny.tiny({"layers": 2, **vision}, tiny.FEW_WORDS, **top)
    own = randomise(open_clip.CLIP(**config), 3).eval()
    save_file(own.state_dict(), folder / "weights.safetensors")
    asked = ModelSpec(tiny.write_config(folder, config), str(folder / "weights.safetensors"))
    return asked, own.double()


def pictures(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 32, 32, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("vision", "reading"),
    [
        (AVERAGE, "mean-of-normed"),
        (AFTER, "mean"),
        ({**AVERAGE, "ls_init_value": 0.1, "norm_kwargs": {"bias": False}}, "mean-of-normed"),
        (FURTHER, "class-token"),
        ({**FURTHER, **AFTER, "norm_kwargs": {"elementwise_affine": False}}, "mean"),
        ({**FURTHER, **AVERAGE}, "mean-of-normed"),
        ({"scale_heads": True, "ls_init_value": 0.1}, "class-token"),
    ],
)
@torch.no_grad()
def test_its_parts_sum_to_its_output(tmp_path, vision, reading):
    asked, own = of(tmp_path, vision)
    model, images = load_model(asked, dtype=torch.float64), pictures()
    assert (model.reading, model.varying_bias) == (reading, reading == "mean-of-normed")
    assert count_parameters(model) == sum(p.numel() for p in own.parameters())
    wanted = own.encode_image(images)
    parts = Decomposer(model, ("heads", "mlps", "tokens"), range(model.layers))(images)
    torch.testing.assert_close(parts.embedding_be, wanted, **EXACT)
    assert float(parts.residual_b.max()) < 1e-11
    torch.testing.assert_close(model.module.encode_image(images), wanted, **EXACT)
    without = Decomposer(model)(images)  # of what is read late, the way of one pass
    torch.testing.assert_close(without.heads_blhk, parts.heads_blhk, **EXACT)
    torch.testing.assert_close(without.mlps_bsd, parts.mlps_bsd, **EXACT)
    head_map = torch.from_numpy(model_maps(model).head_map)
    heads = torch.einsum("blhk,lhke->be", parts.heads_blhk, head_map) / parts.ln_std_b[:, None]
    torch.testing.assert_close(parts.tokens_bte.sum(1), heads, **EXACT)
    narrow = Decomposer(load_model(asked))(images.float())
    assert float(narrow.residual_b.max()) < 1e-5
    run = NeuronPass(model, [0], ("coefficients", "totals"))
    found = run(images)
    total = second_order_maps(model, 0, torch.float64).total(found.coefficients[0])
    torch.testing.assert_close(total / found.ln_std_b[:, None], found.totals[0], **EXACT)


@pytest.mark.parametrize("vision", [AVERAGE, AFTER, {**FURTHER, **AVERAGE}])
@torch.no_grad()
def test_single_terms_are_those_of_a_loop_over_open_clips_own_forward(tmp_path, vision):
    asked, own = of(tmp_path, vision)
    model, images = load_model(asked, dtype=torch.float64), pictures(2, 1)
    parts, maps = Decomposer(model)(images), model_maps(model)
    visual, gathered = own.visual, {}  # by layer: what heads gather, before all that is linear
    for layer, block in enumerate(visual.transformer.resblocks):
        if hasattr(block.attn, "ln_inner"):
            block.attn.ln_inner.register_forward_pre_hook(
                lambda _, x, layer=layer: gathered.update({layer: x[0]})
            )
        else:
            bare = copy.deepcopy(block.attn)
            bare.out_proj.weight.copy_(torch.eye(model.width))
            bare.out_proj.bias.zero_()
            block.ln_1.register_forward_hook(
                lambda _, __, y, bare=bare, layer=layer: gathered.update({layer: bare(y, y, y)[0]})
            )
    last = []
    visual.transformer.register_forward_hook(lambda _, __, y: last.append(y))
    own.encode_image(images)
    norm, x_btd = visual.ln_post, last[0]
    for layer, head in ((0, 1), (1, 2)):
        attn = visual.transformer.resblocks[layer].attn
        own_slice = torch.zeros(model.width, dtype=torch.float64)
        own_slice[head * model.head_dim : (head + 1) * model.head_dim] = 1
        for i in range(len(images)):
            wanted = torch.zeros(model.embed_dim, dtype=torch.float64)
            for t in range(1, model.tokens):
                whole, inner = gathered[layer][i, t], getattr(attn, "ln_inner", None)
                head_d = whole * own_slice
                if inner is not None:
                    std = (whole.var(correction=0) + inner.eps).sqrt()
                    head_d = inner.weight * (head_d - head_d.mean()) / std
                written = attn.out_proj.weight @ head_d
                read = x_btd[i, 1:].mean(0) if model.reading == "mean" else x_btd[i, t]
                std = (read.var(correction=0) + norm.eps).sqrt()
                wanted += norm.weight * (written - written.mean()) / std @ visual.proj
            got = parts.heads_blhk[i, layer, head] @ torch.from_numpy(maps.head_map[layer, head])
            wanted /= model.tokens - 1
            torch.testing.assert_close(got / parts.ln_std_b[i], wanted, **EXACT)


def test_clipa_is_taken_and_what_cannot_be_is_refused(tmp_path):
    assert {"ViT-H-14-CLIPA", "ViT-bigG-14-CLIPA-336", "roberta-ViT-B-32"} <= set(
        supported_models()
    )
    found = check_supported(ModelSpec("ViT-bigG-14-CLIPA", "none"))
    assert (found.reading, found.prefix, found.layers) == ("mean", 1, 48)
    for vision, words in (
        ({"scale_attn": True}, "norm what their attention writes"),
        ({"scaled_cosine_attn": True}, "does not run in open_clip itself"),
        ({"pool_type": "none"}, "does not pool"),
    ):
        path = tiny.write_config(tmp_path, tiny.tiny(vision))
        with pytest.raises(UnsupportedModel, match=words):
            check_supported(ModelSpec(path, "none"))


def test_open_clip_cannot_run_scaled_cosine_attention():
    config = tiny.tiny({"scaled_cosine_attn": True}, tiny.FEW_WORDS)
    with pytest.raises(RuntimeError, match="batch1 must be a 3D tensor"):
        open_clip.CLIP(**config).encode_image(torch.zeros(1, 3, 32, 32))
