"""What the terms of a library's own model are, from hooks on its own modules: nothing of ours.

`golden` runs the module once, in float64, and reads from the inputs and outputs of its parts what
every head and MLP wrote. It knows how each library builds its blocks, and no more; its terms sum to
the module's output, which a test holds.

Letters: b image, l layer, h head, k head_dim, t token, q query, d width, e embed, s block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class Taps:
    """Inputs and outputs of every part of a module in one pass."""

    def __init__(self, module: nn.Module, images: Tensor) -> None:
        self.before: dict[nn.Module, Tensor] = {}
        self.after: dict[nn.Module, Tensor] = {}
        self.given: dict[nn.Module, dict[str, Any]] = {}
        handles = [
            part.register_forward_hook(self._see, with_kwargs=True) for part in module.modules()
        ] + [part.register_forward_pre_hook(self._meet) for part in module.modules()]
        with torch.no_grad():
            output = module(images)
        for handle in handles:
            handle.remove()
        self.output: Tensor = output[0] if isinstance(output, tuple) else output

    def _meet(self, part: nn.Module, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            self.before[part] = given[0].clone()  # some parts work in place

    def _see(self, part: nn.Module, _: Any, kwargs: dict[str, Any], output: Any) -> None:
        self.given[part] = kwargs
        self.after[part] = (output[0] if isinstance(output, tuple) else output).clone()


@dataclass(frozen=True, eq=False)
class Golden:
    """The terms of an image tower; float64."""

    output_be: Tensor
    u_blhk: Tensor
    """What heads gathered, as the tail reads it, divided by what norms behind it divide by."""
    rows_bsd: Tensor
    """What the tail reads of the stream as it enters, and of every MLP's output."""
    weights_bl: Tensor
    """By what an attention's constants are multiplied."""
    std_b: Tensor
    head_map_lhke: Tensor
    mlp_map_de: Tensor
    constants_le: Tensor
    """Of the attention, to be multiplied by its weights, and divided by σ."""
    fixed_e: Tensor
    """Of the attention, to be divided by σ alone: β of a norm behind it."""
    bias_e: Tensor
    values: Callable[[int, int], Tensor]
    """By loops: α_i v_i of one (layer, head), (batch, token, head_dim)."""

    @property
    def heads_blhe(self) -> Tensor:
        """What every head adds to the output."""
        written = torch.einsum("blhk,lhke->blhe", self.u_blhk, self.head_map_lhke)
        return written / self.std_b[:, None, None, None]

    @property
    def mlps_bse(self) -> Tensor:
        """What the stream as it enters and every MLP add to the output."""
        return self.rows_bsd @ self.mlp_map_de / self.std_b[:, None, None]

    def sum(self) -> Tensor:
        """All terms: the output."""
        constants = self.weights_bl @ self.constants_le + self.fixed_e
        parts = self.heads_blhe.sum((1, 2)) + self.mlps_bse.sum(1)
        return parts + constants / self.std_b[:, None] + self.bias_e


@dataclass(frozen=True, eq=False)
class Layer:
    """One block of a tower, of every token."""

    gathered_bthk: Tensor
    out_dhk: Tensor
    constant_d: Tensor
    scale_bt: Tensor
    """By what a norm behind the projection multiplies, else 1."""
    fixed_d: Tensor
    written_btd: Tensor
    """What the attention added, as the module had it."""
    mlp_btd: Tensor
    attention: Look
    inner_std_bt: Tensor

    def check(self) -> None:
        """The attention's terms are what it wrote."""
        found = torch.einsum("bthk,dhk->btd", self.gathered_bthk, self.out_dhk) + self.constant_d
        found = self.scale_bt[..., None] * found + self.fixed_d
        torch.testing.assert_close(found, self.written_btd, rtol=1e-10, atol=1e-10)


