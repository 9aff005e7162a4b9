"""The decomposition, against the equations written out and against open_clip itself."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.special import erf, expit, softmax

from pipeline.extraction.decompose import Decomposer
from pipeline.models import ModelSpec, load_model, mean_maps, model_maps
from pipeline.published import (
    attention_bias_contributions,
    equal_share,
    head_contributions,
    mlp_contributions,
)

TEXT = {"context_length": 4, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("configs")


@st.composite
def shapes(draw):
    head_width = draw(st.sampled_from([4, 8, 12]))
    patch = draw(st.sampled_from([4, 6]))
    return {
        "embed_dim": draw(st.integers(3, 20)),
        "vision_cfg": {
            "patch_size": patch,
            "image_size": [patch * draw(st.integers(1, 3)), patch * draw(st.integers(1, 3))],
            "head_width": head_width,
            "width": head_width * draw(st.integers(1, 4)),
            "layers": draw(st.integers(1, 4)),
            "mlp_ratio": draw(st.sampled_from([2.0, 4.0])),
            "no_ln_pre": draw(st.booleans()),
            "final_ln_after_pool": draw(st.booleans()),
            "patch_dropout": draw(st.sampled_from([0.0, 0.5])),
            "norm_kwargs": draw(st.sampled_from([None, {"eps": 1e-3}])),
        },
        "text_cfg": TEXT,
        "quick_gelu": draw(st.booleans()),
    }


def perturbed(config, folder, seed, dtype=torch.float64, noise=0.2):
    """A random model in which every bias and LayerNorm weight matters."""
    path = folder / "model.json"
    path.write_text(json.dumps(config))
    model = load_model(ModelSpec(str(path), "none", seed), dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.visual.parameters():
            value.add_(noise * torch.randn(value.shape, generator=generator).to(value.dtype))
    return model


def random_images(model, seed, count=2):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, *model.preprocess.size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def oracle(model, image):
    """Every part of one image from the equations: one head, one token at a time."""
    w = {k: v.numpy() for k, v in model.visual.state_dict().items()}
    eps = model.visual.ln_post.eps
    d, kd, act = model.width, model.head_dim, model.activation

    def norm(x, name):
        if f"{name}.weight" not in w:
            return x
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def gelu(x):
        return x * expit(1.702 * x) if act == "quickgelu" else x * (1 + erf(x / 2**0.5)) / 2

    p = w["conv1.weight"].shape[-1]
    patches = [
        np.einsum("dcyx,cyx->d", w["conv1.weight"], image[:, y : y + p, x : x + p])
        for y in range(0, image.shape[1], p)
        for x in range(0, image.shape[2], p)
    ]
    z = norm(np.stack([w["class_embedding"], *patches]) + w["positional_embedding"], "ln_pre")
    u = np.zeros((model.layers, model.heads, kd))
    values = np.zeros((model.layers, model.tokens, model.heads, kd))
    mlps = [z[0].copy()]
    for layer in range(model.layers):
        at = f"transformer.resblocks.{layer}."
        normed = norm(z, at + "ln_1")
        in_w, in_b = w[at + "attn.in_proj_weight"], w[at + "attn.in_proj_bias"]
        q, k, v = (normed @ in_w[i * d : i * d + d].T + in_b[i * d : i * d + d] for i in range(3))
        written = np.tile(w[at + "attn.out_proj.bias"], (model.tokens, 1))
        for head in range(model.heads):
            cut = slice(head * kd, head * kd + kd)
            alpha = softmax(q[:, cut] @ k[:, cut].T / np.sqrt(kd), axis=-1)
            for token in range(model.tokens):
                values[layer, token, head] = alpha[0, token] * v[token, cut]
                u[layer, head] += values[layer, token, head]
            written += alpha @ v[:, cut] @ w[at + "attn.out_proj.weight"][:, cut].T
        z = z + written
        hidden = gelu(norm(z, at + "ln_2") @ w[at + "mlp.c_fc.weight"].T + w[at + "mlp.c_fc.bias"])
        mlp = hidden @ w[at + "mlp.c_proj.weight"].T + w[at + "mlp.c_proj.bias"]
        mlps.append(mlp[0])
        z = z + mlp
    std = np.sqrt(z[0].var() + eps)

    def joint(vector):
        return w["proj"].T @ (w["ln_post.weight"] * (vector - vector.mean())) / std

    def out(layer, head, vector):
        weight = w[f"transformer.resblocks.{layer}.attn.out_proj.weight"]
        return joint(weight[:, head * kd : head * kd + kd] @ vector)

    each = [(layer, head) for layer in range(model.layers) for head in range(model.heads)]
    biases = [w[f"transformer.resblocks.{i}.attn.out_proj.bias"] for i in range(model.layers)]
    return SimpleNamespace(
        u=u,
        mlps=np.stack(mlps),
        std=std,
        heads=np.stack([out(i, h, u[i, h]) for i, h in each]).reshape(*u.shape[:2], -1),
        mlp_contributions=np.stack([joint(m) for m in mlps]),
        attention_bias=np.stack([joint(b) for b in biases]),
        bias=w["proj"].T @ w["ln_post.bias"],
        values=values,
        token=lambda layer, head, i: out(layer, head, values[layer, i, head]),
    )


@settings(max_examples=25)
@given(config=shapes(), seed=st.integers(0, 1000), data=st.data())
def test_every_part_equals_the_equations(folder, config, seed, data):
    model = perturbed(config, folder, seed)
    chosen = data.draw(st.sets(st.integers(0, model.layers - 1), min_size=1))
    decomposer = Decomposer(model, ("heads", "mlps", "tokens"), sorted(chosen))
    images = random_images(model, seed)
    parts, maps = decomposer(images), model_maps(model)
    u, mlps, std = (t.numpy() for t in (parts.heads_blhk, parts.mlps_bsd, parts.ln_std_b))
    heads = head_contributions(u, maps.head_map, std)
    blocks = mlp_contributions(mlps, maps.mlp_map, std)
    biases = attention_bias_contributions(maps.attention_bias, std)
    truths = [oracle(model, image) for image in images.numpy()]
    layers = sorted(chosen)
    values = np.stack([truth.values[layers] for truth in truths])
    by_token = head_contributions(values, maps.head_map[layers], std)
    close = {"rtol": 1e-9, "atol": 1e-10}
    for b, truth in enumerate(truths):
        np.testing.assert_allclose(u[b], truth.u, **close)
        np.testing.assert_allclose(mlps[b], truth.mlps, **close)
        np.testing.assert_allclose(std[b], truth.std, **close)
        np.testing.assert_allclose(heads[b], truth.heads, **close)
        np.testing.assert_allclose(blocks[b], truth.mlp_contributions, **close)
        np.testing.assert_allclose(biases[b], truth.attention_bias, **close)
        np.testing.assert_allclose(maps.bias, truth.bias, **close)
        for i in range(model.tokens):
            each = [[truth.token(la, h, i) for h in range(model.heads)] for la in layers]
            np.testing.assert_allclose(by_token[b, :, i], each, **close)
            np.testing.assert_allclose(parts.tokens_bte[b, i], np.sum(each, (0, 1)), **close)
    np.testing.assert_allclose(parts.tokens_bte.sum(1), heads[:, layers].sum((1, 2)), **close)


@settings(max_examples=25)
@given(config=shapes(), seed=st.integers(0, 1000))
def test_contributions_sum_to_what_open_clip_gives(folder, config, seed):
    model = perturbed(config, folder, seed)
    images = random_images(model, seed)
    parts, maps = Decomposer(model)(images), model_maps(model)
    u, mlps, std = (t.numpy() for t in (parts.heads_blhk, parts.mlps_bsd, parts.ln_std_b))
    total = (
        head_contributions(u, maps.head_map, std).sum((1, 2))
        + mlp_contributions(mlps, maps.mlp_map, std).sum(1)
        + attention_bias_contributions(maps.attention_bias, std).sum(1)
        + maps.bias
    )
    with torch.inference_mode():
        embedding = model.module.encode_image(images).numpy()
    scale = np.linalg.norm(embedding, axis=1, keepdims=True)
    assert (np.abs(total - embedding) / scale).max() < 1e-10
    assert (np.abs(parts.embedding_be.numpy() - embedding) / scale).max() < 1e-10
    assert parts.residual_b.max() < 1e-12
    shared_heads, shared_mlps = equal_share(u, mlps, std, maps, mean_maps(model))
    total = shared_heads.sum((1, 2)) + shared_mlps.sum(1)
    assert (np.abs(total - embedding) / scale).max() < 1e-10


SMALL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 96, "layers": 4, "head_width": 32},
    "text_cfg": TEXT,
}


@pytest.mark.parametrize(
    ("dtype", "bar", "off"),
    [(torch.float32, 1e-5, 1e-5), (torch.bfloat16, 2e-2, 5e-2), (torch.float16, 2e-3, 1e-2)],
)
def test_residual_and_embedding_by_precision(folder, dtype, bar, off):
    model = perturbed(SMALL, folder, 0, dtype, noise=0.05)
    images = random_images(model, 1, 8).float()
    decomposer = Decomposer(model, token_layers=(2, 3))
    parts = decomposer(images)
    assert all(
        t.dtype == torch.float32
        for t in (parts.heads_blhk, parts.mlps_bsd, parts.embedding_be, parts.tokens_bte)
    )
    assert parts.residual_b.max() < bar
    with torch.inference_mode():
        embedding = model.module.encode_image(images)
    error = (parts.embedding_be - embedding).norm(dim=1) / embedding.norm(dim=1)
    assert error.max() < off
    maps = model_maps(model)
    heads = head_contributions(parts.heads_blhk, maps.head_map, parts.ln_std_b)[:, 2:].sum((1, 2))
    gap = np.linalg.norm(parts.tokens_bte.sum(1).numpy() - heads, axis=1) / np.linalg.norm(
        heads, axis=1
    )
    assert gap.max() < bar


def test_rounding_is_the_residual_of_what_a_store_keeps(folder):
    model = perturbed(SMALL, folder, 0)
    images, maps = random_images(model, 1), model_maps(model)
    parts = Decomposer(model, stored=torch.float64)(images)
    assert torch.equal(parts.rounding_b, parts.residual_b)
    parts = Decomposer(model, stored=torch.float16)(images)
    std, embedding = parts.ln_std_b, parts.embedding_be.numpy()
    u, mlps = parts.heads_blhk.half().double(), parts.mlps_bsd.half().double()
    total = (
        head_contributions(u, maps.head_map, std).sum((1, 2))
        + mlp_contributions(mlps, maps.mlp_map, std).sum(1)
        + attention_bias_contributions(maps.attention_bias, std).sum(1)
        + maps.bias
    )
    wanted = np.linalg.norm(total - embedding, axis=1) / np.linalg.norm(embedding, axis=1)
    np.testing.assert_allclose(parts.rounding_b, wanted, rtol=1e-6)
    assert 1e-6 < parts.rounding_b.max() < 1e-2


def test_residual_tells_of_a_wrong_part(folder):
    """Were a head's output not what the maps assume, the residual would be the difference."""
    model = perturbed(SMALL, folder, 0)
    decomposer, maps = Decomposer(model), model_maps(model)
    images = random_images(model, 1)
    assert decomposer(images).residual_b.max() < 1e-12
    before = 0.0
    for size in (1e-4, 1e-2):
        with torch.no_grad():
            model.visual.transformer.resblocks[1].attn.out_proj.weight[:, :32] += size
            model.visual.transformer.resblocks[1].attn.out_proj.weight[0, :32] += size
        parts = decomposer(images)
        std = parts.ln_std_b
        total = (
            head_contributions(parts.heads_blhk, maps.head_map, std).sum((1, 2))
            + mlp_contributions(parts.mlps_bsd, maps.mlp_map, std).sum(1)
            + attention_bias_contributions(maps.attention_bias, std).sum(1)
            + maps.bias
        )
        embedding = parts.embedding_be.numpy()
        wanted = np.linalg.norm(total - embedding, axis=1) / np.linalg.norm(embedding, axis=1)
        np.testing.assert_allclose(parts.residual_b, wanted, rtol=1e-6)
        assert parts.residual_b.min() > max(1e-8, 10 * before)
        before = parts.residual_b.max().item()


