"""Edits: how much each part of a model counts in an image's embedding.

An edit has a gain for every head, block and layer's attention bias: 1 leaves the part as it is, 0
puts its mean in its place. On the published scale, where an image's contributions are divided by
the norm of its embedding, the edited embedding is

    embedding/‖embedding‖ − Σ (1 − gain) · contribution + Σ (1 − gain) · mean

so that everything linear in the embedding, a logit or a margin, is linear in the gains. To
mean-ablate parts (Gandelsman 2025, section 2.3) is to give them the gain 0.

An edit is kept as a JSON file: what it says is read here, and by people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from storage import urls
from storage.errors import FacetError
from storage.records import of_json

from .choices import Head

if TYPE_CHECKING:
    from pipeline.models import ModelMaps
    from storage.reductions import Reductions
    from storage.store import Store
    from storage.tables import StoreTables

    from .ablation import Readout
    from .parts import StoredParts

VERSION = 1
_KIND = "facet_edit"


class EditError(FacetError):
    """A file is no edit, or an edit is not one of this model."""


@dataclass(frozen=True, eq=False)
class Edit:
    """Gains of a model's parts, and the means that stand in for what they take away.

    Attributes
    ----------
    name : str
        What was edited, in words.
    weights : str
        Digest of the model's weights: an edit is of one model.
    heads_lh : (L, H) float64
        Gains of the heads.
    blocks_s : (L + 1,) float64
        Of the start (0) and of the MLPs.
    attention_bias_l : (L,) float64
        Of every layer's biases, over the image's ln_std.
    constant_e : (E,) float64
        Σ (1 − gain) · mean contribution, in the joint space and on the published scale.
    means : str
        Which images the means are over, in words.
    """

    name: str
    weights: str
    heads_lh: np.ndarray
    blocks_s: np.ndarray
    attention_bias_l: np.ndarray
    constant_e: np.ndarray
    means: str = ""

    def __post_init__(self) -> None:
        layers, embed = len(self.heads_lh), self.constant_e.size
        shapes = {"blocks_s": (layers + 1,), "attention_bias_l": (layers,), "constant_e": (embed,)}
        for name, shape in shapes.items():
            if (found := getattr(self, name).shape) != shape:
                raise EditError(f"edit {self.name!r}: {name} has shape {found}, not {shape}")
        for name in ("heads_lh", *shapes):
            if not np.isfinite(getattr(self, name)).all():
                raise EditError(f"edit {self.name!r}: {name} holds NaN or infinity")


def edit_from(
    store: Store,
    reductions: Reductions,
    name: str,
    heads: Mapping[Head, float],
    blocks: Mapping[int, float] | None = None,
    attention_bias: Mapping[int, float] | None = None,
) -> Edit:
    """An edit of a store's model, with the means of a reduced subset of its images.

    Parameters
    ----------
    store : Store
    reductions : Reductions
        Of heads and mlps.
    name : str
        What is edited, in words.
    heads, blocks, attention_bias : mapping to float
        Gains by (layer, head), by block and by layer; parts that are not named stay as they are.

    Raises
    ------
    EditError
        If a part does not exist, or a gain is not finite.
    """
    meta = store.meta
    heads_lh = whole(heads, (meta.layers, meta.heads))
    blocks_s = whole(blocks or {}, (meta.layers + 1,))
    bias_l = whole(attention_bias or {}, (meta.layers,))
    constant_e = _mean_taken(store, reductions, heads_lh, blocks_s, bias_l)
    where = reductions.facts.where
    images = f"{reductions.count('mlps'):,} images of {store.url}"
    return Edit(
        name, meta.weights_digest, heads_lh, blocks_s, bias_l, constant_e,
        means=images if where is None else f"{images} where {where}",
    )  # fmt: skip


def edited_mean(store: Store, reductions: Reductions, edit: Edit) -> NDArray[np.float64]:
    """Mean of the edited embeddings of a reduced subset, (E,), on the published scale.

    Parameters
    ----------
    store : Store
    reductions : Reductions
        Of heads, mlps and embedding.
    edit : Edit
    """
    gone_e = _mean_taken(store, reductions, edit.heads_lh, edit.blocks_s, edit.attention_bias_l)
    found: NDArray[np.float64] = reductions.array("embedding_mean").values - gone_e
    return found + edit.constant_e


def _mean_taken(
    store: Store,
    reductions: Reductions,
    heads_lh: np.ndarray,
    blocks_s: np.ndarray,
    bias_l: np.ndarray,
) -> NDArray[np.float64]:
    """Σ (1 − gain) · mean contribution of a reduced subset, (E,)."""
    from .ablation import reduced_means  # brings zarr, which checks of settings do without

    means = reduced_means(reductions)
    maps = {str(name): array.values.astype(np.float64) for name, array in store.model().items()}
    found: NDArray[np.float64] = (1 - blocks_s) @ means.mlps_sd @ maps["mlp_map"]
    found += means.biases(1 - bias_l, maps["attention_bias"], maps.get("bias_map"))
    if store.meta.heads:
        found += np.einsum(
            "lh,lhk,lhke->e", 1 - heads_lh, means.heads_lhk, maps["head_map"], optimize=True
        )
    return found


def whole(gains: Mapping[Any, float], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Gains of all parts, of which only those that are not 1 need be given."""
    found = np.ones(shape)
    for place, gain in gains.items():
        at = place if isinstance(place, tuple) else (place,)
        if len(at) != len(shape) or not all(0 <= i < n for i, n in zip(at, shape, strict=True)):
            raise EditError(
                f"part {'.'.join(map(str, at))} of an edit does not exist: the model has "
                + ", ".join(f"0-{n - 1}" for n in shape)
            )
        found[at] = gain
    return found


