"""CoCa: the attention pool over open_clip's own ViT, and what a configuration may say."""

import pytest
import torch

from pipeline.extraction.decompose import Decomposer
from pipeline.models import ModelSpec, UnsupportedModel, check_supported, load_model, model_maps
from tests import tiny
from tests.families.zoo import ZOO, Member, open_clip, randomise

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def of(folder, member, **kwargs):
    own = member.build()
    return load_model(ModelSpec(*member.write(folder, own)), **kwargs), own.double()


def pictures(count=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 32, 32, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("embed", [20, 48])  # another width than the tokens', and the same
@torch.no_grad()
def test_its_parts_sum_to_its_output_which_is_not_normalised(tmp_path, embed):
    config = {**ZOO["coca"].config, "embed_dim": embed}
    member = Member("coca", config, "attention-pool")
    model, own = of(tmp_path, member, dtype=torch.float64)
    images = pictures()
    wanted = own.encode_image(images, normalize=False)
    parts = Decomposer(model, ("heads", "mlps", "tokens"), [0])(images)
    torch.testing.assert_close(parts.embedding_be, wanted, **EXACT)
    torch.testing.assert_close(model.module.encode_image(images), wanted, **EXACT)
    unit = own.encode_image(images)
    torch.testing.assert_close(model.module.encode_image(images, normalize=True), unit, **EXACT)
    assert float(parts.residual_b.max()) < 1e-11
    assert not parts.mlps_bsd.any()
    head_map = torch.from_numpy(model_maps(model).head_map)
    heads = torch.einsum("blhk,lhke->be", parts.heads_blhk, head_map) / parts.ln_std_b[:, None]
    torch.testing.assert_close(parts.tokens_bte.sum(1), heads, **EXACT)
    narrow, _ = of(tmp_path, member)
    assert float(Decomposer(narrow)(images.float()).residual_b.max()) < 1e-5


def test_without_its_pool_it_is_read_at_the_class_token():
    found = check_supported(ModelSpec("coca_base", "none"))
    assert (found.family, found.reading, found.layers) == ("coca", "class-token", 12)
    pooled = check_supported(ModelSpec("coca_ViT-L-14", "none"))
    assert (pooled.reading, pooled.layers, pooled.heads, pooled.width) == (
        "attention-pool", 1, 8, 768,
    )  # fmt: skip
    assert (pooled.head_dim, pooled.mlp_width, pooled.tokens) == (96, 0, 257)
    assert check_supported(ModelSpec("coca_roberta-ViT-B-32", "none")).family == "coca"


@torch.no_grad()
def test_a_clip_may_pool_so_too(tmp_path):
    config = open_clip({"attentional_pool": True, "attn_pooler_heads": 4, "qk_norm": True})
    member = Member("coca", config, "attention-pool")
    model, own = of(tmp_path, member, dtype=torch.float64)
    assert model.family == "coca"
    wanted = own.encode_image(pictures())
    torch.testing.assert_close(Decomposer(model)(pictures()).embedding_be, wanted, **EXACT)


@pytest.mark.parametrize(
    ("vision", "words"),
    [
        ({"attentional_pool": "parallel"}, "'parallel' pools are unfinished in open_clip"),
        ({"attentional_pool": "cascade"}, "'cascade' pools are unfinished in open_clip"),
        ({"attentional_pool": True, "pool_type": "avg"}, "averages its pool's queries"),
        ({"attentional_pool": True, "attn_pooler_heads": 7}, "24 does not divide into .* 7"),
    ],
)
def test_what_is_no_single_row_is_refused(tmp_path, vision, words):
    path = tiny.write_config(tmp_path, tiny.tiny(vision))
    with pytest.raises(UnsupportedModel, match=words):
        check_supported(ModelSpec(path, "none"))


@torch.no_grad()
def test_open_clips_parallel_pool_gives_no_row():
    vision = {"attentional_pool": "parallel", "attn_pooler_heads": 4, "attn_pooler_queries": 3}
    own = Member("", {**open_clip(vision), "embed_dim": 48}, "").build()
    assert randomise(own, 1).double().encode_image(pictures()).shape == (3, 1, 48)
