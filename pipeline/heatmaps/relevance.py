"""Heat maps by layer-wise relevance propagation (Chefer et al. 2021, Voita et al. 2019).

Relevance 1 starts at the class's logit, which is linear in the embedding, and is handed back layer
by layer by the rules of ``rules.py``:

``lrp``
    what arrives at the patches as they are embedded. Patches do not overlap, so that going on to
    the pixels and summing them patch by patch would give the same. All tokens, the class token's
    and the positions' share included, have 1 in all, less what dead outputs lost.
``partial-lrp``
    what arrives at the last block's attention of the class token: its positive part, mean over
    heads.
``transformer-attribution``
    Ā_l = mean_h (∇A ⊙ R^A)⁺, with ∇A the gradient of the cosine; Π (I + Ā_l), last layer first,
    rows not normalised; its row of the class token.

Models are pooled from the class token: in the last block nothing else has relevance, and nothing
else is run.

Relevance is divided by sums that may come near zero, attention logits above all: in float32 alone
rounding would be a tenth of what ``lrp`` gives for a ViT-B/16. So the forward pass and all sums are
float64, and only the linear rule's products are as wide as the model, which changes maps by 1e-6.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from copy import deepcopy
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from pipeline.models import Block, VisionModel
from pipeline.models.errors import UnsupportedModel
from pipeline.models.tower import Layers

from . import rules
from .asked import Asked
from .choices import Method
from .traced import score

RELEVANCE: tuple[Method, ...] = ("lrp", "partial-lrp", "transformer-attribution")


class RelevanceMaps:
    """Makes the maps of relevance, all in one forward pass, one backward where a gradient is asked
    for, and the way of the relevance.

    Parameters
    ----------
    model
        From `load_model`. Its image tower is copied to float64, if it is not: ``memory.py`` says
        what that and a batch take.
    methods
        Which of `RELEVANCE`.

    Raises
    ------
    ValueError
        For another method.
    UnsupportedModel
        If the model is made otherwise than relevance is defined for.
    """

    def __init__(self, model: VisionModel, methods: Collection[Method] = RELEVANCE) -> None:
        if unknown := set(methods) - set(RELEVANCE):
            raise ValueError(f"methods {sorted(unknown)} are none of {', '.join(RELEVANCE)}")
        self.model = model
        self.methods = tuple(name for name in RELEVANCE if name in methods)
        self._tower = _exact(model).tower()
        self._blocks = replace(model, dtype=model.wide["dtype"]).tower().blocks
        if model.reading != "class-token":
            raise UnsupportedModel(
                f"relevance is handed back to the class token, and {model.name} is not read at "
                "one: choose other methods"
            )
        for block in self._blocks:
            _ = block.layers  # refuses blocks that are made of more
        tail = self._tower.tail
        self._scale_d, self._shift_d, self._projection_ed = (
            torch.from_numpy(array).to(model.device)
            for array in (tail.norm.weight, tail.norm.bias, tail.projection_de.T.copy())
        )

    def __call__(self, images_bchw: Tensor, asked: Asked) -> dict[str, Tensor]:
        """Maps over the patch grid, (batch, rows, columns), by method, as wide as the stream.

        Parameters
        ----------
        images_bchw
            From `Preprocess.to_tensor`.
        asked
        """
        model, maps = self.model, {}
        with torch.no_grad():
            for name, values_bt in self._maps(images_bchw, asked.texts_be.double()):
                patches_bp = values_bt[:, model.prefix :].to(model.wide["dtype"])
                maps[name] = patches_bp.unflatten(1, model.grid)
        return maps

    def _maps(self, images_bchw: Tensor, texts_be: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Of every method that is asked for, all tokens, (batch, token)."""
        wanted = set(self.methods)
        traces, x_btd = self._forward(self._tower.enter(images_bchw))
        gradients = self._gradients(traces, x_btd, texts_be)
        relevance_btd = self._start(x_btd.detach(), texts_be)
        row_bt = x_btd.new_zeros(len(x_btd), self.model.tokens)
        row_bt[:, 0] = 1
        for layer in reversed(range(self.model.layers)):
            trace, weights = traces.pop(), self._blocks[layer].layers
            to_pattern = trace.to_pattern(relevance_btd, weights)
            if layer == self.model.layers - 1 and "partial-lrp" in wanted:
                yield "partial-lrp", to_pattern.pattern_bhqt[:, :, 0].clamp(min=0).mean(1)
                wanted.remove("partial-lrp")
            if gradients:
                along_bqt = (gradients.pop() * to_pattern.pattern_bhqt).clamp_(min=0).mean(1)
                queries = along_bqt.shape[1]  # in the last block, the class token alone
                row_bt = row_bt + (row_bt[:, None, :queries] @ along_bqt)[:, 0]
            if not wanted or (layer == 0 and "lrp" not in wanted):
                break
            relevance_btd = trace.to_input(to_pattern, weights)
        if "transformer-attribution" in wanted:
            yield "transformer-attribution", row_bt
        if "lrp" in wanted:
            tokens_btd, positions_td = self._tower.embed(images_bchw)
            tokens_btd, _ = rules.addition(
                relevance_btd, tokens_btd, positions_td.expand_as(tokens_btd)
            )
            yield "lrp", tokens_btd.sum(-1)

    def _forward(self, x_btd: Tensor) -> tuple[list[_Trace], Tensor]:
        """What each block did, as far as it is wanted, and the class token's stream behind the
        last, (batch, 1, width)."""
        traces: list[_Trace] = []
        with torch.set_grad_enabled("transformer-attribution" in self.methods):
            for layer, block in enumerate(self._tower.blocks):
                queries = 1 if layer == self.model.layers - 1 else self.model.tokens
                trace, x_btd = run(block, x_btd, self.model.heads, queries)
                if self.methods == ("partial-lrp",):
                    traces.clear()  # only the last is gone back through
                traces.append(trace)
        return traces, x_btd

    def _gradients(self, traces: list[_Trace], x_btd: Tensor, texts_be: Tensor) -> list[Tensor]:
        """∂ cosine / ∂A by layer, each (batch, head, query, token); none if none is asked for.
        Lets go of what only gradients need."""
        if "transformer-attribution" not in self.methods:
            return []
        with torch.enable_grad():
            patterns = [trace.pattern_bhqt for trace in traces]
            found = torch.autograd.grad(score(self._tower, x_btd, texts_be).sum(), patterns)
        traces[:] = [trace.detached() for trace in traces]
        return list(found)

    def _start(self, x_btd: Tensor, texts_be: Tensor) -> Tensor:
        """From the class's logit to the class token behind the last block, (batch, 1, width)."""
        left = self._tower.leave(x_btd)
        centred_bd = self._tower.read(x_btd) - left.mean_b[:, None]
        normed_bd = centred_bd / left.std_b[:, None] * self._scale_d + self._shift_d
        given_be = (left.embedding_be * texts_be).clamp(min=0)  # x⁺w⁺ + x⁻w⁻, one output a picture
        relevance_be = rules.parted(given_be, given_be.sum(1, keepdim=True))
        relevance_bd, _ = rules.linear(
            relevance_be, normed_bd, self._projection_ed, left.embedding_be
        )
        return relevance_bd[:, None]


