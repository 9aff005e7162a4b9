"""Exact contributions of heads, MLPs and image tokens from one forward pass (design.md, 4).

The image tower is run block by block, with attention written out as in_proj, attention, out_proj:
what a head contributes is fixed by the class token's row of the attention output *before*
out_proj, which any forward pass computes anyway. In the last block only the class token is
carried past the keys and values, which pays for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models import ModelMaps, VisionModel, model_maps

COMPONENTS = ("heads", "mlps", "tokens")


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a batch, on the model's device; float32, or float64 if the model is.

    embedding = [Σ u·head_map + Σ mlps·mlp_map + Σ attention_bias]/ln_std + bias.
    """

    heads_blhk: Tensor | None
    """u: attention-weighted values of the class token, before out_proj."""
    mlps_bsd: Tensor | None
    """Block 0 is the class token as it enters layer 0, l+1 what the MLP of layer l adds."""
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


class Decomposer:
    """Takes preprocessed images apart.

    Parameters
    ----------
    model
        From `load_model`; its dtype is that of the matrix products. The residual stream, the
        LayerNorms and what comes after the last block stay in float32 (float64).
    components
        Which of ``heads``, ``mlps`` and ``tokens`` to return.
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
        if bad := [layer for layer in token_layers if not 0 <= layer < model.layers]:
            raise ValueError(
                f"token layers {bad} do not exist: {model.name} has layers 0 to {model.layers - 1}"
            )
        if "tokens" in components and not token_layers:
            raise ValueError("component 'tokens' needs token_layers, for example the last 4")
        self.model, self.stored = model, stored
        self.components = tuple(components)
        self.token_layers = tuple(sorted(set(token_layers)))
        self._blocks = [Block(block, model) for block in model.blocks]
        self._maps = _TensorMaps(model_maps(model), model)

    @torch.inference_mode()
    def __call__(self, images_bchw: Tensor) -> Parts:
        """Decompose a batch.

        Parameters
        ----------
        images_bchw
            From `Preprocess.to_tensor`.
        """
        model = self.model
        x_btd = enter(model, images_bchw)
        batch = len(x_btd)
        heads_bld = x_btd.new_empty(batch, model.layers, model.width)
        mlps_bsd = x_btd.new_empty(batch, model.layers + 1, model.width)
        tokens_bte = (
            x_btd.new_zeros(batch, model.tokens, model.embed_dim) if self.token_layers else None
        )
        mlps_bsd[:, 0] = x_btd[:, 0]
        for layer, block in enumerate(self._blocks):
            q, k, v = block.queries_keys_values(x_btd, class_only=layer == model.layers - 1)
            if tokens_bte is not None and layer in self.token_layers:
                tokens_bte += _weighted_values(q, k, v) @ self._maps.token_map(layer)
            x_btd, u_bd, mlp_bd = block.rest(x_btd, q, k, v)
            heads_bld[:, layer], mlps_bsd[:, layer + 1] = u_bd, mlp_bd
        embedding_be, _, ln_std_b = leave(model, x_btd[:, 0])
        if tokens_bte is not None:
            tokens_bte /= ln_std_b[:, None, None]
        heads_blhk = heads_bld.view(batch, model.layers, model.heads, model.head_dim)
        norm_b = embedding_be.norm(dim=1)

        def distance(heads: Tensor, mlps: Tensor) -> Tensor:
            total_be = self._maps.sum_of_contributions(heads, mlps, ln_std_b)
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
        )

    @torch.inference_mode()
    def token_values(self, images_bchw: Tensor) -> Tensor:
        """α_i v_i of every head and token of `token_layers`, for a few images on demand.

        Returns
        -------
        Tensor
            (batch, chosen layer, token, head, head_dim); its sum over tokens is `heads_blhk`.
            `head_contributions` takes it to the joint space.
        """
        if not self.token_layers:
            raise ValueError("token_values needs token_layers, for example the last 4")
        model = self.model
        x_btd = enter(model, images_bchw)
        values = []
        for layer, block in enumerate(self._blocks):
            q, k, v = block.queries_keys_values(x_btd, class_only=layer == model.layers - 1)
            if layer in self.token_layers:
                values.append(_weighted_values(q, k, v))
            x_btd, _, _ = block.rest(x_btd, q, k, v)
        values_bltd = torch.stack(values, dim=1).to(x_btd.dtype)
        return values_bltd.unflatten(-1, (model.heads, model.head_dim))


def enter(model: VisionModel, images_bchw: Tensor) -> Tensor:
    """The residual stream as it enters layer 0, (batch, token, width)."""
    visual = model.visual
    expected = (3, *model.preprocess.size)
    if images_bchw.ndim != 4 or tuple(images_bchw.shape[1:]) != expected:
        raise ValueError(
            f"images have shape {tuple(images_bchw.shape)}, but {model.name} takes "
            f"(batch, {', '.join(map(str, expected))}): prepare them with model.preprocess"
        )
    filters = visual.conv1.weight
    images = images_bchw.to(filters.device, filters.dtype)
    x_btd = images.new_empty(len(images), model.tokens, model.width)
    x_btd[:, 0] = visual.class_embedding
    # Patches do not overlap, so the convolution is a product; cuDNN's would round it to TF32.
    x_btd[:, 1:] = F.linear(_patches(images, filters.shape[2:]), filters.flatten(1))
    embedded: Tensor = visual.ln_pre(x_btd.add_(visual.positional_embedding))
    return embedded


def _patches(images_bchw: Tensor, side: Sequence[int]) -> Tensor:
    """(batch, patch, 3 · height · width), in the order in which a convolution meets them."""
    b, c, height, width = images_bchw.shape
    down, across = height // side[0], width // side[1]
    cut = images_bchw[:, :, : down * side[0], : across * side[1]]
    cut = cut.reshape(b, c, down, side[0], across, side[1])
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, down * across, -1)


def leave(model: VisionModel, class_bd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Embedding (batch, embed) of the last stream's class token, and its LayerNorm's mean and σ."""
    ln = model.visual.ln_post
    normed_bd, mean, inverse_std = torch.native_layer_norm(
        class_bd, ln.normalized_shape, ln.weight, ln.bias, ln.eps
    )
    return normed_bd @ model.visual.proj, mean[:, 0], 1 / inverse_std[:, 0]


