"""Small models for the tests of second-order effects."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.special import erf, expit, softmax

from pipeline.models import ModelSpec, VisionModel, load_model
from pipeline.neurons.maps import SecondOrderMaps, gram_matrices

TEXT = {"context_length": 4, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
TINY = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 12, "patch_size": 4, "width": 16, "layers": 4, "head_width": 8},
    "text_cfg": TEXT,
}


def perturbed(
    config: dict, folder: Path, seed: int, dtype: torch.dtype = torch.float64
) -> VisionModel:
    """A random model in which every bias and LayerNorm weight matters."""
    path = folder / "model.json"
    path.write_text(json.dumps({"text_cfg": TEXT, **config}))
    model = load_model(ModelSpec(str(path), "none", seed), dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.visual.parameters():
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            value.add_(0.2 * noise.to(value.dtype))
    return model


def random_images(model: VisionModel, seed: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *model.preprocess.size, generator=generator, dtype=torch.float64)


def random_maps(
    generator: torch.Generator, paths: int, neurons: int, head_dim: int, embed: int
) -> SecondOrderMaps:
    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    values, head_map = randn(paths, neurons, head_dim), randn(paths, head_dim, embed)
    values[:, 0] = 0  # a neuron that writes nothing
    gram = gram_matrices(values, head_map)
    return SecondOrderMaps(values, head_map, gram, randn(paths, embed))


def golden_model(golden: Path, folder: Path) -> VisionModel:
    """The model of golden/second_order.npz, which runs QuickGELU."""
    state = {
        name: torch.from_numpy(np.ascontiguousarray(value))
        for name, value in np.load(golden / "small_state.npz").items()
    }
    save_file(state, folder / "w.safetensors")
    config = json.loads((golden / "small_config.json").read_text())
    (folder / "small.json").write_text(json.dumps({**config, "quick_gelu": True}))
    spec = ModelSpec(str(folder / "small.json"), str(folder / "w.safetensors"))
    return load_model(spec, dtype=torch.float64)


def oracle(model, image):
    """Streams, activations, attention and σ of one image, layer by layer, in plain NumPy."""
    w = {k: v.numpy() for k, v in model.visual.state_dict().items()}
    d, kd, eps = model.width, model.head_dim, model.visual.ln_post.eps

    def norm(x, name):
        mean, std = x.mean(-1, keepdims=True), np.sqrt(x.var(-1, keepdims=True) + eps)
        return (x - mean) / std * w[name + ".weight"] + w[name + ".bias"], std[..., 0]

    def gelu(x):
        quick = model.activation == "quickgelu"
        return x * expit(1.702 * x) if quick else x * (1 + erf(x / 2**0.5)) / 2

    p = w["conv1.weight"].shape[-1]
    patches = [
        np.einsum("dcyx,cyx->d", w["conv1.weight"], image[:, y : y + p, x : x + p])
        for y in range(0, image.shape[1], p)
        for x in range(0, image.shape[2], p)
    ]
    z, _ = norm(np.stack([w["class_embedding"], *patches]) + w["positional_embedding"], "ln_pre")
    layers = []
    for layer in range(model.layers):
        at = f"transformer.resblocks.{layer}."
        normed, std = norm(z, at + "ln_1")
        in_w, in_b = w[at + "attn.in_proj_weight"], w[at + "attn.in_proj_bias"]
        q, k, v = (normed @ in_w[i * d : i * d + d].T + in_b[i * d : i * d + d] for i in range(3))
        cuts = [slice(h * kd, h * kd + kd) for h in range(model.heads)]
        alpha = np.stack([softmax(q[:, c] @ k[:, c].T / np.sqrt(kd), axis=-1) for c in cuts])
        mixed = np.concatenate([alpha[h] @ v[:, c] for h, c in enumerate(cuts)], axis=1)
        stream, z = z, z + mixed @ w[at + "attn.out_proj.weight"].T + w[at + "attn.out_proj.bias"]
        hidden = gelu(
            norm(z, at + "ln_2")[0] @ w[at + "mlp.c_fc.weight"].T + w[at + "mlp.c_fc.bias"]
        )
        written = hidden @ w[at + "mlp.c_proj.weight"].T
        z = z + written + w[at + "mlp.c_proj.bias"]
        layers.append(SimpleNamespace(
            at=at, alpha=alpha[:, 0], std=std, stream=stream, hidden=hidden, written=written,
            w_v=in_w[2 * d :].reshape(model.heads, kd, d), b_v=in_b[2 * d :].reshape(-1, kd),
            w_o=w[at + "attn.out_proj.weight"].reshape(d, model.heads, kd),
            gamma=w[at + "ln_1.weight"], beta=w[at + "ln_1.bias"],
            w_n=w[at + "mlp.c_proj.weight"], b_n=w[at + "mlp.c_proj.bias"],
        ))  # fmt: skip
    final_std = np.sqrt(z[0].var() + eps)
    joint = (w["ln_post.weight"][:, None] * w["proj"]) / final_std
    joint = joint - joint.mean(0)  # the last LayerNorm's centring
    return SimpleNamespace(layers=layers, joint=joint, std=final_std)
