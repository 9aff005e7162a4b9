"""Maps that need no gradients, of any number of methods in one forward pass.

- ``tokens``: what the chosen heads make of each patch along the class's text less the mean of all
  classes' texts (Gandelsman et al. 2024, section 4.3).
- ``neurons``: mean activation, over the 200 neurons whose second-order effects point most along
  the class's text or against it (Gandelsman et al. 2025, section 3.4).
- ``raw-attention``: the attention in the last block that the tail reads, as the class token's, mean
  over heads.
- ``rollout``: attention followed through the blocks (Abnar & Zuidema 2020).
- ``random``: a control that has seen nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.heads.choices import Head
from pipeline.models import Tower, UnsupportedModel, VisionModel
from pipeline.models.tower import Attention, Left
from pipeline.neurons.maps import Convention, check_mlp_layers

from .asked import Asked
from .choices import Method
from .tokens import TokenReader

PLAIN: tuple[Method, ...] = ("tokens", "neurons", "raw-attention", "rollout", "random")
# Neurons whose activations are averaged, of all chosen layers together.
NEURONS = 200


class PlainMaps:
    """A `MapMaker` of any of the methods above.

    Parameters
    ----------
    model : VisionModel
    methods : collection of str
    tokens : mapping of str to sequence of (layer, head)
        One row for each choice of heads: ``all`` is the row ``tokens all``.
    directions : mapping of int to (neuron, embed) array
        The neurons' directions, of each MLP layer that is chosen, as
        `pipeline.neurons.found_directions.read_directions` gives them.
    convention : {"centred", "equal-share"}
        Of ``tokens``; the published protocol has ``equal-share``.

    Raises
    ------
    ValueError
        If a method is none of these or lacks what it needs.

    Notes
    -----
    Rollout is Π_l rownorm(mean_h A_l + I) over all blocks but block 0, the last block leftmost, of
    which the class token's row is shown: the published baselines of segmentation start at block 1,
    counting from 0 (Chefer et al. 2021). A model with a single block has no product, and its map is
    zero.

    Only rollout asks for whole patterns: (batch, head, token, token) numbers at a time and
    (batch, token, token) of the product so far.
    """

    def __init__(
        self,
        model: VisionModel,
        methods: Collection[Method],
        tokens: Mapping[str, Sequence[Head]] | None = None,
        directions: Mapping[int, NDArray[np.floating]] | None = None,
        convention: Convention = "centred",
    ) -> None:
        if unknown := sorted(set(methods) - set(PLAIN)):
            raise ValueError(f"methods {unknown} are none of {', '.join(PLAIN)}")
        if "tokens" in methods and not tokens:
            raise ValueError("method 'tokens' needs a choice of heads")
        if "neurons" in methods and not directions:
            raise ValueError("method 'neurons' needs directions of neurons")
        if "rollout" in methods and model.reading != "class-token":
            raise UnsupportedModel(
                f"rollout shows what arrives at a class token, and {model.name} is read by "
                f"{model.reading}: choose other methods"
            )
        self.model, self.methods = model, frozenset(methods)
        self._tower = model.tower()
        self._tokens = self._neurons = None
        if "tokens" in methods:
            self._tokens = _TokenRows(model, tokens or {}, convention)
        if "neurons" in methods:
            self._neurons = _Neurons(model, directions or {})

    @torch.inference_mode()
    def __call__(self, images_bchw: Tensor, asked: Asked) -> dict[str, Tensor]:
        """The maps of a batch, (batch, rows, columns), by row: see `MapMaker`."""
        grid, prefix = self.model.grid, self.model.prefix
        found: dict[str, Tensor] = {}
        if self.methods - {"random"}:
            maps = self._pass(images_bchw, asked)
            found = {row: map_bt[:, prefix:].unflatten(1, grid) for row, map_bt in maps.items()}
        if "random" in self.methods:
            drawn = [random_map(number, grid) for number in asked.images_b.tolist()]
            found["random"] = torch.from_numpy(np.stack(drawn)).to(**self.model.wide)
        return found

    def _pass(self, images_bchw: Tensor, asked: Asked) -> dict[str, Tensor]:
        """All methods but ``random``, over all tokens: (batch, token)."""
        tower, tokens, neurons = self._tower, self._tokens, self._neurons
        found: dict[str, Tensor] = {}
        if neurons:
            weights_bn = neurons.weights(asked.texts_be)
        if neurons and tower.trunk:
            x_btd, found["neurons"] = neurons.of_trunk(tower, images_bchw, weights_bn)
            neurons = None  # there are no others
        else:
            x_btd = tower.enter(images_bchw)
        if tokens:
            direction_b1e = tokens.direction(asked)
            rows_brt = x_btd.new_zeros(len(x_btd), len(tokens.names), self.model.tokens)
        if neurons:
            found["neurons"] = torch.zeros_like(x_btd[..., 0])
        if "rollout" in self.methods:
            found["rollout"] = torch.zeros_like(x_btd[..., 0])
        product_bqt = None
        for layer, block in enumerate(tower.blocks):
            attention = block.attention(x_btd)
            if tokens and layer in tokens.layers:
                rows_brt += tokens.read(layer, attention, direction_b1e)
            if "raw-attention" in self.methods and layer == self.model.layers - 1:
                found["raw-attention"] = attention.pattern().mean(1, dtype=x_btd.dtype)
            if "rollout" in self.methods and layer > 0:
                # The block's own attention, too, is taken from the patterns.
                patterns_bhqt = attention.patterns()
                product_bqt = follow(product_bqt, patterns_bhqt, x_btd.dtype)
                found["rollout"] = product_bqt[:, 0]
                x_btd = block.write(x_btd, patterns_bhqt @ attention.values)
                del patterns_bhqt
            else:
                x_btd, _ = block.attend(x_btd, attention)
            hidden_btn, written_btd = block.mlp(x_btd)
            if neurons and layer in neurons.places:
                found["neurons"] += neurons.read(layer, hidden_btn, weights_bn)
            x_btd = x_btd.add_(written_btd)
        if tokens:
            rows_brt = tokens.finish(rows_brt, tower.leave(x_btd), direction_b1e)
            found |= zip(tokens.names, rows_brt.unbind(1), strict=True)
        return found


class _TokenRows:
    """One row for each choice of heads; directions go through a layer's head map once for all."""

    def __init__(
        self, model: VisionModel, choices: Mapping[str, Sequence[Head]], convention: Convention
    ) -> None:
        self._model = model
        self.names = [f"tokens {choice}" for choice in choices]
        self._weights_lrh = torch.stack(
            [head_weights(model, heads) for heads in choices.values()], dim=1
        )
        self.layers = self._weights_lrh.sum((1, 2)).nonzero()[:, 0].tolist()
        self._reader = TokenReader(model, self.layers, convention)

    def direction(self, asked: Asked) -> Tensor:
        """The class's text less the mean of all: maps are less the mean map of all classes."""
        return (asked.texts_be - asked.texts_ce.mean(0))[:, None]

    def read(self, layer: int, attention: Attention, direction_b1e: Tensor) -> Tensor:
        """What a layer adds to the rows, (batch, row, token)."""
        along_b1ht = self._reader.read(attention, self._reader.fold(layer, direction_b1e))
        return self._weights_lrh[layer] @ along_b1ht[:, 0]

    def finish(self, rows_brt: Tensor, left: Left, direction_b1e: Tensor) -> Tensor:
        """On the published scale, with what tokens have of the constants."""
        layer_b1l, _ = self._reader.constants(left, direction_b1e)
        head_b1l = layer_b1l / self._model.heads / self._model.tokens
        constants_b1r = head_b1l @ self._weights_lrh.sum(-1)
        scale_b = left.std_b * left.embedding_be.norm(dim=1)
        return (rows_brt + constants_b1r.mT) / scale_b[:, None, None]