@dataclass(frozen=True, eq=False)
class Look:
    """Queries, keys and values of an attention, (batch, head, token, head_dim), and what is added
    to the logits, (head, query, token)."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias_hqt: Tensor | None = None

    def alpha(self, image: int, head: int, query: int) -> list[float]:
        """α of one query over the tokens, number by number."""
        logits = []
        for token in range(self.k.shape[2]):
            pairs = zip(
                self.q[image, head, query].tolist(),
                self.k[image, head, token].tolist(),
                strict=True,
            )
            logit = sum(a * b for a, b in pairs) / math.sqrt(self.q.shape[-1])
            if self.bias_hqt is not None:
                logit += float(self.bias_hqt[head, query, token])
            logits.append(logit)
        top = max(logits)
        shares = [math.exp(logit - top) for logit in logits]
        return [share / sum(shares) for share in shares]

    def values(self, head: int, weights_bq: Tensor) -> Tensor:
        """Σ_q w_q α_qi v_i, (batch, token, head_dim)."""
        found = torch.zeros_like(self.v[:, head])
        for image in range(len(found)):
            for query in range(self.q.shape[2]):
                weight = float(weights_bq[image, query])
                if weight == 0:
                    continue
                for token, share in enumerate(self.alpha(image, head, query)):
                    found[image, token] += weight * share * self.v[image, head, token]
        return found


# -- norms ---------------------------------------------------------------------------------


def std(norm: nn.Module, x: Tensor) -> Tensor:
    """What a norm divides by, without the width; 1 where it is none."""
    if isinstance(norm, nn.Identity):
        return torch.ones_like(x[..., 0])
    centre = x - x.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else x
    return (centre.square().mean(-1) + norm.eps).sqrt()


def gamma(norm: nn.Module, like: Tensor) -> Tensor:
    """γ, as wide as `like`."""
    weight = getattr(norm, "weight", None)
    return torch.ones_like(like) if weight is None else weight.detach()


def beta(norm: nn.Module, like: Tensor) -> Tensor:
    """β, as wide as `like`."""
    bias = getattr(norm, "bias", None)
    return torch.zeros_like(like) if bias is None else bias.detach()


def behind(norm: nn.Module, matrix_ed: Tensor) -> Tensor:
    """A matrix applied to what a norm gives, as one applied to x/σ: P diag(γ) C."""
    scaled = matrix_ed * gamma(norm, matrix_ed[0])
    centred = isinstance(norm, nn.LayerNorm)
    return scaled - scaled.mean(1, keepdim=True) if centred else scaled


# -- blocks --------------------------------------------------------------------------------


def split(x_bti: Tensor, heads: int) -> Tensor:
    """(batch, token, heads · head_dim) as (batch, head, token, head_dim)."""
    return x_bti.unflatten(-1, (heads, -1)).transpose(1, 2)


def layer_of(taps: Taps, block: nn.Module) -> Layer:
    """A block of any of the libraries."""
    if hasattr(block, "ln_1"):
        return _openclip_layer(taps, block)
    attention = block.attn
    look = _look(taps, block)
    inner = getattr(attention, "norm", nn.Identity())
    mixed_bti = taps.before[attention.proj if isinstance(inner, nn.Identity) else inner]
    inner_bt = std(inner, mixed_bti)
    weight, bias = attention.proj.weight.detach(), beta(attention.proj, attention.proj.weight[:, 0])
    constant = bias + weight @ beta(inner, mixed_bti[0, 0])
    matrix = behind(inner, weight)
    scale_bt, fixed = torch.ones_like(inner_bt), torch.zeros_like(bias)
    scales = [_scale(block, "ls1", "gamma_1"), _scale(block, "ls2", "gamma_2")]
    if _post_norm(block):
        x = taps.before[block.norm1]
        scale_bt, fixed = 1 / std(block.norm1, x), beta(block.norm1, x[0, 0])
        after = behind(block.norm1, torch.eye(len(weight), dtype=weight.dtype))
        matrix, constant = after @ matrix, after @ constant
        written, mlp = taps.after[block.norm1], taps.after[block.norm2]
    else:
        written, mlp = taps.after[attention], taps.after[block.mlp]
        if scales[0] is not None:
            matrix, constant, written = (
                scales[0][:, None] * matrix,
                scales[0] * constant,
                scales[0] * written,
            )
        if scales[1] is not None:
            mlp = scales[1] * mlp
    return Layer(
        gathered_bthk=(mixed_bti / inner_bt[..., None]).unflatten(-1, (look.q.shape[1], -1)),
        out_dhk=matrix.unflatten(1, (look.q.shape[1], -1)),
        constant_d=constant,
        scale_bt=scale_bt,
        fixed_d=fixed,
        written_btd=written,
        mlp_btd=mlp,
        attention=look,
        inner_std_bt=inner_bt,
    )


def _post_norm(block: nn.Module) -> bool:
    return "PostNorm" in type(block).__name__


def _scale(block: nn.Module, module: str, parameter: str) -> Tensor | None:
    """LayerScale, where a block has it."""
    found = getattr(block, parameter, None)
    if found is None:
        found = getattr(getattr(block, module, None), "gamma", None)
    return None if found is None else found.detach()


def _look(taps: Taps, block: nn.Module) -> Look:
    """What timm's attentions compare, in all their ways of making it."""
    attention = block.attn
    heads, x = attention.num_heads, taps.before[attention]
    if getattr(attention, "qkv", None) is None:
        q, k, v = (
            taps.after[part] for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
    elif getattr(attention, "q_bias", None) is not None:
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias]).detach()
        q, k, v = (x @ attention.qkv.weight.detach().T + bias).chunk(3, -1)
    else:
        q, k, v = taps.after[attention.qkv].chunk(3, -1)
    q, k, v = (split(y, heads) for y in (q, k, v))
    if not isinstance(getattr(attention, "q_norm", nn.Identity()), nn.Identity):
        q, k = taps.after[attention.q_norm], taps.after[attention.k_norm]
    if (rope := taps.given[block].get("rope")) is not None:
        rotated = [
            _rotated(y, rope, attention.num_prefix_tokens, attention.rotate_half) for y in (q, k)
        ]
        q, k = rotated
    return Look(q, k, v, _position_bias(taps, block))


