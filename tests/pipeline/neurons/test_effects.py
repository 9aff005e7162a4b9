"""First-order and indirect effects against the model itself, changed by hand."""

import numpy as np
import pytest
import torch

import pipeline.neurons.effects
from pipeline.extraction.decompose import Decomposer
from pipeline.models import model_maps
from pipeline.neurons.effects import IndirectEffects, direct_map
from pipeline.neurons.forward import NeuronPass
from pipeline.published import mlp_contributions
from tests.pipeline.neurons.forward_kit import TINY, perturbed, random_images


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return perturbed(TINY, tmp_path_factory.mktemp("model"), 0)


@torch.inference_mode()
def with_neurons_at(model, layer, images, neurons, means):
    """open_clip's own embeddings with neurons held at given activations, by a hook."""

    def hold(module, inputs, output):
        output = output.clone()
        output[..., neurons] = means[:, neurons]
        return output

    handle = model.visual.transformer.resblocks[layer].mlp.gelu.register_forward_hook(hold)
    try:
        return model.module.encode_image(images)
    finally:
        handle.remove()


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_indirect_effects_are_those_of_the_model_changed_by_hand(model, layer, monkeypatch):
    images = random_images(model, 1, 3)
    run = IndirectEffects(model, layer)
    means = run.activations(images).mean(0)
    whole = torch.zeros(model.tokens, model.mlp_width, dtype=torch.float64)
    whole[: len(means)] = means  # in the last layer only the class token counts
    monkeypatch.setattr(pipeline.neurons.effects, "_CPU_VALUES", 2 * 3 * 10 * 16)
    effects, embedding = run(images, means, [3, 0, 63, 9, 10])
    own = model.module.encode_image(images)
    torch.testing.assert_close(embedding, own, rtol=1e-10, atol=1e-12)
    for at, neuron in enumerate([3, 0, 63, 9, 10]):
        changed = with_neurons_at(model, layer, images, [neuron], whole)
        torch.testing.assert_close(effects[:, at], own - changed, rtol=1e-8, atol=1e-11)
    everything = with_neurons_at(model, layer, images, range(model.mlp_width), whole)
    torch.testing.assert_close(run.ablate_all(images, means), everything, rtol=1e-9, atol=1e-11)


def test_first_order_effects_add_up_to_the_mlps_contribution(model):
    images = random_images(model, 2, 3)
    parts, own = NeuronPass(model, [1], ("class_neurons",))(images), Decomposer(model)(images)
    maps = model_maps(model)
    std = parts.ln_std_b[:, None]
    effects = parts.class_neurons[1][:, :, None] * direct_map(model, 1) / std[:, None]
    bias = (
        model.visual.transformer.resblocks[1].mlp.c_proj.bias @ torch.from_numpy(maps.mlp_map) / std
    )
    whole = mlp_contributions(own.mlps_bsd, maps.mlp_map, own.ln_std_b)[:, 2]
    np.testing.assert_allclose(effects.sum(1) + bias, whole, rtol=1e-9, atol=1e-11)


def test_bad_input_is_refused(model):
    images = random_images(model, 3, 1)
    with pytest.raises(ValueError, match="MLP layer 4 does not exist: .* layers 0 to 3"):
        IndirectEffects(model, 4)
    with pytest.raises(ValueError, match="MLP layer -1 does not exist"):
        direct_map(model, -1)
    run = IndirectEffects(model, 1)
    means = run.activations(images).mean(0)
    with pytest.raises(ValueError, match=r"neurons \[64\] do not exist"):
        run(images, means, [64])
    with pytest.raises(ValueError, match=r"means have shape \(9, 64\); .* needs \(10, 64\)"):
        run(images, means[:-1], [0])
