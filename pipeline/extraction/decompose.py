"""Exact contributions of heads, MLPs and image tokens from one forward pass.

The image tower is run block by block, and what its tail reads is taken down on the way: see
``docs/mathematics.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.models import ModelMaps, VisionModel, model_maps
from pipeline.models.tower import Attention, Block, Left
from storage.layout import COMPONENTS
from storage.tail import scaled, terms

from .components import component_faults


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a batch, on the model's device; float32, or float64 if the model is.

    embedding = [Σ u·head_map + Σ mlps·mlp_map + Σ attention_bias + Σ bias_weights·bias_map]/ln_std
    + bias.
    """

    heads_blhk: Tensor | None
    """u: attention-weighted values of what the tail reads, before the output projection."""
    mlps_bsd: Tensor | None
    """0 is the start, what the tail reads of the stream as it enters layer 0; l+1 what the MLP of
    layer l adds."""
    embedding_be: Tensor
    """The model's own output, not normalised."""
    ln_std_b: Tensor
    """What the last LayerNorm divided by."""
    residual_b: Tensor
    """‖sum of contributions − embedding‖ / ‖embedding‖."""
    rounding_b: Tensor
    """The same with heads and mlps, those that are returned, rounded to the dtype of the store."""
    tokens_bte: Tensor | None
    """Contributions of each image token, summed over the chosen layers and all heads."""
    bias_weights_bl: Tensor | None = None
    """What each layer's varying attention bias counts; None where all count once."""
    sources_blshk: Tensor | None = None
    """u as far as it is from the class token and from registers, (batch, layer, source, head,
    head_dim); the rest of it is from patches."""
    pool_neurons_bn: Tensor | None = None
    """Neurons of an attention pool's MLP, after the activation."""
    channels_bhc: Tensor | None = None
    """What each head of a convolutional network's pool gathers of each channel."""