def _rotated(x_bhtk: Tensor, rope: Tensor, prefix: int, half: bool) -> Tensor:
    """Rotary positions, pair of coordinates by pair: the patches are turned, the prefix is not."""
    sin, cos = rope.to(x_bhtk).chunk(2, -1)
    found, size = x_bhtk.clone(), x_bhtk.shape[-1]
    for patch in range(x_bhtk.shape[2] - prefix):
        for i in range(size // 2):
            one, other = (i, i + size // 2) if half else (2 * i, 2 * i + 1)
            a, b = x_bhtk[:, :, prefix + patch, one], x_bhtk[:, :, prefix + patch, other]
            found[:, :, prefix + patch, one] = a * cos[patch, one] - b * sin[patch, one]
            found[:, :, prefix + patch, other] = b * cos[patch, other] + a * sin[patch, other]
    return found


def _position_bias(taps: Taps, block: nn.Module) -> Tensor | None:
    """What is added to the logits: BEiT's table, or the network of relative positions."""
    attention, given = block.attn, taps.given[block]
    bias = given.get("shared_rel_pos")
    shared = given.get("shared_rel_pos_bias")
    if getattr(attention, "relative_position_bias_table", None) is not None:
        bias = attention._get_rel_pos_bias()
        bias = bias if shared is None else bias + shared
    elif shared is not None:
        bias = shared
    if getattr(attention, "rel_pos", None) is not None:
        bias = attention.rel_pos.get_bias()
    return None if bias is None else bias.detach().reshape(-1, *bias.shape[-2:])


def _openclip_layer(taps: Taps, block: nn.Module) -> Layer:
    """OpenCLIP's, whose attention is one call of PyTorch that no hook sees into: what heads gather
    is made again of its weights, and `Layer.check` holds it to what the call gave."""
    attention, x = block.attn, taps.after[block.ln_1]
    look = _multihead(attention, x, x)
    gathered = _gathered(look)
    weight, bias = attention.out_proj.weight.detach(), attention.out_proj.bias.detach()
    written, mlp = taps.after[block.attn], taps.after[block.mlp]
    if hasattr(block.ls_1, "gamma"):
        one, two = block.ls_1.gamma.detach(), block.ls_2.gamma.detach()
        weight, bias, written, mlp = one[:, None] * weight, one * bias, one * written, two * mlp
    ones = torch.ones_like(x[..., 0])
    return Layer(
        gathered_bthk=gathered,
        out_dhk=weight.unflatten(1, (attention.num_heads, -1)),
        constant_d=bias,
        scale_bt=ones,
        fixed_d=torch.zeros_like(bias),
        written_btd=written,
        mlp_btd=mlp,
        attention=look,
        inner_std_bt=ones,
    )


def _multihead(attention: nn.MultiheadAttention, x: Tensor, context: Tensor) -> Look:
    """What PyTorch's attention compares."""
    if attention.in_proj_weight is not None:
        weights = attention.in_proj_weight.detach().chunk(3)
    else:
        weights = [getattr(attention, f"{name}_proj_weight").detach() for name in ("q", "k", "v")]
    biases = attention.in_proj_bias.detach().chunk(3)
    q, k, v = (
        split(y @ weight.T + bias, attention.num_heads)
        for y, weight, bias in zip((x, context, context), weights, biases, strict=True)
    )
    return Look(q, k, v)


def _gathered(look: Look) -> Tensor:
    """Σ α_i v_i of every query, (batch, query, head, head_dim)."""
    alpha = (look.q @ look.k.mT / math.sqrt(look.q.shape[-1])).softmax(-1)
    return (alpha @ look.v).transpose(1, 2)


# -- towers --------------------------------------------------------------------------------


def golden(visual: nn.Module, images: Tensor) -> Golden:
    """The terms of an image tower: OpenCLIP's own, its `TimmModel`, or a model of timm's.

    Parameters
    ----------
    visual : nn.Module
        In float64 and evaluation mode.
    images : Tensor
        (batch, 3, height, width).
    """
    taps = Taps(visual, images)
    trunk = getattr(visual, "trunk", visual)
    found = _tower(taps, visual, trunk)
    torch.testing.assert_close(found.sum(), found.output_be, rtol=1e-10, atol=1e-10)
    return found


def _tower(taps: Taps, visual: nn.Module, trunk: nn.Module) -> Golden:
    if hasattr(trunk, "attnpool"):
        return _resnet(taps, trunk)
    if hasattr(trunk, "stages"):
        return _convnext(taps, visual, trunk)
    pool = getattr(trunk, "attn_pool", None)
    if pool is not None and hasattr(pool, "latent"):
        return _latent_pool(taps, visual, trunk)
    if pool is not None:
        return _coca(taps, trunk)
    return _vit(taps, visual, trunk)


def _vit(taps: Taps, visual: nn.Module, trunk: nn.Module) -> Golden:
    """Blocks along a stream, read at the class token or by a mean."""
    blocks = trunk.transformer.resblocks if hasattr(trunk, "transformer") else trunk.blocks
    layers = [layer_of(taps, block) for block in blocks]
    start = taps.before[blocks[0]]
    for layer in layers:
        layer.check()
    stream = start + sum(layer.written_btd + layer.mlp_btd for layer in layers)
    torch.testing.assert_close(stream, taps.after[blocks[-1]], rtol=1e-10, atol=1e-10)
    norm, each, prefix, read = _reading(trunk)
    projection, bias = _projection(visual, trunk, stream.shape[-1])
    # How much of every token the tail reads.
    weights_bt = torch.zeros_like(stream[..., 0])
    if read == "token":
        weights_bt[:, 0] = 1
    else:
        weights_bt[:, prefix:] = 1 / (stream.shape[1] - prefix)
    if each and read != "token":
        weights_bt = weights_bt / std(norm, stream)
        std_b = torch.ones_like(stream[:, 0, 0])
    else:
        std_b = std(norm, torch.einsum("bt,btd->bd", weights_bt, stream))
    mlp_map = behind(norm, projection)
    queries = [weights_bt * layer.scale_bt for layer in layers]

    def over_tokens(weights: Tensor, x: Tensor) -> Tensor:
        return torch.einsum("bt,bt...->b...", weights, x)

    def values(layer: int, head: int) -> Tensor:
        at = layers[layer]
        return at.attention.values(head, queries[layer] / at.inner_std_bt)

    fixed = torch.stack([layer.fixed_d for layer in layers]).sum(0)
    return Golden(
        output_be=taps.output,
        u_blhk=torch.stack(
            [over_tokens(w, layer.gathered_bthk) for w, layer in zip(queries, layers, strict=True)],
            1,
        ),
        rows_bsd=torch.stack(
            [over_tokens(weights_bt, x) for x in (start, *(layer.mlp_btd for layer in layers))], 1
        ),
        weights_bl=torch.stack([weights.sum(1) for weights in queries], 1),
        std_b=std_b,
        head_map_lhke=torch.stack(
            [torch.einsum("ed,dhk->hke", mlp_map, layer.out_dhk) for layer in layers]
        ),
        mlp_map_de=mlp_map.T,
        constants_le=torch.stack([mlp_map @ layer.constant_d for layer in layers]),
        fixed_e=mlp_map @ fixed,
        bias_e=projection @ beta(norm, fixed) + bias,
        values=values,
    )


def _reading(trunk: nn.Module) -> tuple[nn.Module, bool, int, str]:
    """The last norm, whether each token is normed, tokens that a mean leaves out, and the way."""
    if hasattr(trunk, "ln_post"):
        return (
            trunk.ln_post,
            not trunk.final_ln_after_pool,
            1,
            trunk.pool_type.replace("tok", "token"),
        )
    each = isinstance(trunk.fc_norm, nn.Identity)
    prefix = getattr(trunk, "num_prefix_tokens", 1)
    return trunk.norm if each else trunk.fc_norm, each, prefix, trunk.global_pool


def _projection(visual: nn.Module, trunk: nn.Module, width: int) -> tuple[Tensor, Tensor]:
    """What is done behind the last norm, as one matrix (embed, width) and a bias."""
    like = next(trunk.parameters())
    if hasattr(trunk, "ln_post"):
        matrix = trunk.proj.detach().T
        return matrix, like.new_zeros(len(matrix))
    matrix, bias = torch.eye(width, dtype=like.dtype), like.new_zeros(width)
    heads = [trunk.head.fc if hasattr(trunk.head, "fc") else trunk.head]
    if trunk is not visual:
        heads.append(getattr(visual.head, "proj", nn.Identity()))
    for head in heads:
        if isinstance(head, nn.Linear):
            weight = head.weight.detach()
            matrix, bias = weight @ matrix, weight @ bias + beta(head, weight[:, 0])
    return matrix, bias


def _latent_pool(taps: Taps, visual: nn.Module, trunk: nn.Module) -> Golden:
    """SigLIP's and PE's pool: a learned query, then an MLP beside the stream."""
    pool = trunk.attn_pool
    tokens = taps.before[pool]
    q, (k, v) = taps.after[pool.q], taps.after[pool.kv].chunk(2, -1)
    look = Look(*(split(y, pool.num_heads) for y in (q, k, v)))
    gathered = taps.before[pool.proj].unflatten(-1, (pool.num_heads, -1))
    written = taps.after[pool.mlp][:, 0]
    torch.testing.assert_close(taps.after[pool], taps.after[pool.proj][:, 0] + written)
    projection, bias = _projection(visual, trunk, tokens.shape[-1])
    out = pool.proj.weight.detach().unflatten(1, (pool.num_heads, -1))
    return _pooled(
        taps, look, gathered[:, 0], out, pool.proj.bias.detach(), written, projection, bias
    )


def _pooled(
    taps: Taps,
    look: Look,
    gathered_bhk: Tensor,
    out_dhk: Tensor,
    constant_d: Tensor,
    written_bd: Tensor,
    map_ed: Tensor,
    bias_e: Tensor,
    std_b: Tensor | None = None,
) -> Golden:
    """A tower of one layer, an attention pool's, whose first query is read."""
    ones = torch.ones_like(gathered_bhk[:, 0, 0])
    first_bq = torch.zeros_like(look.q[:, 0, :, 0])
    first_bq[:, 0] = 1
    return Golden(
        output_be=taps.output,
        u_blhk=gathered_bhk[:, None],
        rows_bsd=torch.stack([torch.zeros_like(written_bd), written_bd], 1),
        weights_bl=ones[:, None],
        std_b=ones if std_b is None else std_b,
        head_map_lhke=torch.einsum("ed,dhk->hke", map_ed, out_dhk)[None],
        mlp_map_de=map_ed.T,
        constants_le=(map_ed @ constant_d)[None],
        fixed_e=torch.zeros_like(bias_e),
        bias_e=bias_e,
        values=lambda _, head: look.values(head, first_bq),
    )


def _coca(taps: Taps, trunk: nn.Module) -> Golden:
    """CoCa's pool of many queries, the first of which is the output; then the norm."""
    pool, norm = trunk.attn_pool, trunk.ln_post
    queries = taps.after[pool.ln_q].expand(len(taps.output), -1, -1)
    look = _multihead(pool.attn, queries, taps.after[pool.ln_k])
    gathered = _gathered(look)
    weight, bias = pool.attn.out_proj.weight.detach(), pool.attn.out_proj.bias.detach()
    out = weight.unflatten(1, (pool.attn.num_heads, -1))
    found = torch.einsum("bqhk,dhk->bqd", gathered, out) + bias
    torch.testing.assert_close(found, taps.after[pool], rtol=1e-10, atol=1e-10)
    projection = trunk.proj.detach().T
    return _pooled(
        taps,
        look,
        gathered[:, 0],
        out,
        bias,
        torch.zeros_like(found[:, 0]),
        behind(norm, projection),
        projection @ beta(norm, bias),
        std(norm, found[:, 0]),
    )


def _resnet(taps: Taps, trunk: nn.Module) -> Golden:
    """CLIP's ResNet: the pool's query is the mean pixel."""
    pool = trunk.attnpool
    pixels = taps.before[pool].flatten(2).mT
    tokens = (
        torch.cat([pixels.mean(1, keepdim=True), pixels], 1) + pool.positional_embedding.detach()
    )
    q, k, v = (
        split(tokens @ part.weight.detach().T + part.bias.detach(), pool.num_heads)
        for part in (pool.q_proj, pool.k_proj, pool.v_proj)
    )
    look = Look(q, k, v)
    out = pool.c_proj.weight.detach()
    embed = len(out)
    return _pooled(
        taps,
        look,
        _gathered(look)[:, 0],
        out.unflatten(1, (pool.num_heads, -1)),
        pool.c_proj.bias.detach(),
        torch.zeros_like(taps.output),
        torch.eye(embed, dtype=out.dtype),
        out.new_zeros(embed),
    )


def _convnext(taps: Taps, visual: nn.Module, trunk: nn.Module) -> Golden:
    """The last stage's blocks, each the mean over positions of what it wrote; no heads."""
    blocks, norm = trunk.stages[-1].blocks, trunk.head.norm
    rows, last = [taps.before[blocks[0]].mean((2, 3))], None
    for block in blocks:
        last = taps.after[block]
        rows.append((last - taps.before[block]).mean((2, 3)))
    std_b = std(norm, last.mean((2, 3)))
    projection, bias = _projection(visual, trunk, last.shape[1])
    map_ed = behind(norm, projection)
    b, layers = len(last), len(blocks)
    none = map_ed.new_zeros(layers, 0, 1, len(map_ed))

    def values(*_: int) -> Tensor:
        raise ValueError("no heads")

    return Golden(
        output_be=taps.output,
        u_blhk=map_ed.new_zeros(b, layers, 0, 1),
        rows_bsd=torch.stack(rows, 1),
        weights_bl=map_ed.new_zeros(b, layers),
        std_b=std_b,
        head_map_lhke=none,
        mlp_map_de=map_ed.T,
        constants_le=map_ed.new_zeros(layers, len(map_ed)),
        fixed_e=map_ed.new_zeros(len(map_ed)),
        bias_e=projection @ beta(norm, rows[0][0]) + bias,
        values=values,
    )