class _Neurons:
    """Which neurons count for a class, and the mean of their activations."""

    def __init__(self, model: VisionModel, directions: Mapping[int, NDArray[np.floating]]) -> None:
        check_mlp_layers(model, list(directions))
        count = model.neurons
        self.places: dict[int, slice] = {}
        start = 0
        for layer, directions_ne in directions.items():
            wanted = (count, model.embed_dim)
            if directions_ne.shape != wanted:
                raise ValueError(
                    f"directions of MLP layer {layer} have shape {directions_ne.shape}, but "
                    f"{model.name} has {wanted}"
                )
            self.places[layer] = slice(start, start + count)
            start += count
        # As wide as can be: which neurons are chosen must not follow from how sums are rounded.
        stacked = np.concatenate([np.asarray(d, np.float64) for d in directions.values()])
        self._directions_ne = torch.from_numpy(stacked).to(model.device)
        self._count = min(NEURONS, start)

    def weights(self, texts_be: Tensor) -> Tensor:
        """Of each text: 1/200 for its neurons and 0 for all others, (batch, neuron)."""
        scores_bn = (texts_be.to(self._directions_ne) @ self._directions_ne.T).abs_()
        weights_bn = torch.zeros_like(scores_bn, dtype=texts_be.dtype)
        return weights_bn.scatter_(1, scores_bn.topk(self._count).indices, 1 / self._count)

    def read(self, layer: int, hidden_btn: Tensor, weights_bn: Tensor) -> Tensor:
        """What a layer adds to the mean, (batch, token)."""
        own_bn1 = weights_bn[:, self.places[layer], None]
        return (hidden_btn @ own_bn1.to(hidden_btn.dtype))[..., 0].to(weights_bn.dtype)

    def of_trunk(
        self, tower: Tower, images_bchw: Tensor, weights_bn: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The stream as it enters an attention pool, and the mean over the trunk's neurons, (batch,
        token), of the tokens that the pool looks at."""
        x_btd = tower.stem(images_bchw)
        mean_bt = torch.zeros_like(x_btd[..., 0])
        for layer, block in enumerate(tower.trunk):
            x_btd, _, hidden_btn, *_ = block.neurons(x_btd, block.attention(x_btd))
            if layer in self.places:
                mean_bt += self.read(layer, hidden_btn, weights_bn)
        return tower.hand_over(x_btd), tower.hand_over(mean_bt)


def head_weights(model: VisionModel, heads: Collection[Head]) -> Tensor:
    """1 for each head that is given and 0 for the others, (layer, head).

    Raises
    ------
    ValueError
        If there are none, or one does not exist.
    """
    if not heads:
        raise ValueError("no heads chosen")
    weights_lh = torch.zeros(model.layers, model.heads, **model.wide)
    for layer, head in heads:
        if not (0 <= layer < model.layers and 0 <= head < model.heads):
            raise ValueError(
                f"head {layer}.{head} does not exist: {model.name} has layers 0 to "
                f"{model.layers - 1} with heads 0 to {model.heads - 1}"
            )
        weights_lh[layer, head] = 1
    return weights_lh


def follow(product_btt: Tensor | None, patterns_bhqt: Tensor, dtype: torch.dtype) -> Tensor:
    """Rollout through one more block: rownorm(mean_h A + I) · the product so far.

    (batch, query, token); queries may be the class token alone.
    """
    step_bqt = patterns_bhqt.mean(1, dtype=dtype)
    step_bqt.diagonal(dim1=1, dim2=2).add_(1)
    step_bqt /= step_bqt.sum(-1, keepdim=True)
    return step_bqt if product_btt is None else step_bqt @ product_btt


def random_map(number: int, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Uniform from 0 to 1, by an image's number alone; (rows, columns)."""
    return np.random.default_rng(number).random(grid)
