"""What wrote a picture's embedding: the share of every head, MLP and token, and what is left.

A part's share is ⟨contribution, embedding⟩/‖embedding‖². Shares of all parts sum to 100%, but for
rounding, which is told. Along a text, a part has ⟨contribution, text⟩/‖embedding‖, and the sum is
the logit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.library import Opened
from pipeline.explorer.subject import Decomposed
from pipeline.heads.parts import StoredParts
from storage.metadata import Metadata

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Along:
    """What each part of an embedding has along a direction; float64.

    Attributes
    ----------
    heads : (layer, head)
    mlps : (block,)
        Block 0 is the start, ``l + 1`` the MLP of layer ``l``.
    constants : float
        Of the biases of attention and of the last norm.
    """

    heads: Array
    mlps: Array
    constants: float

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return float(self.heads.sum() + self.mlps.sum() + self.constants)


@dataclass(frozen=True, eq=False)
class TokenShares:
    """What the heads of some layers wrote from each token, as shares of the embedding.

    Attributes
    ----------
    layers : tuple of int
    heads : float
        The share of all their heads: the sum of what follows.
    class_token, registers, patches : float
    map : (rows, columns) float64
        Patch by patch.
    stored : bool
        Whether it is from the store, or the model was run.
    """

    layers: tuple[int, ...]
    heads: float
    class_token: float
    registers: float
    patches: float
    map: Array
    stored: bool


@dataclass(frozen=True, eq=False)
class Written:
    """What wrote an embedding, as shares of it.

    Attributes
    ----------
    heads : (layer, head) float64
    mlps : (block,) float64
        Block 0 is the start, ``l + 1`` the MLP of layer ``l``.
    attention, all_mlps, start, constants : float
        Of all heads, all MLPs, the start, and the biases.
    left : float
        100% less all these: what rounding to the store's dtype costs along the embedding.
    residual, rounding : float
        ‖sum of parts − embedding‖ / ‖embedding‖: as the parts were computed, and as they are here.
    stored : bool
        Whether the parts are from the store, or the model was run.
    """

    heads: Array
    mlps: Array
    attention: float
    all_mlps: float
    start: float
    constants: float
    left: float
    residual: float
    rounding: float
    stored: bool


def along(model: Any, parts: StoredParts, direction_e: NDArray[np.floating]) -> Along:
    """What each part has along a direction, on the published scale: over ‖embedding‖.

    Parameters
    ----------
    model : Dataset
        The maps of the model.
    parts : StoredParts
        One row.
    direction_e : (embed,)
    """
    direction = np.asarray(direction_e, np.float64)
    inverse = 1 / float(parts.scale_b[0])
    heads = np.zeros(parts.heads_blhk.shape[1:3])
    if heads.size:
        # ⟨u·head_map, d⟩ = ⟨u, head_map·d⟩: no contribution is written out.
        heads = np.einsum(
            "lhk,lhk->lh",
            np.asarray(parts.heads_blhk[0], np.float64),
            np.asarray(model["head_map"]) @ direction,
        )
    mlps = np.asarray(parts.mlps_bsd[0], np.float64) @ (np.asarray(model["mlp_map"]) @ direction)
    bias_lx, varying_lx = (
        np.asarray(model[name]) @ direction[:, None] if name in model else None
        for name in ("attention_bias", "bias_map")
    )
    assert bias_lx is not None  # every store has it
    biases = float(parts.biases(np.ones(len(bias_lx)), bias_lx, varying_lx)[0, 0])
    last = float(np.asarray(model["bias"]) @ direction) / float(parts.norm_b[0])
    return Along(heads * inverse, mlps * inverse, biases + last)


def written(here: Opened, found: Decomposed) -> Written:
    """The shares of a picture's parts."""
    parts = found.parts
    unit_e = np.asarray(parts.embedding_be[0], np.float64) / parts.norm_b[0]
    of = along(here.store.model(), parts, unit_e)
    return Written(
        heads=of.heads,
        mlps=of.mlps,
        attention=float(of.heads.sum()),
        all_mlps=float(of.mlps[1:].sum()),
        start=float(of.mlps[0]),
        constants=of.constants,
        left=1 - of.total,
        residual=found.residual,
        rounding=found.rounding,
        stored=found.stored,
    )


def token_shares(meta: Metadata, found: Decomposed) -> TokenShares | None:
    """What the heads wrote from each token; None where that is not known."""
    if found.tokens_te is None:
        return None
    embedding_e = np.asarray(found.parts.embedding_be[0], np.float64)
    shares_t = found.tokens_te @ embedding_e / found.parts.norm_b[0] ** 2
    patches = shares_t[meta.prefix :]
    return TokenShares(
        layers=tuple(found.token_layers),
        heads=float(shares_t.sum()),
        class_token=float(shares_t[: min(1, meta.prefix)].sum()),
        registers=float(shares_t[1 : meta.prefix].sum()),
        patches=float(patches.sum()),
        map=patches.reshape(meta.grid),
        stored=found.stored,
    )