class Block:
    """One residual block, its matrices in the model's dtype."""

    def __init__(self, block: Any, model: VisionModel) -> None:
        self.heads, self.head_dim, self.width = model.heads, model.head_dim, model.width
        self.dtype = model.dtype
        self.ln_1, self.ln_2, self.activation = block.ln_1, block.ln_2, block.mlp.gelu
        attention, mlp = block.attn, block.mlp
        self.in_proj = self._cast(attention.in_proj_weight, attention.in_proj_bias)
        self.out_proj = self._cast(attention.out_proj.weight, attention.out_proj.bias)
        self.c_fc = self._cast(mlp.c_fc.weight, mlp.c_fc.bias)
        self.c_proj = self._cast(mlp.c_proj.weight, mlp.c_proj.bias)

    def _cast(self, *parameters: Tensor) -> tuple[Tensor, ...]:
        return tuple(parameter.detach().to(self.dtype) for parameter in parameters)

    def queries_keys_values(self, x_btd: Tensor, class_only: bool) -> tuple[Tensor, ...]:
        """Each (batch, head, token, head_dim); queries of the class token alone if asked."""
        normed_btd = self.ln_1(x_btd).to(self.dtype)
        weight, bias = self.in_proj
        if not class_only:
            return self._split(F.linear(normed_btd, weight, bias))
        d = self.width
        return (
            *self._split(F.linear(normed_btd[:, :1], weight[:d], bias[:d])),
            *self._split(F.linear(normed_btd, weight[d:], bias[d:])),
        )

    def _split(self, projected: Tensor) -> tuple[Tensor, ...]:
        return (
            projected.unflatten(-1, (-1, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind()
        )

    def attend(self, x_btd: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Attention: the new stream of the queries' tokens, and u of the class token.

        Overwrites `x_btd`.
        """
        mixed_btd = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x_btd = x_btd[:, : mixed_btd.shape[1]].add_(F.linear(mixed_btd, *self.out_proj))
        return x_btd, mixed_btd[:, 0]

    def mlp(self, x_btd: Tensor) -> tuple[Tensor, Tensor]:
        """Neurons after the activation, (batch, token, neuron), and what they write with c_proj."""
        hidden_btn = self.activation(F.linear(self.ln_2(x_btd).to(self.dtype), *self.c_fc))
        return hidden_btn, F.linear(hidden_btn, *self.c_proj)

    def rest(self, x_btd: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attention and MLP: the new stream of the queries' tokens; u and MLP of the class token.

        Overwrites `x_btd`.
        """
        x_btd, u_bd = self.attend(x_btd, q, k, v)
        _, written_btd = self.mlp(x_btd)
        return x_btd.add_(written_btd), u_bd, written_btd[:, 0]


def class_attention(q: Tensor, k: Tensor) -> Tensor:
    """α of the class token, (batch, head, token)."""
    logits_bht = (q[:, :, :1] @ k.transpose(-1, -2)).squeeze(2) * q.shape[-1] ** -0.5
    return logits_bht.softmax(-1)


def _weighted_values(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """α_i v_i of the class token, (batch, token, width), heads side by side."""
    weighted_bthk = v.transpose(1, 2) * class_attention(q, k).transpose(1, 2).unsqueeze(-1)
    return weighted_bthk.flatten(2)


class _TensorMaps:
    """The model's maps where and as wide as its residual stream."""

    def __init__(self, maps: ModelMaps, model: VisionModel) -> None:
        wide = {"dtype": model.visual.proj.dtype, "device": model.device}
        self.head_map_lde = torch.from_numpy(maps.head_map).flatten(1, 2).to(**wide)
        self.mlp_map_de = torch.from_numpy(maps.mlp_map).to(**wide)
        self.attention_bias_e = torch.from_numpy(maps.attention_bias.sum(0)).to(**wide)
        self.bias_e = torch.from_numpy(maps.bias).to(**wide)
        self.dtype = model.dtype

    def token_map(self, layer: int) -> Tensor:
        """The maps of a layer's heads, stacked: (width, embed), in the model's dtype."""
        return self.head_map_lde[layer].to(self.dtype)

    def sum_of_contributions(
        self, heads_blhk: Tensor, mlps_bsd: Tensor, ln_std_b: Tensor
    ) -> Tensor:
        """What the parts add up to, (batch, embed)."""
        centred_be = heads_blhk.flatten(1) @ self.head_map_lde.flatten(0, 1)
        centred_be += mlps_bsd.sum(1) @ self.mlp_map_de
        centred_be += self.attention_bias_e
        return centred_be / ln_std_b[:, None] + self.bias_e
