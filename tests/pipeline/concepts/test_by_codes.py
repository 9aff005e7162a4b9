"""Codes of heads and of the embedding against plain loops; what they leave, part by part."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso

from pipeline.concepts.by_codes import LEFT, ByEmbedding, ByHeads, Dictionary, Rest
from pipeline.concepts.choices import PENALTY
from pipeline.heads.ablation import StoredParts
from tests.pipeline.neurons.omp_kit import oracle

LAYERS, HEADS, K, D, E = 3, 2, 4, 6, 8


def problem(seed: int, images: int, texts: int):
    """Parts of random images that sum to their embeddings, and a dictionary."""
    rng = np.random.default_rng(seed)
    head_map, mlp_map = rng.normal(size=(LAYERS, HEADS, K, E)), rng.normal(size=(D, E))
    u, mlps = rng.normal(size=(images, LAYERS, HEADS, K)), rng.normal(size=(images, LAYERS + 1, D))
    std, bias = rng.uniform(0.5, 2, images), rng.normal(size=E)
    written = np.einsum("blhk,lhke->be", u, head_map) + mlps.sum(1) @ mlp_map
    parts = StoredParts(u, mlps, (written + bias) / std[:, None], std)
    dictionary = Dictionary.of([f"text {i}" for i in range(texts)], rng.normal(size=(texts, E)))
    return rng, parts, head_map, mlp_map, dictionary


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 4),
    texts=st.integers(3, 20),
    terms=st.integers(1, 5),
)
def test_codes_of_heads_sum_to_a_code_of_the_image_with_a_known_rest(seed, images, texts, terms):
    rng, parts, head_map, mlp_map, dictionary = problem(seed, images, texts)
    terms, heads = min(terms, texts - 1), ((1, 0), (2, 1))
    means, mlp_means = rng.normal(size=(LAYERS, HEADS, K)), rng.normal(size=(LAYERS + 1, D))
    mean_e, at = rng.normal(size=E), ((1, 2), (0, 1))
    by = ByHeads(dictionary, heads, head_map[at], means[at], mean_e, terms)
    atoms = dictionary.atoms_me.numpy()
    found, scores = by.by_head(parts), by.scores(parts)
    length = np.linalg.norm(parts.embedding_be, axis=1)
    for image in range(images):
        total = np.zeros(texts)
        for i, (layer, head) in enumerate(heads):
            scale = parts.ln_std_b[image] * length[image]
            wrote = (parts.heads_blhk[image, layer, head] / scale - means[layer, head]) @ head_map[
                layer, head
            ]
            _, code = oracle(dictionary.atoms_me, torch.from_numpy(wrote), terms)
            np.testing.assert_allclose(found[image, i], code, rtol=1e-5, atol=1e-6)
            total += code
        np.testing.assert_allclose(scores[image], total, rtol=1e-5, atol=1e-6)
    rest = Rest(head_map, mlp_map, means, mlp_means).left(by, parts, found)
    assert rest.shape == (images, len(LEFT), E)
    whole = parts.embedding_be / length[:, None] - mean_e
    np.testing.assert_allclose(scores @ atoms + rest.sum(1), whole, rtol=1e-9, atol=1e-12)
    # Each of them is what it is called.
    inverse = 1 / (parts.ln_std_b * length)[:, None]
    others = sum(
        (parts.heads_blhk[:, layer, head] * inverse - means[layer, head]) @ head_map[layer, head]
        for layer in range(LAYERS)
        for head in range(HEADS)
        if (layer, head) not in heads
    )
    mlps = (parts.mlps_bsd[:, 1:].sum(1) * inverse - mlp_means[1:].sum(0)) @ mlp_map
    np.testing.assert_allclose(rest[:, 1], others, atol=1e-10)
    np.testing.assert_allclose(rest[:, 2], mlps, atol=1e-10)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), images=st.integers(1, 5), texts=st.integers(3, 30))
def test_a_code_of_the_embedding_is_the_lasso_s_and_never_negative(seed, images, texts):
    rng, parts, *_, dictionary = problem(seed, images, texts)
    mean_e = 0.1 * rng.normal(size=E)
    by = ByEmbedding(dictionary, mean_e, texts)
    atoms, scores = dictionary.atoms_me.numpy(), by.scores(parts)
    for image, score in enumerate(scores):
        centred = parts.embedding_be[image] / np.linalg.norm(parts.embedding_be[image]) - mean_e
        centred /= np.linalg.norm(centred)
        model = Lasso(PENALTY / E, positive=True, fit_intercept=False, tol=1e-12, max_iter=10**5)
        wanted = model.fit(atoms.T, centred).coef_
        np.testing.assert_allclose(score, wanted, atol=1e-5)
        left = np.linalg.norm(centred - score @ atoms)
        assert float(by.codes(parts).residual_norms[image, -1]) == pytest.approx(left, abs=1e-9)
    fewer = ByEmbedding(dictionary, mean_e, 1).scores(parts)
    assert (np.count_nonzero(fewer, axis=1) <= 1).all()


def test_the_dictionary_is_the_pool_less_its_mean_of_unit_length():
    rows = np.random.default_rng(0).normal(size=(5, 3))
    wanted = rows - rows.mean(0)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(Dictionary.of("abcde", rows).atoms_me.numpy(), wanted)
