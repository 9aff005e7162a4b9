"""Scores of texts by neurons against section B.1 as it stands, effects written out in full."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.concepts.by_neurons import ByNeurons, LayerEffects
from pipeline.concepts.long import Long
from pipeline.neurons.directions import directions_of, top_chunk
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.maps import second_order_maps
from tests.pipeline.concepts.kit import by_neurons, random_codes, rows_of, scores_by_loops
from tests.pipeline.neurons.forward_kit import TINY, perturbed, random_images, random_maps

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 6),
    paths=st.integers(1, 6),
    embed=st.integers(1, 7),
    texts=st.integers(1, 9),
    layers=st.integers(1, 3),
    share=st.floats(0, 1),
)
def test_scores_are_those_of_effects_written_out(seed, images, paths, embed, texts, layers, share):
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    maps = {at: random_maps(generator, paths, 5, 2, embed) for at in range(layers)}
    codes = random_codes(rng, dict.fromkeys(maps, 5), texts)
    s, scale = {at: randn(images, paths, 5) for at in maps}, 1 + randn(images).abs()
    means = {at: randn(paths, 5) for at in maps}
    directions = {at: randn(5, embed) for at in maps}
    phi = {
        at: (m.effects(s[at], range(5)) / scale[:, None, None]).numpy() for at, m in maps.items()
    }
    mean_phi = {at: m.effects(means[at][None], range(5))[0].numpy() for at, m in maps.items()}
    lengths = {
        at: np.quantile(
            np.linalg.norm(phi[at] - mean_phi[at], axis=2), share, axis=0, method="lower"
        )
        for at in maps
    }
    rows = {at: rows_of(at, s[at], scale) for at in maps}
    gammas = {at: codes.by_layer[at].toarray() for at in maps}
    for published in (False, True):
        by = by_neurons(codes, maps, directions, means, lengths, published=published)
        # Lengths are sums in another order: whoever is exactly as long as the bar is on no side.
        bars = {at: v * (1 + 1e-9) + 1e-12 for at, v in lengths.items()}
        by = replace(by, long={at: replace(by.long[at], lengths_n=v) for at, v in bars.items()})
        wanted = scores_by_loops(phi, mean_phi, directions, bars, gammas, published)
        np.testing.assert_allclose(by.scores(rows), wanted, **CLOSE)


def test_published_effects_give_published_scores(shared):
    """golden/second_order.npz: effects of the published implementation, without its offset."""
    golden = np.load(shared / "golden" / "second_order.npz")
    phi, s = golden["phi_clean"].astype(np.float64), golden["s"][:6].astype(np.float64)
    mean, directions = phi.mean(0), golden["pca"]
    beyond = phi - mean
    lengths = np.percentile(np.linalg.norm(beyond, axis=2), 70, axis=0)
    # Gram matrices from the effects alone: φ = Σ s G, so G is what least squares make of them.
    vectors = np.stack([np.linalg.lstsq(s[:, :, n], phi[:, n], rcond=None)[0] for n in range(384)])
    codes = random_codes(np.random.default_rng(0), {1: 384}, 40, 0.1)
    effects = LayerEffects(
        torch.from_numpy(s.mean(0)),
        torch.from_numpy(np.einsum("npe,ne->pn", vectors, directions)),
        torch.from_numpy(vectors @ vectors.swapaxes(1, 2)),
    )
    rows = {1: rows_of(1, torch.from_numpy(s), torch.ones(6, dtype=torch.float64))}
    for published in (False, True):
        by = ByNeurons(codes, {1: Long(lengths, "")}, {1: effects}, published)
        wanted = scores_by_loops(
            {1: phi}, {1: mean}, {1: directions}, {1: lengths},
            {1: codes.by_layer[1].toarray()}, published,
        )  # fmt: skip
        np.testing.assert_allclose(by.scores(rows), wanted, rtol=1e-4, atol=1e-4)


def test_scores_from_a_pass_are_those_of_the_model_s_effects(tmp_path):
    """Rows of a pass, maps and directions of a real tower; two MLP layers together."""
    model, layers, neurons = perturbed(TINY, tmp_path, 4), (0, 2), 64
    parts = NeuronPass(model, layers)(random_images(model, 4, 12))
    scale = parts.ln_std_b * parts.embedding_be.norm(dim=1)
    maps = {at: second_order_maps(model, at, torch.float64) for at in layers}
    codes = random_codes(np.random.default_rng(4), dict.fromkeys(layers, neurons), 7, 0.3)
    s = {at: parts.coefficients[at] / scale[:, None, None] for at in layers}
    means = {at: s[at].mean(0) for at in layers}
    directions, lengths, phi = {}, {}, {}
    for at in layers:
        beyond = s[at] - means[at]
        norms = maps[at].norms(beyond)
        top = top_chunk(norms, beyond, torch.arange(12), 3)
        directions[at] = directions_of(top, maps[at]).directions
        lengths[at] = np.percentile(norms.numpy(), 80, axis=0)
        phi[at] = maps[at].effects(s[at], range(neurons)).numpy()
    by = by_neurons(codes, maps, directions, means, lengths)
    rows = {at: rows_of(at, parts.coefficients[at], scale) for at in layers}
    gammas = {at: codes.by_layer[at].toarray() for at in layers}
    mean_phi = {at: phi[at].mean(0) for at in layers}
    wanted = scores_by_loops(phi, mean_phi, directions, lengths, gammas)
    np.testing.assert_allclose(by.scores(rows), wanted, **CLOSE)
    # Who says what adds up to what is said.
    weights = {at: w[0] for at, w in by.weights(rows).items()}
    for text in by.texts:
        said = codes.said(weights, text)
        assert sum(one.share for one in said) == pytest.approx(wanted[0, by.texts.index(text)])
        assert all(weights[one.layer][one.neuron] == one.weight != 0 for one in said)


@pytest.mark.parametrize(("along", "gamma", "speaks"), [(1, 2, 2), (-1, 2, -2), (-1, -2, 2)])
def test_a_sign_is_that_of_projection_times_coefficient(along, gamma, speaks):
    """Against a text that a neuron stands for; for one that it stands against."""
    generator = torch.Generator().manual_seed(0)
    maps = random_maps(generator, 1, 2, 1, 3)
    vector = maps.effects(torch.ones(1, 1, 2, dtype=torch.float64), [1])[0, 0]
    directions = torch.stack([torch.zeros(3), vector / vector.norm()]).double()
    codes = random_codes(np.random.default_rng(0), {3: 2}, 1, 0)
    gammas = codes.by_layer[3].toarray()
    gammas[1, 0] = gamma
    codes.by_layer[3] = type(codes.by_layer[3])(gammas)
    means = {3: torch.zeros(1, 2, dtype=torch.float64)}
    by = by_neurons(codes, {3: maps}, {3: directions}, means, {3: [0, 0.5]})
    s = along / vector.norm() * torch.ones(1, 1, 2, dtype=torch.float64)
    rows = {3: rows_of(3, s, torch.ones(1, dtype=torch.float64))}
    np.testing.assert_allclose(by.scores(rows), [[speaks]])
    np.testing.assert_allclose(replace(by, published=True).scores(rows), [[gamma]])
    # Where lengths alone are known, scores of lengths are the same.
    lengths = by.effects[3].lengths(rows[3])
    np.testing.assert_allclose(codes.add(by.weights_of_lengths({3: lengths})), [[gamma]])
    quiet = {3: rows_of(3, 0.4 * s, torch.ones(1, dtype=torch.float64))}
    np.testing.assert_array_equal(by.scores(quiet), [[0]])
    assert by.active(3, np.array([[0.0, 0.5], [0.1, 0.6]])).tolist() == [[False] * 2, [True] * 2]
