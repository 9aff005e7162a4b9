"""Concepts by sparse codes over one dictionary: of what each head wrote, or of the embedding.

Both are of unit embeddings less their mean over the store's images, and the dictionary is the
pool's embeddings less their mean, each of unit length. What heads wrote sums to the embedding, so
their codes sum to a code of the image, and what they leave is known part by part. A code of the
embedding itself, with coefficients that are never negative, is what SpLiCE makes (Bhalla et al.
2024): the lasso with non-negative coefficients, solved exactly by an active-set method. A pursuit
without its penalty fits closer and names what is less often true (``benchmarks/README.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.heads.ablation import reduced_means
from pipeline.heads.choices import Head
from pipeline.heads.parts import StoredParts
from pipeline.neurons.omp import SparseCodes, build_dictionary, omp
from pipeline.neurons.omp_variants import nonneg_omp
from storage.reductions import Reductions
from storage.store import Store

from .choices import PENALTY

Array = NDArray[np.float64]
# What codes of heads leave of an embedding, in this order.
LEFT = ("heads", "other heads", "MLPs", "start and constants")


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Texts that codes are made of.

    Attributes
    ----------
    texts : tuple of str
    atoms_me : (M, E) float32 or float64
        Unit rows; where they are is where codes are found.
    """

    texts: tuple[str, ...]
    atoms_me: Tensor

    @classmethod
    def of(cls, texts: Sequence[str], embeddings_me: NDArray[np.floating]) -> Dictionary:
        """From embeddings of texts, (M, E).

        Raises
        ------
        ValueError
            If a text has no direction, or there are fewer than two.
        """
        return cls(tuple(texts), build_dictionary(torch.from_numpy(np.asarray(embeddings_me))))

    def targets(self, rows: NDArray[np.floating]) -> Tensor:
        """Rows as what is coded, where the texts are and as wide."""
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.atoms_me)

    def scores(self, codes: SparseCodes) -> Array:
        """Coefficients of all texts, (N, M)."""
        found_nm = codes.coefficients.new_zeros(len(codes.supports), len(self.texts))
        # No text (-1) has coefficient 0.
        found_nm.scatter_add_(1, codes.supports.clamp(min=0), codes.coefficients)
        return found_nm.double().cpu().numpy()


@dataclass(frozen=True, eq=False)
class ByEmbedding:
    """Scores of texts by a code of the embedding less its mean, as a unit vector.

    Attributes
    ----------
    dictionary : Dictionary
    mean_e : (E,) float64
        Mean of the unit embeddings of the store's images.
    terms : int
        Texts of a code, at most.
    """

    dictionary: Dictionary
    mean_e: Array
    terms: int

    @property
    def texts(self) -> tuple[str, ...]:
        """M texts, in the order of scores."""
        return self.dictionary.texts

    def targets(self, parts: StoredParts) -> Array:
        """What is coded of B images, (B, E): unit rows."""
        centred_be = _unit(parts) - self.mean_e
        lengths_b1 = np.linalg.norm(centred_be, axis=1, keepdims=True)
        found: Array = centred_be / np.maximum(lengths_b1, 1e-30)
        return found

    def codes(self, parts: StoredParts) -> SparseCodes:
        """Codes of B images; their residuals are what is left of 1."""
        targets_be = self.dictionary.targets(self.targets(parts))
        return nonneg_omp(self.dictionary.atoms_me, targets_be, self.terms, PENALTY)

    def scores(self, parts: StoredParts) -> Array:
        """Scores, (B, M); none is negative."""
        return self.dictionary.scores(self.codes(parts))


