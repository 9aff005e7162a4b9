"""Neurons with random directions and codes, over random models: no store, no text."""

import numpy as np
import torch
from scipy.sparse import csr_array

from pipeline.concepts.by_neurons import ByNeurons, LayerEffects
from pipeline.concepts.codes import Codes
from pipeline.concepts.long import Long
from pipeline.neurons.rows import Rows


def random_codes(rng, neurons: dict[int, int], texts: int, share=0.2) -> Codes:
    """Codes of so many neurons a layer; about a share of all coefficients is not 0."""
    found = {}
    for layer, count in neurons.items():
        gamma = rng.normal(size=(count, texts)) * (rng.random((count, texts)) < share)
        found[layer] = csr_array(gamma)
    return Codes(tuple(f"text {i}" for i in range(texts)), found)


def rows_of(layer: int, coefficients_bpn, scale_b) -> Rows:
    """Rows that know coefficients alone."""
    nothing = torch.zeros(len(coefficients_bpn), 1)
    numbers = torch.arange(len(coefficients_bpn))
    return Rows(layer, numbers, coefficients_bpn, nothing, scale_b, nothing)


def by_neurons(codes, maps, directions, means, lengths, **changes) -> ByNeurons:
    """From maps, directions (N, E), mean coefficients (P, N) and lengths (N,), by layer."""
    effects = {
        at: LayerEffects(means[at], maps[at].readout(directions[at]), maps[at].gram_npp)
        for at in maps
    }
    long = {at: Long(np.asarray(lengths[at], np.float64), "") for at in maps}
    return ByNeurons(codes, long, effects, **changes)


def scores_by_loops(phi, means, directions, lengths, gammas, published=False):
    """Section B.1 as it stands, φ (B, N, E) written out, layer by layer; float64."""
    images = len(next(iter(phi.values())))
    texts = next(iter(gammas.values())).shape[1]
    score = np.zeros((images, texts))
    for layer in phi:
        for image in range(images):
            for neuron in range(phi[layer].shape[1]):
                beyond = phi[layer][image, neuron] - means[layer][neuron]
                length = np.sqrt(sum(x * x for x in beyond))
                if not length > lengths[layer][neuron]:
                    continue
                along = sum(x * r for x, r in zip(beyond, directions[layer][neuron], strict=True))
                weight = length if published else along
                for text in range(texts):
                    score[image, text] += gammas[layer][neuron, text] * weight
    return score