def taken(
    parts: StoredParts,
    edit: Edit,
    head_map_lhkx: np.ndarray,
    mlp_map_dx: np.ndarray,
    attention_bias_lx: np.ndarray,
    bias_map_lx: np.ndarray | None,
) -> np.ndarray:
    """Σ (1 − gain) · contribution, on the published scale and through any maps, (N, X).

    Parameters
    ----------
    parts : StoredParts
    edit : Edit
    head_map_lhkx, mlp_map_dx, attention_bias_lx : (L, H, K, X), (D, X), (L, X)
        To the joint space, or on to scores of classes; their dtype is that of the sum.
    bias_map_lx : (L, X) or None
        In models that have one.
    """
    dtype = mlp_map_dx.dtype
    inverse_b = 1 / parts.scale_b
    total = np.zeros((len(inverse_b), mlp_map_dx.shape[1]), dtype)
    for layer, loss_h in enumerate(1 - edit.heads_lh):
        mask = loss_h != 0
        if mask.any():
            u_bhk = np.asarray(parts.heads_blhk[:, layer, mask], dtype)
            u_bhk = (u_bhk * np.outer(inverse_b, loss_h[mask])[:, :, None]).astype(dtype)
            map_hkx = head_map_lhkx[layer, mask]
            total += u_bhk.reshape(len(u_bhk), -1) @ map_hkx.reshape(-1, map_hkx.shape[-1])
    loss_s = 1 - edit.blocks_s
    mask = loss_s != 0
    if mask.any():
        blocks_bd = np.einsum("bsd,s->bd", np.asarray(parts.mlps_bsd[:, mask], dtype), loss_s[mask])
        total += (blocks_bd * inverse_b[:, None]).astype(dtype) @ mlp_map_dx
    total += parts.biases(1 - edit.attention_bias_l, attention_bias_lx, bias_map_lx).astype(dtype)
    return total


def edited_embedding(parts: StoredParts, edit: Edit, maps: ModelMaps) -> np.ndarray:
    """Embeddings of images with an edit applied, on the published scale, (N, E) float64.

    Not divided by their own norm: that is still the norm of the embedding as it was.
    """
    unit_be = np.asarray(parts.embedding_be, np.float64) / parts.norm_b[:, None]
    gone_be = taken(parts, edit, maps.head_map, maps.mlp_map, maps.attention_bias, maps.bias_map)
    found: np.ndarray = unit_be - gone_be + edit.constant_e
    return found