@dataclass(frozen=True, eq=False)
class ByHeads:
    """Scores of texts by codes of what each head wrote, less its mean.

    Attributes
    ----------
    dictionary : Dictionary
    heads : tuple of (layer, head)
    head_map_hke : (heads, K, E) float64
    means_hk : (heads, K) float64
        Mean contributions over the store's images, published scale.
    mean_e : (E,) float64
        Mean of the unit embeddings.
    terms : int
        Texts of a head's code, at most.
    """

    dictionary: Dictionary
    heads: tuple[Head, ...]
    head_map_hke: Array
    means_hk: Array
    mean_e: Array
    terms: int

    @property
    def texts(self) -> tuple[str, ...]:
        """M texts, in the order of scores."""
        return self.dictionary.texts

    def contributions(self, parts: StoredParts) -> Array:
        """What each head wrote, less its mean, over ‖embedding‖: (B, heads, E)."""
        at = tuple(np.array(self.heads).T)
        u_bhk = np.asarray(parts.heads_blhk, np.float64)[:, at[0], at[1]]
        beyond_bhk = u_bhk / parts.scale_b[:, None, None] - self.means_hk
        return np.einsum("bhk,hke->bhe", beyond_bhk, self.head_map_hke, optimize=True)

    def codes(self, written_bhe: Array) -> SparseCodes:
        """Codes of contributions, of the heads of the first image, then of the next."""
        targets_ne = self.dictionary.targets(written_bhe.reshape(-1, written_bhe.shape[-1]))
        return omp(self.dictionary.atoms_me, targets_ne, self.terms)

    def by_head(self, parts: StoredParts) -> Array:
        """Coefficients of each head's code, (B, heads, M)."""
        written_bhe = self.contributions(parts)
        found_nm = self.dictionary.scores(self.codes(written_bhe))
        return found_nm.reshape(*written_bhe.shape[:2], -1)

    def scores(self, parts: StoredParts) -> Array:
        """Scores, (B, M): the sum of the heads' codes, which is a code of the image."""
        found: Array = self.by_head(parts).sum(1)
        return found


@dataclass(frozen=True, eq=False)
class Rest:
    """What heads that are not coded, and what is no head, have of an image beside its mean.

    Attributes
    ----------
    head_map_lhke : (L, H, K, E) float64
    mlp_map_de : (D, E) float64
    heads_lhk, mlps_sd : (L, H, K), (L + 1, D) float64
        Means over the store's images, published scale.
    """

    head_map_lhke: Array
    mlp_map_de: Array
    heads_lhk: Array
    mlps_sd: Array

    def left(self, by: ByHeads, parts: StoredParts, by_head_bhm: Array) -> Array:
        """What codes of heads leave of the embedding less its mean, (B, LEFT, E).

        With the code of the image, Σ_j score_j · text_j, they sum to it exactly.
        """
        atoms_me = by.dictionary.atoms_me.double().cpu().numpy()
        inverse_b = 1 / parts.scale_b
        coded_be = by_head_bhm.sum(1) @ atoms_me
        heads_be = by.contributions(parts).sum(1)
        beyond = np.asarray(parts.heads_blhk, np.float64) * inverse_b[:, None, None, None]
        beyond -= self.heads_lhk
        all_be = np.einsum("blhk,lhke->be", beyond, self.head_map_lhke, optimize=True)
        mlps_bd = np.asarray(parts.mlps_bsd, np.float64)[:, 1:].sum(1) * inverse_b[:, None]
        mlps_be = (mlps_bd - self.mlps_sd[1:].sum(0)) @ self.mlp_map_de
        whole_be = _unit(parts) - by.mean_e
        return np.stack(
            [heads_be - coded_be, all_be - heads_be, mlps_be, whole_be - all_be - mlps_be], axis=1
        )


def _unit(parts: StoredParts) -> Array:
    """Unit embeddings, (B, E)."""
    found: Array = np.asarray(parts.embedding_be, np.float64) / parts.norm_b[:, None]
    return found


def by_embedding(dictionary: Dictionary, reductions: Reductions, terms: int) -> ByEmbedding:
    """By the embedding; `reductions` of ``embedding`` say what its mean is."""
    mean_e = reductions.array("embedding_mean").values
    return ByEmbedding(dictionary, mean_e, min(terms, len(dictionary.texts)))


def by_heads(
    store: Store,
    dictionary: Dictionary,
    reductions: Reductions,
    layers: Sequence[int],
    terms: int,
) -> ByHeads:
    """By all heads of some layers.

    Parameters
    ----------
    store : Store
    dictionary : Dictionary
    reductions : Reductions
        Of ``heads``, ``mlps`` and ``embedding``.
    layers : sequence of int
    terms : int
    """
    heads = tuple((layer, head) for layer in layers for head in range(store.meta.heads))
    at = tuple(np.array(heads).T)
    return ByHeads(
        dictionary,
        heads,
        store.model()["head_map"].values.astype(np.float64)[at],
        reduced_means(reductions).heads_lhk[at],
        reductions.array("embedding_mean").values,
        min(terms, len(dictionary.texts)),
    )


def rest_of(store: Store, reductions: Reductions) -> Rest:
    """What is needed to tell what codes of heads leave."""
    model, means = store.model(), reduced_means(reductions)
    head_map, mlp_map = (model[name].values.astype(np.float64) for name in ("head_map", "mlp_map"))
    return Rest(head_map, mlp_map, means.heads_lhk, means.mlps_sd)
