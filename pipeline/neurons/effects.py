"""What neurons do otherwise, to compare with: first-order and indirect effects, and ablations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.models import Block, Tower, VisionModel, model_maps

from .maps import SecondOrderMaps, check_neurons

# Values of the residual stream that re-runs may hold at once.
_CPU_VALUES, _GPU_VALUES = 1 << 23, 1 << 28


@dataclass(frozen=True, eq=False)
class Removed:
    """What ablations of a layer's second-order effects take from the embeddings, (batch, embed).

    On the scale of the deviations: with the published one, subtract from the unit embedding.
    """

    all_neurons: Tensor
    """All effects become their mean."""
    small: Tensor
    """Only those of small norm do."""
    large: Tensor
    """Only those of large norm do."""
    beside_component: Tensor
    """Effects become their mean plus their projection on one direction each."""


def ablate(
    deviations_bpn: Tensor,
    large_bn: Tensor,
    directions_ne: Tensor,
    maps: SecondOrderMaps,
    written_ne: Tensor | None = None,
) -> Removed:
    """The ablations of Gandelsman 2025, Figure 3.3, as linear corrections.

    Parameters
    ----------
    deviations_bpn : (B, P, N)
        Coefficients less their mean over the data set.
    large_bn : (B, N) bool
        Which effects count as large.
    directions_ne : (N, E)
        r_n, on which effects are projected.
    written_ne : (N, E), optional
        What replaces r_n in the reconstruction: its sparse code (Gandelsman 2025, Figure 3.4).
    """
    every_be = maps.total(deviations_bpn)
    large_be = maps.total(deviations_bpn * large_bn[:, None])
    scores_bn = (deviations_bpn * maps.readout(directions_ne)).sum(1)
    written_ne = directions_ne if written_ne is None else written_ne
    return Removed(
        all_neurons=every_be,
        small=every_be - large_be,
        large=large_be,
        beside_component=every_be - scores_bn @ written_ne.to(scores_bn),
    )


def direct_map(model: VisionModel, mlp_layer: int) -> Tensor:
    """First-order effects, P diag(γ) C w_n (Gandelsman 2025, section 3.3), (neuron, embed).

    To be multiplied by the activation at the class token and divided by σ; float64, on the CPU.
    Neurons before an attention pool have none: the tail reads nothing of the tokens.
    """
    _check_layer(model, mlp_layer)
    if mlp_layer < model.trunk_layers:
        return torch.zeros(model.neurons, model.embed_dim, dtype=torch.float64)
    weight_dn = torch.from_numpy(_blocks(model.tower())[mlp_layer].weights.down_dn)
    return weight_dn.T @ torch.from_numpy(model_maps(model).mlp_map)


class IndirectEffects:
    """Effects of neurons through everything after them, by running the network again.

    The indirect effect of a neuron is the embedding less what it becomes when the neuron's
    activation at every token is replaced by its mean there over a data set (Gandelsman 2025, 3.3).

    Parameters
    ----------
    model
        From `load_model`.
    mlp_layer
        Any layer; where there is an attention pool, those before it, then its own MLP.
    """

    def __init__(self, model: VisionModel, mlp_layer: int) -> None:
        _check_layer(model, mlp_layer)
        self.model, self.layer = model, mlp_layer
        self._tower = model.tower()
        self._blocks = _blocks(self._tower)

    @torch.inference_mode()
    def activations(self, images_bchw: Tensor) -> Tensor:
        """p, (batch, token, neuron), for the means; in the last layer, where it is carried on.
        Before an attention pool, of all tokens that there are."""
        return self._until(images_bchw)[1]

    @torch.inference_mode()
    def __call__(
        self, images_bchw: Tensor, means_tn: Tensor, neurons: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Ablate neurons one by one.

        Parameters
        ----------
        images_bchw
            From `Preprocess.to_tensor`.
        means_tn
            (token, neuron): the mean of `activations` over a data set.
        neurons
            Which to ablate.

        Returns
        -------
        tuple of Tensor
            Indirect effects (batch, len(neurons), embed), and the embeddings (batch, embed).
        """
        check_neurons(self.model, self._blocks[self.layer].down[0].shape[1], neurons)
        x_btd, hidden_btn = self._until(images_bchw)
        embedding_be = self._after(x_btd.clone())
        changes_btn = self._changes(hidden_btn, means_tn)
        weight_nd = self._blocks[self.layer].down[0].T.to(x_btd.dtype)
        most = _GPU_VALUES if x_btd.is_cuda else _CPU_VALUES
        step = max(1, most // x_btd.numel())
        effects = []
        for start in range(0, len(neurons), step):
            chosen = list(neurons[start : start + step])
            changed = changes_btn[:, :, chosen].permute(2, 0, 1)[..., None]
            streams = x_btd + changed * weight_nd[chosen][:, None, None]
            ablated = self._after(streams.flatten(0, 1)).unflatten(0, streams.shape[:2])
            effects.append(embedding_be[:, None] - ablated.transpose(0, 1))
        return torch.cat(effects, 1), embedding_be

    @torch.inference_mode()
    def ablate_all(self, images_bchw: Tensor, means_tn: Tensor) -> Tensor:
        """Embeddings (batch, embed) with all neurons of the layer at their means together."""
        x_btd, hidden_btn = self._until(images_bchw)
        weight_nd = self._blocks[self.layer].down[0].T.to(x_btd.dtype)
        return self._after(x_btd + self._changes(hidden_btn, means_tn) @ weight_nd)

    def _until(self, images_bchw: Tensor) -> tuple[Tensor, Tensor]:
        """The stream as it leaves the layer's block, and the layer's activations."""
        x_btd = self._tower.stem(images_bchw)  # what is read on the way is not needed
        for layer in range(self.layer):
            x_btd = self._step(layer, x_btd)
        block, x_btd = self._into(self.layer, x_btd)
        found = block.neurons(x_btd, block.attention(x_btd))
        return found.stream_btd, found.hidden_btn.to(x_btd.dtype)

    def _after(self, x_btd: Tensor) -> Tensor:
        """Embeddings from the stream as it leaves the layer's block; overwrites it."""
        self._tower.read.forget()
        for layer in range(self.layer + 1, len(self._blocks)):
            x_btd = self._step(layer, x_btd)
        return self._tower.leave(x_btd).embedding_be

    def _step(self, layer: int, x_btd: Tensor) -> Tensor:
        block, x_btd = self._into(layer, x_btd)
        return block.rest(x_btd, block.attention(x_btd)).stream_btd

    def _into(self, layer: int, x_btd: Tensor) -> tuple[Block, Tensor]:
        """A block, and what it gets of the stream that the one before it left."""
        if layer == self.model.trunk_layers:
            x_btd = self._tower.hand_over(x_btd)
        return self._blocks[layer], x_btd

    def _changes(self, hidden_btn: Tensor, means_tn: Tensor) -> Tensor:
        if means_tn.shape != hidden_btn.shape[1:]:
            raise ValueError(
                f"means have shape {tuple(means_tn.shape)}; layer {self.layer} of "
                f"{self.model.name} needs {tuple(hidden_btn.shape[1:])}, (token, neuron)"
            )
        return means_tn.to(hidden_btn) - hidden_btn


def _blocks(tower: Tower) -> list[Block]:
    """By the number of their MLP layer."""
    return [*tower.trunk, *tower.blocks]


def _check_layer(model: VisionModel, mlp_layer: int) -> None:
    last = model.trunk_layers + model.layers - 1
    if not 0 <= mlp_layer <= last:
        raise ValueError(
            f"MLP layer {mlp_layer} does not exist: {model.name} has layers 0 to {last}"
        )