class Decomposer:
    """Takes preprocessed images apart.

    Parameters
    ----------
    model
        From `load_model`; its dtype is that of the matrix products. The residual stream, the
        LayerNorms and what comes after the last block stay in float32 (float64).
    components
        Which of `COMPONENTS` to return.
    token_layers
        The layers that `Parts.tokens_bte` sums over; none, no tokens.
    stored
        The dtype of the store that `Parts.rounding_b` speaks of.
    """

    def __init__(
        self,
        model: VisionModel,
        components: Sequence[str] = ("heads", "mlps"),
        token_layers: Sequence[int] = (),
        stored: torch.dtype = torch.float16,
    ) -> None:
        if unknown := set(components) - set(COMPONENTS):
            raise ValueError(f"components {sorted(unknown)} are none of {', '.join(COMPONENTS)}")
        if lacking := component_faults(model, components):
            raise ValueError(f"{model.name}: {'; '.join(lacking)}")
        if bad := [layer for layer in token_layers if not 0 <= layer < model.layers]:
            raise ValueError(
                f"token layers {bad} do not exist: {model.name} has layers 0 to {model.layers - 1}"
            )
        if "tokens" in components and not token_layers:
            raise ValueError("component 'tokens' needs token_layers, for example the last 4")
        self.model, self.stored = model, stored
        self.components = tuple(components)
        self.token_layers = tuple(sorted(set(token_layers)))
        self._tower = model.tower()
        self._maps = _TensorMaps(model_maps(model), model)

    @torch.inference_mode()
    def __call__(self, images_bchw: Tensor) -> Parts:
        """Decompose a batch.

        Parameters
        ----------
        images_bchw
            From `Preprocess.to_tensor`.
        """
        model, tower = self.model, self._tower
        # Tokens are told apart by what is read of attention, which is to be known before.
        late = tower.late and not self.token_layers
        x_btd = tower.start(images_bchw) if late else tower.enter(images_bchw)
        batch = len(x_btd)
        heads_bld = x_btd.new_empty(batch, model.layers, model.heads * model.head_dim)
        mlps_bsd = x_btd.new_empty(batch, model.layers + 1, model.width)
        unread: list[tuple[Tensor, Tensor]] = []
        tokens_bte = (
            x_btd.new_zeros(batch, model.tokens, model.embed_dim) if self.token_layers else None
        )
        start_bd = tower.read(x_btd)
        if late:
            start_bd = start_bd.clone()
        else:
            mlps_bsd[:, 0] = start_bd
        weights: list[Tensor] = []
        sources: list[Tensor] = []
        neurons_bn = channels_bhc = None
        normed_btd = None
        for layer, block in enumerate(tower.blocks):
            attention = block.attention(x_btd, normed_btd)
            normed_btd = None  # its memory is needed meanwhile
            if "sources" in self.components:
                sources.append(by_source(attention, model.prefix))
            if "channels" in self.components:
                assert attention.channels_btc is not None  # the sizes say so
                channels_btc = attention.channels_btc
                channels_bhc = attention.pattern().to(channels_btc.dtype) @ channels_btc
            if tokens_bte is not None and layer in self.token_layers:
                tokens_bte += attention.weighted_values() @ self._maps.token_map(layer)
            if "pool_neurons" in self.components:
                x_btd, u_bd, mlp_bd, neurons_bn = self._pooled(block, x_btd, attention)
                weight_b = None
            else:
                behind = tower.blocks[layer + 1] if layer + 1 < model.layers else None
                x_btd, u_bd, mlp_bd, weight_b, normed_btd = block.rest(x_btd, attention, behind)
            if late:
                unread.append((u_bd, mlp_bd))
            else:
                heads_bld[:, layer], mlps_bsd[:, layer + 1] = u_bd, mlp_bd
            if weight_b is not None:
                weights.append(weight_b)
        left = tower.leave(x_btd)
        if late:
            mlps_bsd[:, 0] = tower.read(start_bd)
            for layer, (u_btd, mlp_btd) in enumerate(unread):
                heads_bld[:, layer] = tower.read(u_btd)
                mlps_bsd[:, layer + 1] = tower.read(mlp_btd)
        embedding_be, ln_std_b = left.embedding_be, left.std_b
        bias_weights_bl = bias_weights(weights, left, model.layers)
        if tokens_bte is not None:
            tokens_bte /= ln_std_b[:, None, None]
        heads_blhk = heads_bld.view(batch, model.layers, model.heads, model.head_dim)
        norm_b = embedding_be.norm(dim=1)

        def distance(heads: Tensor, mlps: Tensor) -> Tensor:
            parts = {"heads": heads, "mlps": mlps}
            if bias_weights_bl is not None:
                parts["bias_weights"] = bias_weights_bl
            total_be = self._maps.sum_of_contributions(parts, ln_std_b)
            return (total_be - embedding_be).norm(dim=1) / norm_b

        rounded = [
            x.to(self.stored).to(x.dtype) if name in self.components else x
            for name, x in (("heads", heads_blhk), ("mlps", mlps_bsd))
        ]
        return Parts(
            heads_blhk=heads_blhk if "heads" in self.components else None,
            mlps_bsd=mlps_bsd if "mlps" in self.components else None,
            embedding_be=embedding_be,
            ln_std_b=ln_std_b,
            residual_b=distance(heads_blhk, mlps_bsd),
            rounding_b=distance(rounded[0], rounded[1]),
            tokens_bte=tokens_bte,
            bias_weights_bl=bias_weights_bl,
            sources_blshk=torch.stack(sources, 1) if sources else None,
            pool_neurons_bn=neurons_bn,
            channels_bhc=channels_bhc,
        )

    def _pooled(
        self, block: Block, x_btd: Tensor, attention: Attention
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`Block.rest` of an attention pool, which writes one row, and its MLP's neurons."""
        read = self._tower.read
        x_btd, u_bd, hidden_btn, written_btd, _ = block.neurons(x_btd, attention)
        return x_btd, u_bd, read(written_btd), read(hidden_btn)


def by_source(attention: Attention, prefix: int) -> Tensor:
    """What the heads of a layer gather from the class token and from registers, (batch, source,
    head, head_dim)."""
    pattern_bht = attention.pattern()[:, :, :prefix]
    weighted_bhtk = attention.values[:, :, :prefix] * pattern_bht.unsqueeze(-1)
    return torch.stack([weighted_bhtk[:, :, 0], weighted_bhtk[:, :, 1:].sum(2)], 1)


def bias_weights(weights: Sequence[Tensor], left: Left, layers: int) -> Tensor | None:
    """What each layer's varying attention bias counts, (batch, layer), of what blocks wrote and the
    tail told; None where all count once."""
    if left.bias_weight_b is not None:
        return left.bias_weight_b[:, None].expand(-1, layers)
    return torch.stack(list(weights), 1) if weights else None


class _TensorMaps:
    """The model's maps where and as wide as its residual stream."""

    def __init__(self, maps: ModelMaps, model: VisionModel) -> None:
        self.maps: dict[str, Tensor] = {}
        self.terms = terms(model.heads, model.varying_bias)
        for term in self.terms:
            array = getattr(maps, term.map)
            if not term.values:  # a constant: summed before it is rounded
                array = array.sum(tuple(range(len(term.axes))))
            self.maps[term.map] = torch.from_numpy(array).to(**model.wide)
        self.dtype = model.dtype

    def token_map(self, layer: int) -> Tensor:
        """The maps of a layer's heads, stacked: (heads · head_dim, embed), in the model's dtype."""
        return self.maps["head_map"][layer].flatten(0, 1).to(self.dtype)

    def sum_of_contributions(self, values: Mapping[str, Tensor], ln_std_b: Tensor) -> Tensor:
        """What the parts, by their arrays' names, add up to, (batch, embed)."""
        sums: dict[str, Tensor] = {}
        for term in self.terms:
            new = self.maps[term.map]
            if term.values:
                rows = values[term.values]
                # Axes that the map lacks are summed over first: one product is enough.
                further = tuple(range(1, rows.ndim - len(term.axes)))
                new = (rows.sum(further) if further else rows).flatten(1) @ new.flatten(0, -2)
            sums[term.scale] = sums[term.scale] + new if term.scale in sums else new
        whole: Tensor = scaled(sums["ln_std"], ln_std_b) + sums[""]
        return whole
