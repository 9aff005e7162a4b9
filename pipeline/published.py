"""From stored factors to contributions in the joint space: see docs/mathematics.md.

Every function takes what a store holds (NumPy arrays, or anything that becomes one). The
contributions of an image sum to its embedding: `head_contributions`, `mlp_contributions`,
`attention_bias_contributions` and the constant `ModelMaps.bias`; or, under the published
convention, the two results of `equal_share`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from storage.tail import scaled

from .models import MeanMaps, ModelMaps

Array = NDArray[np.floating[Any]]


def head_contributions(
    heads_blhk: ArrayLike, head_map_lhke: ArrayLike, ln_std_b: ArrayLike
) -> Array:
    """What every head writes: u·head_map/σ, (image, layer, head, embed).

    With a token axis before the heads, α_i v_i as (image, layer, token, head, head_dim), what every
    head writes from every token.
    """
    heads = np.asarray(heads_blhk)
    # Layer and head first: then all images, and tokens, of a head are one matrix product.
    factors = np.moveaxis(heads, (1, -2), (0, 1))
    rows = factors.reshape(*factors.shape[:2], -1, factors.shape[-1]) @ np.asarray(head_map_lhke)
    out = np.moveaxis(rows.reshape(*factors.shape[:-1], -1), (0, 1), (1, -2))
    return _divide(out, ln_std_b)


def mlp_contributions(mlps_bsd: ArrayLike, mlp_map_de: ArrayLike, ln_std_b: ArrayLike) -> Array:
    """What the class token's start (block 0) and every MLP (1…L) write, (image, block, embed)."""
    return _divide(np.asarray(mlps_bsd) @ np.asarray(mlp_map_de), ln_std_b)


def attention_bias_contributions(attention_bias_le: ArrayLike, ln_std_b: ArrayLike) -> Array:
    """What the attention's output biases write, (image, layer, embed)."""
    return _divide(np.asarray(attention_bias_le)[None], ln_std_b)


def equal_share(
    heads_blhk: ArrayLike,
    mlps_bsd: ArrayLike,
    ln_std_b: ArrayLike,
    maps: ModelMaps,
    means: MeanMaps,
) -> tuple[Array, Array]:
    """Contributions by the published convention (Gandelsman et al. 2024), to compare numbers.

    The mean and the bias of the last LayerNorm are spread in equal shares over the 2L+1
    components, a layer's share and its out_proj bias over its heads, and over the tokens where
    `heads_blhk` has a token axis. Needs all layers; every share depends on the image.

    Returns
    -------
    heads, mlps
        (image, layer, head, embed), with the token axis where given, and (image, block, embed).
        Together they sum to the embedding.
    """
    heads, mlps, std = np.asarray(heads_blhk), np.asarray(mlps_bsd), np.asarray(ln_std_b)
    if heads.ndim == 4:  # one token stands for all
        by_token, by_mlp = equal_share(heads[:, :, None], mlps, std, maps, means)
        return by_token[:, :, 0], by_mlp
    layers, tokens, n_heads = heads.shape[1:4]
    components, writers = 2 * layers + 1, tokens * n_heads
    # The mean over the width of what each component writes, which the maps take away.
    bias_means_l = means.attention_bias_mean / writers
    head_means = (heads * means.head_mean[:, None]).sum(-1) + bias_means_l[:, None, None]
    mlp_means = mlps.mean(-1)
    share_b = (head_means.sum((1, 2, 3)) + mlp_means.sum(1)) / components

    def constants(own_mean: Array, of: int) -> Array:
        """Give back the own mean; take a share of the whole mean, add one of the bias."""
        mean = own_mean - share_b.reshape(-1, *(1,) * (own_mean.ndim - 1)) / of
        return _divide(mean[..., None] * means.mean_map, std) + maps.bias / components / of

    bias_bl11e = (maps.attention_bias / writers)[None, :, None, None]
    by_token = (
        head_contributions(heads, maps.head_map, std)
        + _divide(bias_bl11e, std)
        + constants(head_means, writers)
    )
    return by_token, mlp_contributions(mlps, maps.mlp_map, std) + constants(mlp_means, 1)


def _divide(sums: Array, ln_std_b: ArrayLike) -> Array:
    divided: Array = scaled(sums, np.asarray(ln_std_b))
    return divided
