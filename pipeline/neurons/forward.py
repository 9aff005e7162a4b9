"""Second-order effects of neurons: one pass gives the coefficients (Gandelsman 2025, 3.3 and B.5).

A neuron n of MLP layer l writes p_i^n w_n at token i. A later head (l', h) reads it through ln_1
and its values, and its class token writes on to the output. With attention and normalisation as
they are, that flow is linear in the neuron, and splits into a number and a fixed vector for each
path (l', h):

    φ_n = (1/σ) Σ_path s_n^path G_n^path,    s_n^path = Σ_i p_i^n α_i^{l',h} / σ_i^{l'},

where α is the class token's attention and σ_i^{l'} what ln_1 divides token i by. Where the tail is
an attention pool, all layers before it have such neurons, and the paths are its heads: α is what
the pool's query attends to. What its heads write is the sum exactly; what an MLP makes of that in
turn is none. This module
computes s while the model runs; `second_order_maps` holds G. The effects themselves, with their
512 numbers a neuron and image, are never needed for a whole data set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models import Block, VisionModel
from pipeline.models.tower import through
from storage.tail import scaled

from .maps import check_mlp_layers, check_neurons, head_maps, value_maps

QUANTITIES = ("coefficients", "totals", "class_neurons", "peaks", "shifts")


@dataclass(frozen=True, eq=False)
class NeuronParts:
    """What a pass found about the neurons of the chosen MLP layers.

    On the model's device; float32, or float64 if the model is. The dicts are keyed by MLP layer
    and empty where a quantity was not asked for.
    """

    coefficients: dict[int, Tensor]
    """s, (batch, path, neuron); paths as
    `second_order_maps.paths` lists them."""
    totals: dict[int, Tensor]
    """Σ_n φ_n, (batch, embed), got without a neuron axis; divided by σ, as φ is."""
    class_neurons: dict[int, Tensor]
    """p_0, what the tail reads of the activations, those at the class token, (batch, neuron): the
    first-order effect is p_0 · `direct_map` / σ."""
    peaks: dict[int, Tensor]
    """Largest activation over the patches, (batch, neuron)."""
    attention_blh: Tensor
    """Σ_i α_i/σ_i of every head (l', h): what a bias of the residual stream is multiplied by."""
    shift_blh: Tensor | None
    """Σ_i α_i μ_i/σ_i, μ_i the mean that the norm before attention subtracts; only the equal-share
    convention needs it."""
    embedding_be: Tensor
    """The model's own output, not normalised."""
    mean_b: Tensor
    """The mean that the last LayerNorm subtracts."""
    ln_std_b: Tensor
    """What the last LayerNorm divided by: σ."""


@dataclass(frozen=True, eq=False)
class TokenReads:
    """What later heads read of each token's neurons, for a few pictures; see `NeuronParts`.

    By MLP layer, s = Σ_i weights · hidden: the part of every token is known.
    """

    hidden: dict[int, Tensor]
    """p, activations, (batch, token, neuron)."""
    weights: dict[int, Tensor]
    """α_i/σ_i, (batch, path, token)."""
    embedding_be: Tensor
    ln_std_b: Tensor

    def coefficients(self, mlp_layer: int) -> Tensor:
        """s, (batch, path, neuron)."""
        return self.weights[mlp_layer] @ self.hidden[mlp_layer]


class NeuronPass:
    """Runs images through the image tower and takes down what neurons do.

    Parameters
    ----------
    model
        From `load_model`.
    mlp_layers
        The MLP layers whose neurons are meant, any but the last; before an attention pool any.
    quantities
        Which of ``coefficients``, ``totals``, ``class_neurons``, ``peaks`` and ``shifts`` to
        return.

    Notes
    -----
    Beside the forward pass it holds the activations of the chosen layers, tokens × neurons each,
    until the last layer has read them.
    """

    def __init__(
        self,
        model: VisionModel,
        mlp_layers: Sequence[int],
        quantities: Sequence[str] = ("coefficients",),
    ) -> None:
        check_mlp_layers(model, mlp_layers)
        if unknown := set(quantities) - set(QUANTITIES):
            raise ValueError(f"quantities {sorted(unknown)} are none of {', '.join(QUANTITIES)}")
        self.model = model
        self.mlp_layers = tuple(sorted(set(mlp_layers)))
        self.quantities = frozenset(quantities)
        self._tower = model.tower()
        self._readers = later = model.readers(self.mlp_layers[0])
        blocks = [self._tower.blocks[layer] for layer in later]
        self._value_map_pdk = torch.cat(
            [torch.from_numpy(value_maps(block.weights)).to(**model.wide) for block in blocks]
        )
        self._head_map_pke = (
            torch.from_numpy(head_maps(model, later)).to(**model.wide).flatten(0, 1)
        )

    def _enter(self, images_bchw: Tensor) -> Tensor:
        """The stream as it enters the first block, with all known that is needed to read it."""
        tower = self._tower
        return tower.stem(images_bchw) if tower.trunk else tower.enter(images_bchw)

    def _blocks(self) -> Iterator[tuple[int, Block, Block | None]]:
        """All of them in order, the trunk's, too, each with the one behind it, if that gets the
        stream as it is; layers as the store counts them, so that those of a trunk stand below 0."""
        tower = self._tower
        for first, blocks in ((-len(tower.trunk), tower.trunk), (0, tower.blocks)):
            for layer, pair in enumerate(zip(blocks, [*blocks[1:], None], strict=False), first):
                yield layer, *pair

    @torch.inference_mode()
    def __call__(self, images_bchw: Tensor) -> NeuronParts:
        """Take down a batch.

        Parameters
        ----------
        images_bchw
            From `Preprocess.to_tensor`.
        """
        model, tower, wanted = self.model, self._tower, self.quantities
        x_btd = self._enter(images_bchw)
        found, normed_btd = _Found(model, x_btd, "shifts" in wanted), None
        for layer, block, behind in self._blocks():
            at = layer + model.trunk_layers
            if layer == 0:
                x_btd = tower.hand_over(x_btd)
            attention = block.attention(x_btd, normed_btd)
            if layer in self._readers:
                found.read(layer, x_btd, attention.pattern(), block.inverse_std(x_btd))
            x_btd, _, hidden_btn, written_btd, normed_btd = block.neurons(x_btd, attention, behind)
            if at in self.mlp_layers:
                # Others are read by no head of a pool.
                hidden_btn, written_btd = tower.hand_over(hidden_btn), tower.hand_over(written_btd)
                found.since[at] = found.paths
                if "coefficients" in wanted:
                    found.hidden[at] = hidden_btn
                if "totals" in wanted:
                    found.written[at] = self._written(block, hidden_btn, written_btd)
                if "class_neurons" in wanted:
                    nothing_bn = torch.zeros_like(hidden_btn[:, 0])  # of a trunk a pool's row reads
                    read_bn = nothing_bn if tower.trunk else tower.read(hidden_btn)
                    found.class_neurons[at] = read_bn.to(x_btd.dtype, copy=True)
                if "peaks" in wanted:
                    found.peaks[at] = hidden_btn[:, model.prefix :].amax(1).to(x_btd.dtype)
        left = tower.leave(x_btd)
        return NeuronParts(
            coefficients=found.coefficients(),
            totals=self._totals(found, left.std_b),
            class_neurons=found.class_neurons,
            peaks=found.peaks,
            attention_blh=found.attention_blh,
            shift_blh=found.shift_blh,
            embedding_be=left.embedding_be,
            mean_b=left.mean_b,
            ln_std_b=left.std_b,
        )

    def _written(self, block: Block, hidden_btn: Tensor, written_btd: Tensor) -> _Neurons:
        """What neurons wrote to every token, and the bias that is still to be taken off."""
        if block.mlp_bias is None:
            return _Neurons(F.linear(hidden_btn, block.down[0]), None)
        return _Neurons(written_btd, block.mlp_bias.to(self.model.wide["dtype"]))

    def _totals(self, found: _Found, ln_std_b: Tensor) -> dict[int, Tensor]:
        """Through the values and output projections of all later heads, path by path."""
        totals = {}
        for at, (written_btd, bias_d) in found.written.items():
            first = found.since[at]
            read_bpd = found.read_of(at, written_btd)
            if bias_d is not None:
                read_bpd -= found.weights_bpt[:, first:].sum(-1, keepdim=True) * bias_d
            values_pbk = read_bpd.transpose(0, 1) @ self._value_map_pdk[first:]
            head_map = self._head_map_pke[first:].flatten(0, 1)
            total_be = values_pbk.transpose(0, 1).flatten(1) @ head_map
            totals[at] = scaled(total_be, ln_std_b)
        return totals

    @torch.inference_mode()
    def tokens(self, images_bchw: Tensor) -> TokenReads:
        """Take down what is read of every token of the chosen layers' neurons, for pictures.

        Parameters
        ----------
        images_bchw
            From `Preprocess.to_tensor`; few, as all activations of the chosen layers are held.
        """
        tower, hidden = self._tower, dict[int, Tensor]()
        weights: dict[int, list[Tensor]] = {layer: [] for layer in self.mlp_layers}
        x_btd, normed_btd = self._enter(images_bchw), None
        for layer, block, behind in self._blocks():
            at = layer + self.model.trunk_layers
            if layer == 0:
                x_btd = tower.hand_over(x_btd)
            attention = block.attention(x_btd, normed_btd)
            if layer in self._readers:
                alpha_bht = attention.pattern().to(x_btd.dtype)
                read_bht = alpha_bht * block.inverse_std(x_btd)[:, None]
                for before in hidden:
                    weights[before].append(read_bht)
            x_btd, _, hidden_btn, _, normed_btd = block.neurons(x_btd, attention, behind)
            if at in self.mlp_layers:
                hidden[at] = tower.hand_over(hidden_btn).to(x_btd.dtype)
        left = tower.leave(x_btd)
        paths = {layer: torch.cat(rows, 1) for layer, rows in weights.items()}
        return TokenReads(hidden, paths, left.embedding_be, left.std_b)

    @torch.inference_mode()
    def token_maps(self, images_bchw: Tensor, mlp_layer: int, neurons: Sequence[int]) -> Tensor:
        """Activations of a few neurons at every token, (batch, token, len(neurons)), for pictures;
        before an attention pool, at every token that it looks at.

        Parameters
        ----------
        images_bchw
            From `Preprocess.to_tensor`.
        mlp_layer
            Any whose neurons have second-order effects.
        neurons
            Their numbers.
        """
        check_mlp_layers(self.model, [mlp_layer])
        check_neurons(self.model, self.model.neurons, neurons)
        x_btd = self._enter(images_bchw)
        *before, block = [*self._tower.trunk, *self._tower.blocks][: mlp_layer + 1]
        x_btd = through(before, x_btd)
        found = block.neurons(x_btd, block.attention(x_btd))
        hidden_btn = self._tower.hand_over(found.hidden_btn)
        return hidden_btn[:, :, list(neurons)].to(x_btd.dtype)


class _Neurons(NamedTuple):
    """What the neurons of an MLP wrote to every token, (batch, token, width), with a bias in it."""

    written_btd: Tensor
    bias_d: Tensor | None


class _Found:
    """What has been gathered of a batch so far.

    What heads read of MLPs before them is multiplied once all have been seen: then it is one
    product for each MLP.
    """

    def __init__(self, model: VisionModel, x_btd: Tensor, shifts: bool) -> None:
        self.hidden: dict[int, Tensor] = {}
        self.written: dict[int, _Neurons] = {}
        self.class_neurons: dict[int, Tensor] = {}
        self.peaks: dict[int, Tensor] = {}
        self.attention_blh = x_btd.new_zeros(len(x_btd), model.layers, model.heads)
        self.shift_blh = torch.zeros_like(self.attention_blh) if shifts else None
        self.since: dict[int, int] = {}
        """By MLP layer, how many paths are of layers up to it."""
        self.paths = 0
        self._weights: list[Tensor] = []
        # A CPU without instructions for them multiplies numbers of 16 bits many times slower.
        self._dtype = model.dtype if x_btd.is_cuda else x_btd.dtype

    def read(self, layer: int, x_btd: Tensor, alpha_bht: Tensor, inverse_std_bt: Tensor) -> None:
        """What the heads of `layer` multiply tokens of the MLPs before it by."""
        weights_bht = alpha_bht.to(x_btd.dtype) * inverse_std_bt[:, None]
        self.attention_blh[:, layer] = weights_bht.sum(-1)
        if self.shift_blh is not None:
            self.shift_blh[:, layer] = (weights_bht * torch.var_mean(x_btd, -1)[1][:, None]).sum(-1)
        self._weights.append(weights_bht)
        self.paths += weights_bht.shape[1]

    @cached_property
    def weights_bpt(self) -> Tensor:
        """α_i/σ_i of all paths."""
        return torch.cat(self._weights, 1)

    @cached_property
    def _rounded_bpt(self) -> Tensor:
        return self.weights_bpt.to(self._dtype)

    def read_of(self, at: int, values_bt: Tensor) -> Tensor:
        """Σ_i weights · values, by path that begins in MLP layer `at`."""
        weights_bpt = self._rounded_bpt[:, self.since[at] :]
        return (weights_bpt @ values_bt.to(self._dtype)).to(self.weights_bpt.dtype)

    def coefficients(self) -> dict[int, Tensor]:
        return {at: self.read_of(at, hidden_btn) for at, hidden_btn in self.hidden.items()}
