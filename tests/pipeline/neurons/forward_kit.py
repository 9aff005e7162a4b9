"""Small models for the tests of second-order effects."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

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
