"""Zero-shot classification from stored contributions, with any set of them mean-ablated.

An image's logits are linear in its contributions, so an ablation never runs the model: with
classes T, what a head writes to the logits is ``u @ (head_map @ T.T) / (ln_std ‖embedding‖)``,
and mean-ablating it takes away that less its mean over a reference subset. Logits start from
the model's own embedding; only what is ablated is recomputed (Gandelsman 2025, sections 2.3
and 2.4, Tables 2.1 and A.1, Figures 2.2 and 2.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.stats.accuracy import predicted_classes
from storage.reductions import Reductions, as_spans

from .names import head_name
from .parts import StoredParts

if TYPE_CHECKING:  # workers that only predict start without torch
    from pipeline.models import ModelMaps

Head = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Means:
    """Mean contributions of a reference subset, on the published scale; float64.

    Attributes
    ----------
    heads_lhk, mlps_sd : (L, H, K), (L + 1, D)
        In factored coordinates.
    inverse_scale : float
        Mean of 1 / (ln_std ‖embedding‖), which carries the attention's constant biases.
    class_token_e : (E,) or None
    bias_weights_l : (L,) or None
        Mean of bias_weights / (ln_std ‖embedding‖), which carries those of ``bias_map``.
    """

    heads_lhk: np.ndarray
    mlps_sd: np.ndarray
    inverse_scale: float
    class_token_e: np.ndarray | None
    bias_weights_l: np.ndarray | None = None

    def biases(
        self, losses_l: np.ndarray, attention_bias_lx: np.ndarray, bias_map_lx: np.ndarray | None
    ) -> np.ndarray:
        """Mean of `StoredParts.biases`, (X,) float64."""
        total: np.ndarray = self.inverse_scale * (losses_l @ attention_bias_lx)
        if bias_map_lx is not None:
            assert self.bias_weights_l is not None  # whoever has the map has them
            total = total + (losses_l * self.bias_weights_l) @ bias_map_lx
        return total


def reduced_means(reductions: Reductions) -> Means:
    """Mean contributions of a reduced subset.

    Raises
    ------
    StoreError
        If a component of the store was not reduced.
    """
    arrays, meta, token = reductions.array, reductions.meta, None
    mlps_sd = arrays("mlps_mean").values
    if "tokens_mean" in reductions.data and meta.prefix:
        token = arrays("tokens_mean").isel(token=0).values
    if not meta.heads:  # then there is no attention's bias either
        return Means(np.zeros((meta.layers, 0, 0)), mlps_sd, 0.0, token)
    return Means(
        arrays("heads_mean").values,
        mlps_sd,
        float(arrays("inverse_scale_mean")),
        token,
        arrays("bias_weights_mean").values if meta.varying_bias else None,
    )


@dataclass(frozen=True, eq=False)
class Ablation:
    """What is replaced by its mean.

    Attributes
    ----------
    name : str
    heads : (L, H) bool
        Heads replaced by their means.
    blocks : (L + 1,) bool
        Blocks replaced by their means: 0 is the class token's start, l + 1 the MLP of layer l.
    attention_bias : (L,) bool
        Layers whose biases, over the image's ln_std, are replaced by their mean.
    class_token : bool
        Replace what heads write from the class token itself.
    spans : mapping of (layer, head) to (m, E) float
        Heads replaced by their projection, about their mean, on these orthonormal directions.
    """

    name: str
    heads: np.ndarray
    blocks: np.ndarray
    attention_bias: np.ndarray
    class_token: bool = False
    spans: Mapping[Head, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        twice = [head for head in self.spans if self.heads[head]]
        if twice:
            raise ValueError(
                f"ablation {self.name!r} replaces {head_name(*twice[0])} both by its mean and by a "
                "projection: choose one"
            )
        if self.class_token and (self.heads.any() or self.spans):
            raise ValueError(
                f"ablation {self.name!r} replaces the class token's contribution and heads that "
                "contain it: it would be taken away twice"
            )


@dataclass(frozen=True)
class ModelSize:
    """How many layers and heads a layer a model has."""

    layers: int
    heads: int

    def ablation(
        self,
        name: str,
        heads: Iterable[Head] = (),
        layers: Iterable[int] = (),
        mlps: bool = False,
        start: bool = False,
        class_token: bool = False,
        spans: Mapping[Head, np.ndarray] | None = None,
    ) -> Ablation:
        """An ablation of single heads, whole attention layers with their bias, MLPs, the start."""
        head_mask = np.zeros((self.layers, self.heads), bool)
        bias = np.zeros(self.layers, bool)
        for head in heads:
            head_mask[head] = True
        for layer in layers:
            head_mask[layer], bias[layer] = True, True
        blocks = np.full(self.layers + 1, mlps)
        blocks[0] = start
        return Ablation(name, head_mask, blocks, bias, class_token, spans or {})


def all_mlps(size: ModelSize) -> list[Ablation]:
    """All MLPs at once (Table 2.1)."""
    return [size.ablation("all MLPs", mlps=True)]


def accumulated_layers(size: ModelSize) -> list[Ablation]:
    """Attention layers 0 to l, for every l (Figure 2.2)."""
    return [
        size.ablation(f"attention of layers 0-{last}", layers=range(last + 1))
        for last in range(size.layers)
    ]


def single_layers(size: ModelSize) -> list[Ablation]:
    """One attention layer at a time."""
    return [size.ablation(f"attention of layer {i}", layers=[i]) for i in range(size.layers)]


def single_heads(size: ModelSize) -> list[Ablation]:
    """One head at a time."""
    return [
        size.ablation(head_name(*head), heads=[head])
        for head in np.ndindex(size.layers, size.heads)
    ]


def class_token(size: ModelSize, layers: Sequence[int]) -> list[Ablation]:
    """What heads of some layers write from the class token itself, alone and with all MLPs.

    Table A.1, where ``layers`` are all: the names say which they are.
    """
    name = f"class token of {layer_names(layers, size.layers)}"
    return [
        size.ablation(name, class_token=True),
        size.ablation(f"{name} and all MLPs", class_token=True, mlps=True),
    ]


def layer_names(layers: Sequence[int], of: int) -> str:
    """Layers in words: ``all layers``, ``layer 3``, ``layers 0, 2-3``."""
    if sorted(layers) == list(range(of)):
        return "all layers"
    names = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in as_spans(layers))
    return f"layer{'s' if len(layers) > 1 else ''} {names}"


def spans(
    size: ModelSize, directions: Mapping[Head, np.ndarray], counts: Sequence[int], name: str
) -> list[Ablation]:
    """All but the first m directions of the given heads (Figure 2.3).

    Each head is projected, about its mean, on its first m ``directions`` (rows, E), orthonormal
    as TextSpan gives them; zero rows add nothing. All other heads, the MLPs and the start are
    replaced by their means; the constant bias of a layer stays where the layer has such heads.
    """
    kept = {layer for layer, _ in directions}
    others = [layer for layer in range(size.layers) if layer not in kept]
    rest = [(i, h) for i in kept for h in range(size.heads) if (i, h) not in directions]
    return [
        size.ablation(
            f"all but {m} of {name}",
            heads=rest,
            layers=others,
            mlps=True,
            start=True,
            spans={head: rows[:m] for head, rows in directions.items()},
        )
        for m in counts
    ]


def random_heads(
    size: ModelSize, count: int, trials: int, seed: int = 0, among: Sequence[Head] | None = None
) -> list[Ablation]:
    """Sets of ``count`` random heads, the baseline of a chosen set of that size."""
    pool = list(np.ndindex(size.layers, size.heads)) if among is None else list(among)
    if not 1 <= count <= len(pool):
        raise ValueError(f"{count} random heads out of {len(pool)}: ask for 1 to {len(pool)}")
    rng = np.random.default_rng(seed)
    return [
        size.ablation(
            f"{count} random heads, trial {trial}",
            heads=[pool[i] for i in rng.choice(len(pool), count, replace=False)],
        )
        for trial in range(trials)
    ]


def random_directions(count: int, embed: int, seed: int = 0) -> np.ndarray:
    """A pool of Gaussian vectors in place of texts (Gandelsman 2025, A), (count, embed) float32."""
    return np.random.default_rng(seed).standard_normal((count, embed)).astype(np.float32)


class Readout:
    """The maps from factored coordinates to class scores; computed once for all images.

    Parameters
    ----------
    maps : ModelMaps
    classes : (C, E) float
        Unit embeddings of the classes; their dtype is that of the logits.
    """

    def __init__(self, maps: ModelMaps, classes: np.ndarray) -> None:
        self.head_map_lhke = np.asarray(maps.head_map)
        self.classes = np.asarray(classes)
        self.dtype = self.classes.dtype
        if self.classes.ndim != 2 or self.classes.shape[1] != maps.mlp_map.shape[1]:
            raise ValueError(
                f"classes have shape {self.classes.shape}; give (C, {maps.mlp_map.shape[1]}), "
                "encoded by the model of this store"
            )
        self.heads_lhkc = self._project(maps.head_map)
        self.mlp_dc = self._project(maps.mlp_map)
        self.attention_bias_lc = self._project(maps.attention_bias)
        self.bias_map_lc = None if maps.bias_map is None else self._project(maps.bias_map)

    def _project(self, joint: np.ndarray) -> np.ndarray:
        return (joint @ self.classes.T.astype(np.float64)).astype(self.dtype)

    def outside(self, head: Head, directions: np.ndarray) -> np.ndarray:
        """Map (K, C) of what a head writes outside the span of orthonormal directions (m, E)."""
        inside = self._project(self.head_map_lhke[head] @ directions.T @ directions)
        return self.heads_lhkc[head] - inside


class _Effects:
    """What ablations take away from the logits of one chunk of images."""

    def __init__(self, parts: StoredParts, means: Means, readout: Readout) -> None:
        self.parts, self.means, self.readout = parts, means, readout
        self.inverse_b = 1 / parts.scale_b
        self._layers: dict[int, np.ndarray] = {}

    def removed(self, ablation: Ablation) -> np.ndarray:
        """Logits (N, C) that mean-ablation takes away."""
        readout, dtype = self.readout, self.readout.dtype
        total = np.zeros((len(self.inverse_b), len(readout.classes)), dtype)
        for layer, mask in enumerate(ablation.heads):
            if mask.all():
                if layer not in self._layers:
                    self._layers[layer] = self._heads(layer, mask)
                total += self._layers[layer]
            elif mask.any():
                total += self._heads(layer, mask)
        for (layer, head), directions in ablation.spans.items():
            only = np.arange(ablation.heads.shape[1]) == head
            total += self._deviation(layer, only) @ readout.outside((layer, head), directions)
        if ablation.blocks.any():
            blocks = np.asarray(self.parts.mlps_bsd[:, ablation.blocks], dtype).sum(1)
            mean = self.means.mlps_sd[ablation.blocks].sum(0)
            total += (blocks * self.inverse_b[:, None] - mean).astype(dtype) @ readout.mlp_dc
        if ablation.attention_bias.any():
            losses_l = ablation.attention_bias.astype(float)
            maps = (readout.attention_bias_lc, readout.bias_map_lc)
            deviation_bc = self.parts.biases(losses_l, *maps) - self.means.biases(losses_l, *maps)
            total += deviation_bc.astype(dtype)
        if ablation.class_token:
            total += self._class_token()
        return total

    def _heads(self, layer: int, mask: np.ndarray) -> np.ndarray:
        weights_kc = self.readout.heads_lhkc[layer, mask]
        return self._deviation(layer, mask) @ weights_kc.reshape(-1, weights_kc.shape[-1])

    def _deviation(self, layer: int, mask: np.ndarray) -> np.ndarray:
        """Scaled u less its mean, of some heads of a layer, (N, heads × K)."""
        u = np.asarray(self.parts.heads_blhk[:, layer, mask], self.readout.dtype)
        scaled = u * self.inverse_b[:, None, None] - self.means.heads_lhk[layer, mask]
        return scaled.reshape(len(u), -1).astype(self.readout.dtype)

    def _class_token(self) -> np.ndarray:
        rows, mean = self.parts.class_token_be, self.means.class_token_e
        if rows is None or mean is None:
            raise ValueError(
                "the store holds no token contributions: extract it with `components` tokens to "
                "ablate the class token"
            )
        deviation = np.asarray(rows, np.float64) / self.parts.norm_b[:, None] - mean
        return deviation.astype(self.readout.dtype) @ self.readout.classes.T


def logits(
    parts: StoredParts, means: Means, readout: Readout, ablations: Sequence[Ablation]
) -> Iterable[np.ndarray]:
    """Zero-shot logits (N, C) before and after each ablation; the first are the model's own.

    On the published scale: cosines before ablation; afterwards still divided by the norm of the
    whole embedding, which changes no prediction.
    """
    unit = (np.asarray(parts.embedding_be) / parts.norm_b[:, None]).astype(readout.dtype)
    base = unit @ readout.classes.T
    yield base
    effects = _Effects(parts, means, readout)
    for ablation in ablations:
        yield base - effects.removed(ablation)


def predict(
    parts: StoredParts, means: Means, readout: Readout, ablations: Sequence[Ablation]
) -> np.ndarray:
    """Predicted classes, (1 + ablations, N) int64; row 0 is the model as it is."""
    return np.stack([predicted_classes(f) for f in logits(parts, means, readout, ablations)])
