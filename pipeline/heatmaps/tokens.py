"""What heads make of each image token, along directions of the joint space.

Token i of head (l, h) contributes α_i v_i · head_map/σ to the embedding: see
``docs/mathematics.md``. Here only its product with a few directions is wanted, of texts for
example. So the directions go through the head map first, and what is left to be done for a token
and a head are head_dim products; its joint-space contribution is never written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.extraction.decompose import bias_weights
from pipeline.heads.edits import Edit, refuse_other_model
from pipeline.models import VisionModel, mean_maps, model_maps
from pipeline.models.tower import Attention, Left
from pipeline.neurons.maps import Convention, head_maps


@dataclass(frozen=True, eq=False)
class TokenShares:
    """A logit ⟨embedding, direction⟩/‖embedding‖ and the shares whose sum it is.

    With an edit, of the edited embedding, still over the length of the model's own.
    """

    maps_bclht: Tensor
    """(batch, direction, layer, head, token): what the heads of the chosen layers, in rising order,
    make of each token."""
    rest: dict[str, Tensor]
    """All else by name, (batch, direction) each."""
    logit_bc: Tensor
    """Of the model's own embedding, or of that with all that an edit takes and adds; (batch,
    direction)."""
    prefix: int
    """Tokens before the patches."""
    grid: tuple[int, int]
    """Rows and columns of patches."""


class TokenReader:
    """Takes directions through head maps, and attention to what its tokens give along them.

    Parameters
    ----------
    model : VisionModel
    layers : sequence of int
        Those that will be read.
    convention : {"centred", "equal-share"}
        Under ``equal-share`` a head's map is P diag(γ) W_O, without C. What the last norm's mean
        and bias and the output biases add is the same for all tokens and heads of a layer:
        `constants`.
    """

    def __init__(
        self, model: VisionModel, layers: Sequence[int], convention: Convention = "centred"
    ) -> None:
        self._model = model
        self._maps = {
            layer: tensor(maps_hke, model).flatten(0, 1)
            for layer, maps_hke in zip(layers, head_maps(model, layers, convention), strict=True)
        }
        self._shared = _shared(model) if convention == "equal-share" else None

    def fold(self, layer: int, directions_bce: Tensor) -> Tensor:
        """Directions in the coordinates of a layer's values, times σ: (batch, direction, head,
        head_dim)."""
        folded_bcd = directions_bce @ self._maps[layer].T
        return folded_bcd.unflatten(-1, (self._model.heads, self._model.head_dim))

    def read(self, attention: Attention, folded_bchk: Tensor) -> Tensor:
        """α_i v_i along folded directions, times σ: (batch, direction, head, token)."""
        folded_bhkc = folded_bchk.permute(0, 2, 3, 1).to(attention.values.dtype)
        along_bhtc = attention.values @ folded_bhkc * attention.pattern().unsqueeze(-1)
        return along_bhtc.permute(0, 3, 1, 2).to(folded_bchk.dtype)

    def constants(self, left: Left, directions_bce: Tensor) -> tuple[Tensor, Tensor]:
        """What each layer, all its heads and tokens together, (batch, direction, layer), and each
        block, (batch, direction), has beside what it wrote; of all layers, times σ.

        Zero unless the convention is ``equal-share``.
        """
        if self._shared is None:
            zero_bc = torch.zeros_like(directions_bce[..., 0])
            return zero_bc[..., None].expand(-1, -1, self._model.layers), zero_bc
        own_le, mean_e, bias_e = self._shared
        block_be = left.std_b[:, None] * bias_e - left.mean_b[:, None] * mean_e
        block_bc = along(directions_bce, block_be)
        return directions_bce @ own_le.T + block_bc.unsqueeze(-1), block_bc


class TokenMaps:
    """Maps of single heads over an image's tokens along directions, and all that they leave out.

    Parameters
    ----------
    model : VisionModel
    layers : sequence of int
        Whose heads are told apart.
    convention : {"centred", "equal-share"}
        ``centred``: every contribution is centred by its own mean, and biases are terms of their
        own. ``equal-share``: the published one (Gandelsman et al. 2024), in which they are spread
        over all components, heads and tokens.
    edit : Edit, optional
        Of this model: contributions count by their gains, the means in their place are a term of
        their own, and the logit is the edited embedding's. Centred convention.

    Raises
    ------
    ValueError
        If a layer does not exist, or the edit is of another model.

    Notes
    -----
    One pass of the model; beside it (direction, layer, head, token) numbers a picture.
    """

    def __init__(
        self,
        model: VisionModel,
        layers: Sequence[int],
        convention: Convention = "centred",
        edit: Edit | None = None,
    ) -> None:
        self.model, self.layers = model, tuple(sorted(set(layers)))
        self._edited = edit is not None
        if edit is None:
            edit = Edit(
                "none", model.weights_digest, np.ones((model.layers, model.heads)),
                np.ones(model.layers + 1), np.ones(model.layers), np.zeros(model.embed_dim),
            )  # fmt: skip
        else:
            sizes = (model.layers, model.heads, model.embed_dim)
            refuse_other_model(edit, model.weights_digest, sizes, f"the model {model.name}")
            if convention != "centred":
                raise ValueError("gains are of centred contributions: `convention` centred")
        if not self.layers:
            raise ValueError("no layers chosen")
        if bad := [layer for layer in self.layers if not 0 <= layer < model.layers]:
            raise ValueError(
                f"layers {bad} do not exist: {model.name} has layers 0 to {model.layers - 1}"
            )
        self._tower = model.tower()
        self._reader = TokenReader(model, range(model.layers), convention)
        self._centred = convention == "centred"
        maps, gains_l = model_maps(model), edit.attention_bias_l
        self._bias_e, self._attention_bias_e, self._lost_bias_e, self._means_e = (
            tensor(a, model)
            for a in (
                maps.bias,
                gains_l @ maps.attention_bias,
                (1 - gains_l) @ maps.attention_bias,
                edit.constant_e,
            )
        )
        self._bias_map_le = None if maps.bias_map is None else tensor(maps.bias_map, model)
        self._gains_l = tensor(gains_l, model)
        self._heads_lh, self._blocks_s = (tensor(a, model) for a in (edit.heads_lh, edit.blocks_s))
        own_mean_e = 0 if self._centred else mean_maps(model).mean_map / model.width
        self._mlp_map_de = tensor(maps.mlp_map + own_mean_e, model)

    @torch.inference_mode()
    def __call__(self, images_bchw: Tensor, directions_bce: Tensor) -> TokenShares:
        """The shares of a batch.

        Parameters
        ----------
        images_bchw : Tensor
            From `Preprocess.to_tensor`.
        directions_bce : Tensor
            (batch, direction, embed), on the model's device, as wide as its residual stream.
        """
        model, reader, tower = self.model, self._reader, self._tower
        x_btd = tower.enter(images_bchw)
        start_bd = tower.read(x_btd).clone()
        mlps_bd, lost_bd = torch.zeros_like(start_bd), (1 - self._blocks_s[0]) * start_bd
        start_bd *= self._blocks_s[0]
        weights: list[Tensor] = []
        maps, others_bc = [], torch.zeros_like(directions_bce[..., 0])
        lost_bc = directions_bce @ self._lost_bias_e
        for layer, block in enumerate(tower.blocks):
            attention = block.attention(x_btd)
            folded_bchk = reader.fold(layer, directions_bce)
            gains_h1 = self._heads_lh[layer, :, None]
            if layer in self.layers:
                maps.append(reader.read(attention, folded_bchk) * gains_h1)
            x_btd, u_bd, mlp_bd, weight_b, _ = block.rest(x_btd, attention)
            if weight_b is not None:
                weights.append(weight_b)
            u_bd = u_bd.to(x_btd.dtype)
            if layer not in self.layers:
                others_bc += along((folded_bchk * gains_h1).flatten(2), u_bd)
            lost_bc += along((folded_bchk * (1 - gains_h1)).flatten(2), u_bd)
            mlps_bd += self._blocks_s[layer + 1] * mlp_bd
            lost_bd += (1 - self._blocks_s[layer + 1]) * mlp_bd
        left = tower.leave(x_btd)
        bias_bc = directions_bce @ self._attention_bias_e
        if (weights_bl := bias_weights(weights, left, model.layers)) is not None:
            assert self._bias_map_le is not None  # whoever has the weights has the map
            varying_bcl = (directions_bce @ self._bias_map_le.T) * weights_bl[:, None]
            bias_bc = bias_bc + varying_bcl @ self._gains_l
            lost_bc += varying_bcl @ (1 - self._gains_l)
        layer_bcl, block_bc = reader.constants(left, directions_bce)
        chosen = list(self.layers)
        others = [layer for layer in range(model.layers) if layer not in chosen]
        each_bcl = layer_bcl[..., chosen] / model.heads / model.tokens
        maps_bclht = torch.stack(maps, 2) + each_bcl[..., None, None]
        rest = {
            "MLPs": along(directions_bce, mlps_bd @ self._mlp_map_de) + model.layers * block_bc,
            "start": along(directions_bce, start_bd @ self._mlp_map_de) + block_bc,
        }
        if others:
            rest["other layers"] = others_bc + layer_bcl[..., others].sum(-1)
        if self._centred:
            rest["attention biases"] = bias_bc
            rest["last norm's bias"] = directions_bce @ self._bias_e * left.std_b[:, None]
        norm_b = left.embedding_be.norm(dim=1)
        scale_b = 1 / (left.std_b * norm_b)
        rest = {name: share_bc * scale_b[:, None] for name, share_bc in rest.items()}
        logit_bc = along(directions_bce, left.embedding_be) / norm_b[:, None]
        if self._edited:
            rest["means"] = directions_bce @ self._means_e
            lost_bc += along(directions_bce, lost_bd @ self._mlp_map_de)
            logit_bc += rest["means"] - lost_bc * scale_b[:, None]
        return TokenShares(
            maps_bclht * scale_b[:, None, None, None, None],
            rest,
            logit_bc,
            model.prefix,
            model.grid,
        )


def along(directions_bce: Tensor, rows_be: Tensor) -> Tensor:
    """Products of each image's row with its directions, (batch, direction)."""
    return (directions_bce @ rows_be.unsqueeze(-1)).squeeze(-1)


def tensor(array: NDArray[np.float64], model: VisionModel) -> Tensor:
    """A map where and as wide as the model's residual stream."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(**model.wide)


def _shared(model: VisionModel) -> tuple[Tensor, Tensor, Tensor]:
    """Of the equal-share convention: what a layer's output bias is in the joint space, times σ,
    (layer, embed); what goes with the last norm's mean, negative, and its bias, to each of the
    2L+1 components, (embed,) both."""
    maps, means = model_maps(model), mean_maps(model)
    components = 2 * model.layers + 1
    own_le = maps.attention_bias + means.attention_bias_mean[:, None] * means.mean_map
    return (
        tensor(own_le, model),
        tensor(means.mean_map / components, model),
        tensor(maps.bias / components, model),
    )
