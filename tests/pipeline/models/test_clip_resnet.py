"""CLIP's ResNets: heads of the pool, told pixel by pixel and channel by channel."""

import pytest
import torch

from pipeline.extraction.decompose import Decomposer
from pipeline.models import ModelSpec, UnsupportedModel, check_supported, load_model, model_maps
from tests import tiny
from tests.families.zoo import Member, open_clip

EXACT = {"rtol": 1e-10, "atol": 1e-10}
CONFIG = open_clip({"layers": [1, 2, 1, 1], "width": 4, "head_width": 32, "image_size": 96})
MEMBER = Member("clip-resnet", CONFIG, "attention-pool", grid=(3, 3))


def pictures(count=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 96, 96, generator=generator, dtype=torch.float64)


@pytest.fixture
def files(tmp_path):
    own = MEMBER.build()
    return ModelSpec(*MEMBER.write(tmp_path, own)), own.double()


@torch.no_grad()
def test_its_parts_sum_to_its_output(files):
    asked, own = files
    model, images = load_model(asked, dtype=torch.float64), pictures()
    assert (model.heads, model.head_dim, model.tokens, model.mlp_width) == (4, 32, 10, 0)
    wanted = own.encode_image(images)
    parts = Decomposer(model, ("heads", "mlps", "tokens"), [0])(images)
    torch.testing.assert_close(parts.embedding_be, wanted, **EXACT)
    assert float(parts.residual_b.max()) < 1e-11
    assert not parts.mlps_bsd.any()
    assert (parts.ln_std_b == 1).all()
    maps = model_maps(model)
    heads = torch.einsum("blhk,lhke->be", parts.heads_blhk, torch.from_numpy(maps.head_map))
    torch.testing.assert_close(heads + own.visual.attnpool.c_proj.bias, wanted, **EXACT)
    torch.testing.assert_close(parts.tokens_bte.sum(1), heads, **EXACT)
    narrow = Decomposer(load_model(asked))(images.float())
    assert float(narrow.residual_b.max()) < 1e-5


@torch.no_grad()
def test_a_pixels_row_is_the_pool_with_that_pixel_gone_from_its_values(files):
    """Patterns as they are, the values of one pixel nothing, and its share of the mean, too."""
    asked, own = files
    model, images = load_model(asked, dtype=torch.float64), pictures(2)
    parts = Decomposer(model, ("tokens",), [0])(images)
    visual, pool = own.visual, own.visual.attnpool
    x = visual.stem(images)
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = stage(x)
    pixels = x.flatten(2).permute(2, 0, 1)

    def pooled(values_of):
        """open_clip's pool with values of its own made of other pixels."""
        tokens, others = (
            torch.cat([y.mean(0, keepdim=True), y]) + pool.positional_embedding[:, None]
            for y in (pixels, values_of)
        )
        biases = [part.bias for part in (pool.q_proj, pool.k_proj, pool.v_proj)]
        found, _ = torch.nn.functional.multi_head_attention_forward(
            tokens, tokens, others, tokens.shape[-1], pool.num_heads, None, torch.cat(biases),
            None, None, False, 0.0, pool.c_proj.weight, pool.c_proj.bias, False,
            need_weights=False, use_separate_proj_weight=True, q_proj_weight=pool.q_proj.weight,
            k_proj_weight=pool.k_proj.weight, v_proj_weight=pool.v_proj.weight,
        )  # fmt: skip
        return found[0]

    whole = pooled(pixels)
    torch.testing.assert_close(whole, own.encode_image(images), **EXACT)
    for pixel in range(9):
        without = pixels.clone()
        without[pixel] = 0
        torch.testing.assert_close(parts.tokens_bte[:, 1 + pixel], whole - pooled(without), **EXACT)
    none = pooled(torch.zeros_like(pixels)) - pool.c_proj.bias
    torch.testing.assert_close(parts.tokens_bte[:, 0], none, **EXACT)


@torch.no_grad()
def test_channels_sum_to_heads_and_to_pixels(files):
    asked, own = files
    model, images = load_model(asked, dtype=torch.float64), pictures(2)
    tower, pool = model.tower(), own.visual.attnpool
    x_btd = tower.enter(images)
    (block,) = tower.blocks
    attention = block.attention(x_btd)
    channels_bhc = attention.pattern() @ attention.channels_btc
    map_hck = torch.from_numpy(block.weights.value_hkd).transpose(1, 2)
    assert channels_bhc.shape == (2, 4, 128)
    assert map_hck.shape == (4, 128, 32)
    # One at a time, of the library's own parameters.
    pixels = x_btd[:, 1:]
    tokens = torch.cat([pixels.mean(1, keepdim=True), pixels], 1) + pool.positional_embedding
    for head in range(4):
        rows = slice(32 * head, 32 * head + 32)
        q = tokens[:, 0] @ pool.q_proj.weight[rows].T + pool.q_proj.bias[rows]
        k = tokens @ pool.k_proj.weight[rows].T + pool.k_proj.bias[rows]
        alpha = (torch.einsum("bk,btk->bt", q, k) / 32**0.5).softmax(1)
        wanted = torch.zeros(2, 128, dtype=torch.float64)
        for t in range(9):
            wanted += (alpha[:, 1 + t] + alpha[:, 0] / 9)[:, None] * pixels[:, t]
        torch.testing.assert_close(channels_bhc[:, head], wanted, **EXACT)
        torch.testing.assert_close(map_hck[head], pool.v_proj.weight[rows].T, **EXACT)
    first = attention.values[:, :, 0]  # positions and bias
    u_bhk = torch.einsum("bhc,hck->bhk", channels_bhc, map_hck) + first
    parts = Decomposer(model)(images)
    torch.testing.assert_close(u_bhk, parts.heads_blhk[:, 0], **EXACT)
    # Pixel by pixel: the same numbers before they are summed.
    maps_bhtc = attention.pattern()[:, :, 1:, None] * pixels[:, None]
    torch.testing.assert_close(maps_bhtc.sum(2), channels_bhc, **EXACT)
    written = torch.einsum("bhtc,hck->bthk", maps_bhtc, map_hck).flatten(2)
    torch.testing.assert_close(written, attention.weighted_values()[:, 1:], **EXACT)


def test_what_channels_take():
    """RN50x16's 1,000 images: 0.3 GB in float16, where every pair's vector in float32 takes 450."""
    found = check_supported(ModelSpec("RN50x16", "none"))
    channels = found.heads * found.head_dim
    numbers = 1000 * found.heads * channels
    assert (found.heads, channels, found.embed_dim, found.grid) == (48, 3072, 768, (12, 12))
    assert numbers * 2 / 1e9 == pytest.approx(0.295, abs=1e-3)
    assert numbers * found.embed_dim * 4 / 1e9 == pytest.approx(453, abs=1)


@pytest.mark.parametrize(
    ("vision", "words"),
    [
        ({"image_size": [64, 96]}, "is no square's side"),
        ({"image_size": 255}, "255 does not fit its pool"),
        ({"head_width": 40}, "128 channels do not divide into heads of head_width 40"),
    ],
)
def test_what_its_pool_does_not_take_is_refused(tmp_path, vision, words):
    config = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], **vision}}
    with pytest.raises(UnsupportedModel, match=words):
        check_supported(ModelSpec(tiny.write_config(tmp_path, config), "none"))
