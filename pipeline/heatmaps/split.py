"""What a picture's embedding has of texts, split by where it comes from: patches, and all else.

⟨embedding, text⟩/‖embedding‖ is the sum of a map over the patches and of the terms that the map
leaves out, exactly: from a store's arrays, or from one pass of the model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.heads.choices import Head
from pipeline.heads.edits import Edit
from pipeline.neurons.choices import Convention
from storage.metadata import Metadata
from storage.store import Store

if TYPE_CHECKING:
    import xarray as xr

    from pipeline.models import VisionModel

    from .tokens import TokenMaps, TokenShares

Array = NDArray[np.float64]
# What a map leaves out: columns of the table ``maps``, and what people are told they are. The last
# is whatever a store that keeps tokens alone does not tell apart.
TERMS = {
    "class_token": "class token",
    "registers": "registers",
    "other_heads": "other heads",
    "other_layers": "other layers",
    "mlps": "MLPs",
    "start": "start",
    "constants": "constants",
    "else": "all else",
}
# As a pass of the model calls what is no token's.
_TERM_OF = {
    "other layers": "other_layers",
    "MLPs": "mlps",
    "start": "start",
    "attention biases": "constants",
    "last norm's bias": "constants",
    "means": "constants",
}


@dataclass(frozen=True, eq=False)
class Split:
    """Where products with M texts come from, on the published scale; float64."""

    patches_mrc: Array
    """What the chosen heads wrote from each patch, (text, rows, columns)."""
    rest: dict[str, Array]
    """By `TERMS`, (text,) each: what the chosen heads wrote from the class token and registers,
    their layers' other heads, other layers' heads, MLPs, the start, constants, or all that is not
    told apart."""
    logit_m: Array
    """⟨embedding, text⟩/‖embedding‖ of the model's own embedding, or of the edited one over the
    length of its own."""

    @property
    def shown_m(self) -> Array:
        """What the map shows of the logit."""
        return self.patches_mrc.sum((1, 2))

    @property
    def residual_m(self) -> Array:
        """The logit less map and rest: rounding."""
        return self.logit_m - self.shown_m - sum(self.rest.values())

    @property
    def heads_m(self) -> Array:
        """What the chosen heads wrote from all tokens together."""
        return self.shown_m + self.rest["class_token"] + self.rest["registers"]

    def __getitem__(self, rows: Sequence[int]) -> Split:
        """Some of the texts, or one several times."""
        at = list(rows)
        rest = {name: values[at] for name, values in self.rest.items()}
        return Split(self.patches_mrc[at], rest, self.logit_m[at])

    def __sub__(self, other: Split) -> Split:
        """Of the differences of texts: everything is linear in them."""
        rest = {name: values - other.rest[name] for name, values in self.rest.items()}
        return Split(self.patches_mrc - other.patches_mrc, rest, self.logit_m - other.logit_m)


def is_stored(meta: Metadata, layers: Sequence[int]) -> bool:
    """Whether a store keeps tokens of all heads of just these layers."""
    return "tokens" in meta.components and set(layers) == set(meta.token_layers)


def stored_split(store: Store, image: int, texts_me: NDArray[np.floating]) -> Split:
    """Of an image whose `tokens` the store keeps; centred convention.

    The logit is that of the model's embedding, which was never rounded. Where the store keeps
    `heads` and `mlps`, too, all terms are known, and the residual is what rounding to the store's
    dtype costs; else what is not a token's is all that is left of the logit.

    Parameters
    ----------
    texts_me : (text, embed)
    """
    meta, texts = store.meta, np.asarray(texts_me, np.float64)
    row = store.contributions().isel(image=image)
    tokens_te, embedding_e = _float64(row["tokens"]), _float64(row["embedding"])
    wrote_e = {name: np.zeros(meta.embed) for name in TERMS}
    wrote_e["class_token"] = tokens_te[: min(1, meta.prefix)].sum(0)
    wrote_e["registers"] = tokens_te[1 : meta.prefix].sum(0)
    if {"heads", "mlps"} <= set(meta.components):
        wrote_e |= _beside(store, row)
    else:
        wrote_e["else"] = embedding_e - tokens_te.sum(0)
    length = np.linalg.norm(embedding_e)
    patches_mt = texts @ tokens_te[meta.prefix :].T / length
    return Split(
        patches_mt.reshape(len(texts), *meta.grid),
        {name: texts @ wrote_e[name] / length for name in TERMS},
        texts @ embedding_e / length,
    )


def _beside(store: Store, row: xr.Dataset) -> dict[str, Array]:
    """What wrote beside the heads that `tokens` sums, by `TERMS`, (embed,) each."""
    heads_lhk, mlps_sd, std = (_float64(row[name]) for name in ("heads", "mlps", "ln_std"))
    maps = {str(name): _float64(array) for name, array in store.model().items()}
    biases_e = maps["attention_bias"].sum(0)
    if store.meta.varying_bias:
        biases_e = biases_e + _float64(row["bias_weights"]) @ maps["bias_map"]
    others = [layer for layer in range(store.meta.layers) if layer not in store.meta.token_layers]
    sums_e = np.einsum("lhk,lhke->e", heads_lhk[others], maps["head_map"][others])
    return {
        "other_layers": sums_e / std,
        "mlps": mlps_sd[1:].sum(0) @ maps["mlp_map"] / std,
        "start": mlps_sd[0] @ maps["mlp_map"] / std,
        "constants": biases_e / std + maps["bias"],
    }


def _float64(array: xr.DataArray) -> Array:
    return array.values.astype(np.float64)


def split_of(
    shares: TokenShares, layers: Sequence[int], heads: Collection[Head] | None = None
) -> Split:
    """Of some heads, from a pass of the model over one picture.

    Parameters
    ----------
    shares : TokenShares
        Of all heads of `layers`.
    layers : sequence of int
    heads : collection of (layer, head), optional
        Of these layers; all their heads unless given.
    """
    maps_mlht = shares.maps_bclht[0].double().cpu().numpy()
    chosen_lh = np.array(
        [
            [heads is None or (layer, head) in heads for head in range(maps_mlht.shape[2])]
            for layer in layers
        ]
    )
    beside_lh = chosen_lh.any(1, keepdims=True) & ~chosen_lh
    heads_mlh = maps_mlht.sum(-1)
    shown_mt = maps_mlht[:, chosen_lh].sum(1)
    rest = {name: np.zeros(len(maps_mlht)) for name in TERMS}
    for called, share_bc in shares.rest.items():
        rest[_TERM_OF[called]] = rest[_TERM_OF[called]] + share_bc[0].double().cpu().numpy()
    rest["class_token"] = shown_mt[:, : min(1, shares.prefix)].sum(-1)
    rest["registers"] = shown_mt[:, 1 : shares.prefix].sum(-1)
    rest["other_heads"] = heads_mlh[:, beside_lh].sum(-1)
    rest["other_layers"] = rest["other_layers"] + heads_mlh[:, ~(chosen_lh | beside_lh)].sum(-1)
    patches_mt = shown_mt[:, shares.prefix :]
    return Split(
        patches_mt.reshape(-1, *shares.grid), rest, shares.logit_bc[0].double().cpu().numpy()
    )


def shares_of(
    model: VisionModel,
    pixels_hwc: NDArray[np.uint8],
    texts_me: NDArray[np.floating],
    layers: Sequence[int],
    convention: Convention = "centred",
    edit: Edit | None = None,
) -> TokenShares:
    """One pass of the model over one picture.

    Parameters
    ----------
    pixels_hwc : (height, width, 3) uint8
        As the model sees it.
    texts_me : (text, embed)
    layers : sequence of int
        Of which the heads are told apart.
    edit : Edit, optional
        Then it is the edited embedding's.
    """
    # Whoever reads what is stored does without.
    from .tokens import TokenMaps

    return shares_by(TokenMaps(model, layers, convention, edit), pixels_hwc, texts_me)


def shares_by(
    maps: TokenMaps, pixels_hwc: NDArray[np.uint8], texts_me: NDArray[np.floating]
) -> TokenShares:
    """The same by maps that are at hand."""
    import torch

    model = maps.model
    pixels = torch.from_numpy(np.array(pixels_hwc))[None].to(model.device)
    texts_bme = torch.from_numpy(np.asarray(texts_me))[None].to(**model.wide)
    return maps(model.preprocess.to_tensor(pixels), texts_bme)
