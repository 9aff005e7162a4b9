"""Second-order effects against Gandelsman 2025, Eq. 3.3 and B.5, written out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.extraction.decompose import Decomposer
from pipeline.neurons.equal_share import equal_share_offset
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.maps import published_scale, second_order_maps
from tests.pipeline.neurons.forward_kit import (
    TINY,
    golden_model,
    oracle,
    perturbed,
    random_images,
)

CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def every_effect(model, truth, mlp_layer):
    """φ (neuron, embed) by Eq. 3.3 with the A of B.5: one einsum a path, no factoring."""
    own = truth.layers[mlp_layer]
    total = np.zeros((model.mlp_width, model.embed_dim))
    for later in truth.layers[mlp_layer + 1 :]:
        for head in range(model.heads):
            scaled = later.gamma[:, None] * (own.w_n - own.w_n.mean(0))
            vectors = np.einsum(
                "de,dk,kc,cn->ne", truth.joint, later.w_o[:, head], later.w_v[head], scaled
            )
            weights = later.alpha[head] / later.std
            total += np.einsum("tn,t,ne->ne", own.hidden, weights, vectors)
    return total


def removed_from_values(model, truth, mlp_layer):
    """Change of the output when the MLP's output leaves the later values' inputs.

    Attention and the divisors of the normalisations stay as they were.
    """
    change = np.zeros(model.embed_dim)
    own = truth.layers[mlp_layer]
    for later in truth.layers[mlp_layer + 1 :]:
        for head in range(model.heads):
            outputs = []
            for stream in (later.stream, later.stream - own.written - own.b_n):
                centred = stream - stream.mean(-1, keepdims=True)
                normed = centred / later.std[:, None] * later.gamma + later.beta
                values = normed @ later.w_v[head].T + later.b_v[head]
                outputs.append(later.w_o[:, head] @ (later.alpha[head] @ values))
            change += (outputs[0] - outputs[1]) @ truth.joint
    return change


@st.composite
def shapes(draw):
    head_width, patch = draw(st.sampled_from([4, 8])), draw(st.sampled_from([4, 6]))
    return {
        "embed_dim": draw(st.integers(3, 16)),
        "vision_cfg": {
            "patch_size": patch,
            "image_size": [patch * draw(st.integers(1, 3)), patch * draw(st.integers(1, 3))],
            "head_width": head_width,
            "width": head_width * draw(st.integers(1, 3)),
            "layers": draw(st.integers(2, 4)),
            "mlp_ratio": draw(st.sampled_from([2.0, 4.0])),
        },
        "quick_gelu": draw(st.booleans()),
    }


@settings(max_examples=15)
@given(config=shapes(), seed=st.integers(0, 1000))
def test_every_neuron_equals_the_equations(tmp_path_factory, config, seed):
    model = perturbed(config, tmp_path_factory.mktemp("model"), seed)
    layers = range(model.layers - 1)
    images = random_images(model, seed, 2)
    parts = NeuronPass(model, layers, ("coefficients", "totals", "class_neurons", "peaks"))(images)
    truths = [oracle(model, image.numpy()) for image in images]
    np.testing.assert_allclose(parts.ln_std_b, [t.std for t in truths], **CLOSE)
    for layer in layers:
        maps = second_order_maps(model, layer, torch.float64)
        s = parts.coefficients[layer] / parts.ln_std_b[:, None, None]
        phi = maps.effects(s, range(model.mlp_width))
        bias = parts.attention_blh[:, layer + 1 :].flatten(1) @ maps.bias_pe
        bias /= parts.ln_std_b[:, None]
        torch.testing.assert_close(maps.total(s), phi.sum(1), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(parts.totals[layer], phi.sum(1), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(maps.norms(s), phi.norm(dim=2), rtol=1e-6, atol=1e-7)
        for b, truth in enumerate(truths):
            np.testing.assert_allclose(phi[b], every_effect(model, truth, layer), **CLOSE)
            change = removed_from_values(model, truth, layer)
            np.testing.assert_allclose(phi[b].sum(0) + bias[b], change, **CLOSE)
            hidden = truth.layers[layer].hidden
            np.testing.assert_allclose(parts.class_neurons[layer][b], hidden[0], **CLOSE)
            np.testing.assert_allclose(parts.peaks[layer][b], hidden[1:].max(0), **CLOSE)


def test_the_forward_pass_is_the_models_own(tmp_path):
    model = perturbed(TINY, tmp_path, 0)
    images = random_images(model, 0, 3)
    parts, own = NeuronPass(model, [1])(images), Decomposer(model)(images)
    torch.testing.assert_close(parts.embedding_be, own.embedding_be, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.ln_std_b, own.ln_std_b)
    assert parts.coefficients[1].shape == (3, len(model.paths(1)), model.mlp_width)
    assert (parts.totals, parts.class_neurons, parts.peaks) == ({}, {}, {})


def test_several_layers_at_once_are_the_layers_one_by_one(tmp_path):
    model = perturbed(TINY, tmp_path, 1, torch.float32)
    images = random_images(model, 1, 3)
    together = NeuronPass(model, [2, 0])(images)
    assert model.paths(2) == [(3, 0), (3, 1)]
    for layer in (0, 2):
        alone = NeuronPass(model, [layer])(images)
        assert torch.equal(alone.coefficients[layer], together.coefficients[layer])


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_precision(tmp_path, dtype, bar):
    exact = perturbed(TINY, tmp_path, 2)
    rough = perturbed(TINY, tmp_path, 2, dtype)
    images = random_images(exact, 2, 4)
    both = ("coefficients", "totals")
    wanted, found = (
        NeuronPass(exact, [0], both)(images),
        NeuronPass(rough, [0], both)(images.float()),
    )
    for name in both:
        one, other = getattr(wanted, name)[0], getattr(found, name)[0]
        assert other.dtype == torch.float32
        assert (other - one).norm() / one.norm() < bar, name


def test_token_maps_weigh_up_to_coefficients(tmp_path):
    model = perturbed(TINY, tmp_path, 3)
    images = random_images(model, 3, 2)
    run = NeuronPass(model, [1], ("class_neurons", "peaks"))
    parts, maps = run(images), run.token_maps(images, 1, [5, 2])
    assert maps.shape == (2, model.tokens, 2)
    torch.testing.assert_close(maps[:, 0], parts.class_neurons[1][:, [5, 2]])
    torch.testing.assert_close(maps[:, 1:].amax(1), parts.peaks[1][:, [5, 2]])


def test_tokens_are_what_later_heads_read(tmp_path):
    """Activations, and what each later head weighs each token by, as the equations have them."""
    model = perturbed(TINY, tmp_path, 5)
    images = random_images(model, 5, 2)
    reads, own = NeuronPass(model, [0, 2]).tokens(images), NeuronPass(model, [0, 2])(images)
    torch.testing.assert_close(reads.embedding_be, own.embedding_be)
    torch.testing.assert_close(reads.ln_std_b, own.ln_std_b)
    for b, truth in enumerate(oracle(model, image.numpy()) for image in images):
        for layer in (0, 2):
            np.testing.assert_allclose(reads.hidden[layer][b], truth.layers[layer].hidden, **CLOSE)
            weights = [of.alpha / of.std for of in truth.layers[layer + 1 :]]
            np.testing.assert_allclose(reads.weights[layer][b], np.concatenate(weights), **CLOSE)
            torch.testing.assert_close(reads.coefficients(layer), own.coefficients[layer])


def test_published_effects_in_both_conventions(shared, tmp_path):
    """golden/second_order.npz: outputs of the published implementation; factor 100."""
    golden = np.load(shared / "golden" / "second_order.npz")
    images = torch.from_numpy(np.load(shared / "golden" / "images24.npz")["images"]).double()
    model = golden_model(shared / "golden", tmp_path)
    layer = int(golden["mlp_layer"])
    parts = NeuronPass(model, [layer], ("coefficients", "totals", "shifts"))(images)
    np.testing.assert_allclose(parts.embedding_be, golden["embedding"], **CLOSE)
    norm_b11 = parts.embedding_be.norm(dim=1)[:, None, None]
    s = 100 * published_scale(parts.coefficients[layer], parts.ln_std_b, parts.embedding_be)
    np.testing.assert_allclose(s, golden["s"], rtol=1e-6, atol=1e-6)  # kept as float32
    neurons = range(model.mlp_width)
    clean = second_order_maps(model, layer, torch.float64).effects(s, neurons)
    np.testing.assert_allclose(clean[:6], golden["phi_clean"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(clean.sum(1), 100 * parts.totals[layer] / norm_b11[:, 0])
    maps = second_order_maps(model, layer, torch.float64, "equal-share")
    offset = 100 * equal_share_offset(model, layer, parts)[:, None] / norm_b11
    np.testing.assert_allclose(offset[:, 0], golden["r"], **CLOSE)
    phi = maps.effects(s, neurons) + offset
    np.testing.assert_allclose(phi[:6], golden["phi"], **CLOSE)
    np.testing.assert_allclose(phi, golden["phi24_f32"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(phi.mean(0), golden["phi_mean24"], **CLOSE)
    np.testing.assert_allclose(phi.sum(1), golden["phi_sum24"], **CLOSE)


def test_bad_layers_and_quantities_are_refused(tmp_path):
    model = perturbed(TINY, tmp_path, 0, torch.float32)
    images = random_images(model, 0, 1)
    for layers, words in [
        ([3], "MLP layer 3 is the last .* choose from 0 to 2"),
        ([0, 7], "MLP layer 7 does not exist .* choose from 0 to 2"),
        ([-1], "MLP layer -1 does not exist"),
        ([], "no MLP layers chosen"),
    ]:
        with pytest.raises(ValueError, match=words):
            NeuronPass(model, layers)
    with pytest.raises(ValueError, match="MLP layer 3 is the last"):
        second_order_maps(model, 3)
    with pytest.raises(ValueError, match=r"quantities \['norms'\] are none of"):
        NeuronPass(model, [1], ("norms",))
    with pytest.raises(ValueError, match="convention 'clean' is none of centred, equal-share"):
        second_order_maps(model, 1, convention="clean")
    with pytest.raises(ValueError, match=r"neurons \[64\] do not exist: .* 0 to 63"):
        NeuronPass(model, [1]).token_maps(images, 1, [3, 64])