def _exact(model: VisionModel) -> VisionModel:
    """Of a model, the image tower in float64."""
    if model.wide["dtype"] != torch.float64:
        module = nn.Module()
        module.visual = deepcopy(model.visual).double()
        model = replace(model, module=module)
    return replace(model, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class _ToPattern:
    """Relevance on its way through a block, arrived at the attention pattern."""

    stream_btd: Tensor
    """What the residual stream carries past the attention."""
    pattern_bhqt: Tensor
    """R^A."""
    values_bhtk: Tensor


@dataclass(frozen=True, eq=False)
class _Trace:
    """What a block computed: (batch, token, …), or query where a block has but one. Products are
    without their biases."""

    block: Block
    x_btd: Tensor
    query_bqi: Tensor
    key_value_bti: Tensor
    pattern_bhqt: Tensor
    mixed_bqi: Tensor
    """Σ α_i v_i of all heads."""
    attended_bqd: Tensor
    middle_bqd: Tensor
    """The stream between attention and MLP."""
    up_bqn: Tensor
    written_bqd: Tensor

    def detached(self) -> _Trace:
        """Without the graph that gradients take."""
        block, *tensors = (getattr(self, field.name) for field in fields(self))
        return _Trace(block, *(tensor.detach() for tensor in tensors))

    def to_pattern(self, relevance_bqd: Tensor, weights: Layers) -> _ToPattern:
        """From the stream behind the block to the attention pattern; weights as wide as products
        shall be."""
        layers = self.block.layers
        relevance_bqd, written_bqd = rules.addition(
            relevance_bqd, self.middle_bqd, self.written_bqd + layers.down[1]
        )
        hidden_bqn = layers.activation(self.up_bqn + layers.up[1])
        hidden_bqn, _ = rules.linear(written_bqd, hidden_bqn, weights.down[0], self.written_bqd)
        normed_bqd = layers.norm_2(self.middle_bqd)
        normed_bqd, _ = rules.linear(hidden_bqn, normed_bqd, weights.up[0], self.up_bqn)
        stream_bqd, attended_bqd = rules.addition(
            relevance_bqd + normed_bqd,
            self.x_btd[:, : self.middle_bqd.shape[1]],
            self.attended_bqd + layers.out[1],
        )
        _, share_bqi = rules.linear(attended_bqd, self.mixed_bqi, weights.out[0], self.attended_bqd)
        share_bhqk = _heads(share_bqi, self.pattern_bhqt.shape[1])
        _, _, values_bhtk = self._projected()
        # Z = A·V is `mixed`, of which `linear` gives R/Z without a division.
        pattern_bhqt, values_bhkt = rules.operands(
            share_bhqk, self.pattern_bhqt, values_bhtk.transpose(-1, -2)
        )
        return _ToPattern(stream_bqd, pattern_bhqt, values_bhkt.transpose(-1, -2))

    def to_input(self, arrived: _ToPattern, weights: Layers) -> Tensor:
        """From the attention pattern to the stream before the block, (batch, token, width)."""
        queries_bhqk, keys_bhtk, _ = self._projected()
        share_bhqt = rules.parted(arrived.pattern_bhqt, queries_bhqk @ keys_bhtk.transpose(-1, -2))
        queries_bhqk, keys_bhtk = rules.operands(share_bhqt, queries_bhqk, keys_bhtk)
        weight, _ = weights.qkv
        normed_btd, inner = self.block.layers.norm_1(self.x_btd), self.query_bqi.shape[-1]
        relevance_btd, _ = rules.linear(
            torch.cat([_flat(keys_bhtk), _flat(arrived.values_bhtk)], -1),
            normed_btd, weight[inner:], self.key_value_bti,
        )  # fmt: skip
        queries = queries_bhqk.shape[2]
        of_queries_bqd, _ = rules.linear(
            _flat(queries_bhqk), normed_btd[:, :queries], weight[:inner], self.query_bqi
        )
        relevance_btd[:, :queries] += of_queries_bqd + arrived.stream_btd
        return relevance_btd

    def _projected(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values with their biases."""
        return _project(
            self.query_bqi, self.key_value_bti, self.block.layers.qkv[1],
            self.pattern_bhqt.shape[1],
        )  # fmt: skip


def run(block: Block, x_btd: Tensor, heads: int, queries: int) -> tuple[_Trace, Tensor]:
    """Run a block and take down what it does.

    Parameters
    ----------
    block
    x_btd
    heads
    queries
        How many tokens are carried past the keys and values, from the first.

    Returns
    -------
    trace
    stream : (batch, query, width)
    """
    layers = block.layers
    weight, bias = layers.qkv
    inner = len(weight) // 3
    normed_btd = layers.norm_1(x_btd)
    query_bqi = normed_btd[:, :queries] @ weight[:inner].T
    key_value_bti = normed_btd @ weight[inner:].T
    queries_bhqk, keys_bhtk, values_bhtk = _project(query_bqi, key_value_bti, bias, heads)
    logits_bhqt = queries_bhqk @ keys_bhtk.transpose(-1, -2) * queries_bhqk.shape[-1] ** -0.5
    pattern_bhqt = logits_bhqt.softmax(-1)
    if torch.is_grad_enabled() and not pattern_bhqt.requires_grad:
        pattern_bhqt.requires_grad_()  # the first layer's: nothing before it wants a gradient
    mixed_bqi = _flat(pattern_bhqt @ values_bhtk)
    attended_bqd = mixed_bqi @ layers.out[0].T
    middle_bqd = x_btd[:, :queries] + (attended_bqd + layers.out[1])
    up_bqn = layers.norm_2(middle_bqd) @ layers.up[0].T
    written_bqd = layers.activation(up_bqn + layers.up[1]) @ layers.down[0].T
    trace = _Trace(
        block, x_btd, query_bqi, key_value_bti, pattern_bhqt, mixed_bqi, attended_bqd, middle_bqd,
        up_bqn, written_bqd,
    )  # fmt: skip
    return trace, middle_bqd + (written_bqd + layers.down[1])


def _project(
    query_bqi: Tensor, key_value_bti: Tensor, bias_i: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    inner = query_bqi.shape[-1]
    key_bti, value_bti = (key_value_bti + bias_i[inner:]).chunk(2, -1)
    return (
        _heads(query_bqi + bias_i[:inner], heads),
        _heads(key_bti, heads),
        _heads(value_bti, heads),
    )


def _heads(values_bti: Tensor, heads: int) -> Tensor:
    """(batch, head, token, head_dim)."""
    return values_bti.unflatten(-1, (heads, -1)).transpose(1, 2)


def _flat(values_bhtk: Tensor) -> Tensor:
    """(batch, token, head · head_dim)."""
    return values_bhtk.transpose(1, 2).flatten(2)
