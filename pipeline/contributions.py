"""From stored factors to contributions in the joint space: the equations of design.md, section 4.

Every function takes what a store holds (NumPy arrays, or anything that becomes one). The
contributions of an image sum to its embedding: `head_contributions`, `mlp_contributions`,
`attention_bias_contributions` and the constant `ModelMaps.bias`; or, under the published
convention, the two results of `equal_share`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.models import MeanMaps, ModelMaps

Array = NDArray[np.floating[Any]]


def head_contributions(
    heads_blhk: ArrayLike, head_map_lhke: ArrayLike, ln_std_b: ArrayLike
) -> Array:
    """What every head writes: u·head_map/σ, (image, layer, head, embed).

    With a token axis before the heads, (image, layer, token, head, head_dim) as
    `Decomposer.token_values` gives it, what every head writes from every token.
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
    """Contributions by the published convention (TextSpan, ICLR 2024), to compare numbers.

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
    layers = maps.attention_bias.shape[0]
    writers = int(np.prod(heads.shape[2:-1]))  # heads, or tokens times heads, of one layer
    of_tokens = heads.ndim == 5
    mean_map = means.head_mean[:, None] if of_tokens else means.head_mean
    head_means = (heads * mean_map).sum(-1)  # of what each head writes, over the width
    mlp_means = mlps.mean(-1)
    layer_axis = (slice(None),) + (None,) * (heads.ndim - 3)
    head_means = head_means + (means.attention_bias_mean / writers)[layer_axis]
    final_mean = head_means.reshape(len(std), -1).sum(-1) + mlp_means.sum(-1)
    share = final_mean / (2 * layers + 1)

    def uncentred(own_mean: Array, of: int) -> Array:
        """Undo the centring by the own mean, take off the share of the mean, add that of β."""
        less = own_mean - (share / of).reshape(-1, *(1,) * (own_mean.ndim - 1))
        return _divide(less[..., None] * means.mean_map, std) + maps.bias / (2 * layers + 1) / of

    bias = _divide((maps.attention_bias / writers)[layer_axis][None, ..., None, :], std)
    by_head = head_contributions(heads, maps.head_map, std) + bias + uncentred(head_means, writers)
    by_mlp = mlp_contributions(mlps, maps.mlp_map, std) + uncentred(mlp_means, 1)
    return by_head, by_mlp


def _divide(sums: Array, ln_std_b: ArrayLike) -> Array:
    return sums / np.asarray(ln_std_b).reshape(-1, *(1,) * (sums.ndim - 1))
