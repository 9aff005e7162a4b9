"""The embedded world's MAE and CNN taken apart: against the zoo's modules, and by plain loops."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.extraction.decompose import Decomposer
from pipeline.extraction.finite import first_place
from pipeline.microworld.draw import picture
from pipeline.microworld.zoo import load_zoo, prepare
from pipeline.models import ModelSpec, VisionModel, check_supported, load_model, model_maps
from pipeline.published import head_contributions, mlp_contributions
from tests.families.zoo import randomise

EXACT = {"rtol": 1e-10, "atol": 1e-10}
KINDS = ("mae", "cnn")


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    """Six pictures, uint8."""
    return torch.from_numpy(np.stack([picture(5, "test", i)[0] for i in range(6)]))


def random_model(kind: str) -> VisionModel:
    """In float64, every bias, norm and scale at work."""
    model = load_model(ModelSpec(f"microworld:{kind}", "none"), dtype=torch.float64)
    randomise(model.module, 1)
    for module in model.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            generator = torch.Generator().manual_seed(module.num_features)
            module.running_mean.normal_(generator=generator).mul_(0.3)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model


def total(model: VisionModel, parts) -> np.ndarray:
    """All contributions and constants, summed as a store's reader would."""
    maps, std = model_maps(model), parts.ln_std_b.numpy()
    whole = mlp_contributions(parts.mlps_bsd, maps.mlp_map, std).sum(1) + maps.bias
    if model.heads:
        whole += head_contributions(parts.heads_blhk, maps.head_map, std).sum((1, 2))
    if parts.bias_weights_bl is not None:
        whole += parts.bias_weights_bl.numpy() @ maps.bias_map / std[:, None]
    return whole + maps.attention_bias.sum(0) / std[:, None]


@pytest.mark.parametrize("kind", KINDS)
def test_the_trained_model_is_the_zoos(kind, drawn):
    model, zoo = load_model(ModelSpec(f"microworld:{kind}", "microworld")), load_zoo(kind)
    images = model.preprocess.to_tensor(drawn)
    torch.testing.assert_close(images, prepare(drawn.permute(0, 3, 1, 2)), rtol=0, atol=1e-6)
    parts = Decomposer(model, ("heads", "mlps") if model.heads else ("mlps",))(images)
    with torch.no_grad():
        torch.testing.assert_close(parts.embedding_be, zoo(images), rtol=1e-5, atol=1e-5)
    assert parts.residual_b.max() < 1e-5
    assert not model.has_texts


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_random_weights_sum_to_the_output(kind):
    model = random_model(kind)
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    tokens = (("heads", "mlps", "tokens"), range(4)) if model.heads else (("mlps",),)
    parts = Decomposer(model, *tokens)(images)
    with torch.no_grad():
        wanted = model.module.encode_image(images).numpy()
    np.testing.assert_allclose(parts.embedding_be, wanted, **EXACT)
    np.testing.assert_allclose(total(model, parts), wanted, **EXACT)
    assert first_place(model, images) is None


def test_the_mae_by_a_loop_over_tokens():
    model = random_model("mae")
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    parts = Decomposer(model, ("heads", "mlps", "tokens"), (1, 3))(images)
    late = Decomposer(model, ("heads", "mlps"))(images)
    torch.testing.assert_close(late.heads_blhk, parts.heads_blhk, rtol=1e-10, atol=1e-10)
    visual, maps = model.visual, model_maps(model)
    with torch.no_grad():
        x = visual.patch_embed(images) + visual.pos_embed
        streams, values, patterns, written = [], [], [], []
        for block in visual.blocks:
            normed = block.norm1(x)
            q, k, v = block.attn.qkv(normed).reshape(2, 64, 3, 4, 32).permute(2, 0, 3, 1, 4)
            patterns.append((q @ k.mT / 32**0.5).softmax(-1))
            values.append(v)
            streams.append(x)
            x = x + block.attn.proj((patterns[-1] @ v).transpose(1, 2).reshape(2, 64, 128))
            written.append(block.mlp(block.norm2(x)))
            x = x + written[-1]
        std_bt = (x.var(-1, correction=0) + visual.norm.eps).sqrt()
    assert std_bt.std() > 0.1  # another weight for every token
    for b, layer, head in ((0, 0, 0), (1, 1, 3), (0, 3, 2)):
        u, pattern, v = np.zeros(32), patterns[layer][b, head].numpy(), values[layer][b, head]
        for query in range(64):
            for at in range(64):
                u += pattern[query, at] / std_bt[b, query].item() / 64 * v[at].numpy()
        np.testing.assert_allclose(parts.heads_blhk[b, layer, head], u, **EXACT)
        block = sum(written[layer][b, t] / std_bt[b, t] / 64 for t in range(64))
        np.testing.assert_allclose(parts.mlps_bsd[b, layer + 1], block, **EXACT)
    heads = head_contributions(parts.heads_blhk, maps.head_map, parts.ln_std_b.numpy())
    np.testing.assert_allclose(parts.tokens_bte.sum(1), heads[:, [1, 3]].sum((1, 2)), **EXACT)


def test_the_cnn_by_a_loop_over_positions():
    model = random_model("cnn")
    assert (model.heads, model.layers, model.grid, model.prefix) == (0, 1, (4, 4), 0)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    parts, zoo = Decomposer(model, ("mlps",))(images), model.visual
    with torch.no_grad():
        before, after = zoo.stages(images)[-2:]
        block = zoo.layer4[0]
        shortcut = block.downsample(before)
    for b, channel in ((0, 0), (1, 100), (0, 255)):
        kept = [(y, x) for y in range(4) for x in range(4) if after[b, channel, y, x] > 0]
        start = sum(shortcut[b, channel, y, x].item() for y, x in kept) / 16
        whole = sum(after[b, channel, y, x].item() for y, x in kept) / 16
        np.testing.assert_allclose(parts.mlps_bsd[b, 0, channel], start, **EXACT)
        np.testing.assert_allclose(parts.mlps_bsd[b, 1, channel], whole - start, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_known_before_weights_are_read(kind):
    model = check_supported(ModelSpec(f"microworld:{kind}", "microworld"))
    assert model.family == f"microworld-{kind}"
    assert model.preprocess.mean == (0.5, 0.5, 0.5)