def edited_logits(parts: StoredParts, edit: Edit, readout: Readout) -> np.ndarray:
    """Zero-shot logits of images with an edit applied, (N, C), as ``ablation.logits`` has them."""
    unit_be = (np.asarray(parts.embedding_be) / parts.norm_b[:, None]).astype(readout.dtype)
    kept_be = unit_be + edit.constant_e.astype(readout.dtype)
    gone_bc = taken(
        parts, edit, readout.heads_lhkc, readout.mlp_dc, readout.attention_bias_lc,
        readout.bias_map_lc,
    )  # fmt: skip
    found: np.ndarray = kept_be @ readout.classes.T - gone_bc
    return found


@dataclass(frozen=True)
class _File:
    """What an edit's file holds: gains that are not 1, by layer.head, block and layer."""

    facet_edit: int
    name: str
    weights: str
    means: str
    layers: int
    heads: int
    head_gains: dict[str, float]
    block_gains: dict[str, float]
    attention_bias_gains: dict[str, float]
    constant: list[float]


def write_edit(edit: Edit) -> bytes:
    """An edit as a file: JSON, with every number to its last digit."""
    layers, heads = edit.heads_lh.shape
    kept = _File(
        VERSION, edit.name, edit.weights, edit.means, layers, heads,
        _sparse(edit.heads_lh), _sparse(edit.blocks_s), _sparse(edit.attention_bias_l),
        edit.constant_e.tolist(),
    )  # fmt: skip
    return json.dumps(asdict(kept), indent=1, ensure_ascii=False).encode()


def read_edit(url: str, store: StoreTables | Store) -> Edit:
    """The edit of a file, for a store.

    Raises
    ------
    EditError
        If there is no such file, it is no edit, or is of other weights than the store.
    """
    edit, meta = edit_at(url), store.meta
    sizes = (meta.layers, meta.heads, meta.embed)
    refuse_other_model(edit, meta.weights_digest, sizes, f"the store at {store.url}")
    return edit


def edits_digest(edits: Iterable[Edit]) -> list[str]:
    """sha256 of edits, hex: all that they say."""
    return [hashlib.sha256(write_edit(edit)).hexdigest() for edit in edits]


def edit_at(url: str) -> Edit:
    """The edit of a file, of whatever model."""
    try:
        raw = json.loads(urls.read_bytes(url))
    except FileNotFoundError as error:
        raise EditError(f"there is no edit at {url}") from error
    except (OSError, ValueError) as error:
        raise EditError(f"{url} is no edit: it cannot be read as JSON ({error})") from error
    if not isinstance(raw, dict) or _KIND not in raw:
        raise EditError(f"{url} is no edit: it has no {_KIND!r}; give a file that repair wrote")
    if raw[_KIND] != VERSION:
        raise EditError(
            f"{url} is an edit of version {raw[_KIND]}; this Facet reads version {VERSION}"
        )
    try:
        kept = of_json(_File, raw, f"the edit at {url}")
        return Edit(
            kept.name,
            kept.weights,
            _dense(kept.head_gains, (kept.layers, kept.heads)),
            _dense(kept.block_gains, (kept.layers + 1,)),
            _dense(kept.attention_bias_gains, (kept.layers,)),
            np.array(kept.constant, np.float64),
            kept.means,
        )
    except (EditError, TypeError, ValueError, AttributeError, MemoryError) as error:
        raise EditError(f"the edit at {url} does not hold together: {error}") from error


def refuse_other_model(edit: Edit, weights: str, sizes: tuple[int, int, int], owner: str) -> None:
    """An edit of one model means nothing to another, of other weights or (layers, heads, embed)."""
    if edit.weights != weights:
        raise EditError(
            f"edit {edit.name!r} is of weights {edit.weights[:12]}, and {owner} is of "
            f"{weights[:12]}: an edit fits the model that it was made for alone"
        )
    if (own := (*edit.heads_lh.shape, len(edit.constant_e))) != sizes:
        raise EditError(
            f"edit {edit.name!r} has {own[0]} layers of {own[1]} heads and {own[2]} axes, and "
            f"{owner} {sizes[0]} of {sizes[1]} and {sizes[2]}"
        )


def _sparse(gains: np.ndarray) -> dict[str, float]:
    return {
        ".".join(map(str, at)): float(gains[tuple(at)]) for at in np.argwhere(gains != 1).tolist()
    }


def _dense(gains: Mapping[str, float], shape: tuple[int, ...]) -> NDArray[np.float64]:
    return whole({tuple(int(i) for i in at.split(".")): gain for at, gain in gains.items()}, shape)