def test_only_what_was_asked_for(folder):
    model = perturbed(SMALL, folder, 0, torch.float32)
    parts = Decomposer(model, ("mlps",))(random_images(model, 0))
    assert parts.heads_blhk is None
    assert parts.tokens_bte is None
    assert parts.mlps_bsd.shape == (2, 5, 96)
    with pytest.raises(ValueError, match=r"\['neurons'\] are none of heads, mlps, tokens"):
        Decomposer(model, ("neurons",))
    with pytest.raises(ValueError, match=r"layers \[4\] do not exist: .* has layers 0 to 3"):
        Decomposer(model, token_layers=(3, 4))
    with pytest.raises(ValueError, match="'tokens' needs token_layers"):
        Decomposer(model, ("tokens",))
    with pytest.raises(ValueError, match=r"takes \(batch, 3, 64, 64\): prepare them"):
        Decomposer(model)(torch.zeros(1, 3, 32, 32))


def test_equal_share_matches_the_published_numbers(shared, tmp_path):
    """golden/heads.npz: outputs of the published implementation, float64."""
    state = {
        name: torch.from_numpy(np.asarray(value))
        for name, value in np.load(shared / "golden/small_state.npz").items()
    }
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "w.safetensors")
    config = tmp_path / "small.json"
    config.write_text((shared / "golden/small_config.json").read_text())
    spec = ModelSpec(str(config), str(tmp_path / "w.safetensors"))
    model = load_model(spec, dtype=torch.float64)
    golden = np.load(shared / "golden/heads.npz")
    maps, means = model_maps(model), mean_maps(model)
    decomposer = Decomposer(model, token_layers=range(model.layers))
    images = torch.from_numpy(golden["images"])
    parts = decomposer(images)
    u, mlps, std = (t.numpy() for t in (parts.heads_blhk, parts.mlps_bsd, parts.ln_std_b))
    norm = np.linalg.norm(parts.embedding_be, axis=1)
    close = {"rtol": 1e-9, "atol": 1e-10}
    np.testing.assert_allclose(parts.embedding_be, golden["embedding"], **close)
    np.testing.assert_allclose(u, golden["u"], **close)
    np.testing.assert_allclose(mlps, golden["mlp_raw"], **close)
    np.testing.assert_allclose(std, golden["post_std"], **close)
    np.testing.assert_allclose(norm, golden["norm"], **close)
    heads, blocks = equal_share(u, mlps, std, maps, means)
    np.testing.assert_allclose(heads / norm[:, None, None, None], golden["attn"], **close)
    np.testing.assert_allclose(blocks / norm[:, None, None], golden["mlp"], **close)
    values = np.stack([oracle(model, image).values for image in golden["images"]])
    full, blocks = equal_share(values, mlps, std, maps, means)
    full /= norm[:, None, None, None, None]
    np.testing.assert_allclose(blocks / norm[:, None, None], golden["mlp"], **close)
    np.testing.assert_allclose(full, golden["full"], rtol=1e-4, atol=1e-6)  # kept as float32
    np.testing.assert_allclose(full[:, :, 0].sum(2), golden["cls_attn"], **close)
    np.testing.assert_allclose(full.sum((1, 3)), golden["tokens"], **close)
