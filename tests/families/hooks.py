"""What the terms of a library's own model are, from hooks on its own modules: nothing of ours.

`golden` runs the module once, in float64, and reads from the inputs and outputs of its parts what
every head and MLP wrote. It knows how each library builds its blocks, and no more; its terms sum to
the module's output, which a test holds.

Letters: b image, l layer, h head, k head_dim, t token, q query, d width, e embed, s block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tests.families.layers import (
    Look,
    Taps,
    behind,
    beta,
    gathered,
    layer_of,
    multihead,
    split,
    std,
)


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
    fixed_le: Tensor
    """Of the attention, to be divided by σ alone: β of a norm behind it."""
    bias_e: Tensor
    values: Callable[[int, int], Tensor]
    """By loops: α_i v_i of one (layer, head), (batch, token, head_dim)."""
    last_pattern_bht: Tensor
    """What the tail reads of the last layer's attention, over σ of norms behind it."""
    second_order: Callable[[int], Tensor] | None = None
    """What later heads make of all that an MLP layer's neurons wrote, with attention and norms as
    they are, (batch, embed); None where no head comes after an MLP."""
    second_order_layers: int = 0
    """How many MLP layers there are that a head comes after."""

    @property
    def heads_blhe(self) -> Tensor:
        """What every head adds to the output."""
        written = torch.einsum("blhk,lhke->blhe", self.u_blhk, self.head_map_lhke)
        return written / self.std_b[:, None, None, None]

    @property
    def mlps_bse(self) -> Tensor:
        """What the stream as it enters and every MLP add to the output."""
        return self.rows_bsd @ self.mlp_map_de / self.std_b[:, None, None]

    def tokens_bte(self) -> Tensor:
        """By loops: what all heads write from every token."""
        layers, heads = self.u_blhk.shape[1:3]
        found = sum(
            self.values(layer, head) @ self.head_map_lhke[layer, head]
            for layer in range(layers)
            for head in range(heads)
        )
        return found / self.std_b[:, None, None]

    def sum(self) -> Tensor:
        """All terms: the output."""
        constants = self.weights_bl @ self.constants_le + self.fixed_le.sum(0)
        parts = self.heads_blhe.sum((1, 2)) + self.mlps_bse.sum(1)
        return parts + constants / self.std_b[:, None] + self.bias_e


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

    maps = [torch.einsum("ed,dhk->hke", mlp_map, layer.out_dhk) for layer in layers]

    def second_order(mlp_layer: int) -> Tensor:
        written = layers[mlp_layer].neurons_btd
        found = torch.zeros_like(taps.output)
        for at in range(mlp_layer + 1, len(layers)):
            layer = layers[at]
            pattern = layer.attention.pattern(queries[at] / layer.inner_std_bt)
            weighed = torch.einsum("bht,btd->bhd", pattern, written / layer.std_bt[..., None])
            found += torch.einsum("bhd,hkd,hke->be", weighed, layer.value_hkd, maps[at])
        return found / std_b[:, None]

    fixed_ld = torch.stack([layer.fixed_d for layer in layers])
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
        head_map_lhke=torch.stack(maps),
        mlp_map_de=mlp_map.T,
        constants_le=torch.stack([mlp_map @ layer.constant_d for layer in layers]),
        fixed_le=fixed_ld @ mlp_map.T,
        bias_e=projection @ beta(norm, fixed_ld[0]) + bias,
        values=values,
        last_pattern_bht=layers[-1].attention.pattern(queries[-1] / layers[-1].inner_std_bt),
        second_order=second_order,
        second_order_layers=len(layers) - 1,
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
    mixed = taps.before[pool.proj].unflatten(-1, (pool.num_heads, -1))
    written = taps.after[pool.mlp][:, 0]
    torch.testing.assert_close(taps.after[pool], taps.after[pool.proj][:, 0] + written)
    projection, bias = _projection(visual, trunk, tokens.shape[-1])
    out = pool.proj.weight.detach().unflatten(1, (pool.num_heads, -1))
    pooled = _pooled(
        taps, look, mixed[:, 0], out, pool.proj.bias.detach(), written, projection, bias
    )
    values = behind(trunk.norm, pool.kv.weight.detach().chunk(2)[1])
    return _with_trunk(taps, pooled, trunk.blocks, trunk.norm, values, look)


def _with_trunk(
    taps: Taps, pooled: Golden, blocks: nn.Module, norm: nn.Module, value_map: Tensor, look: Look
) -> Golden:
    """With what the pool's heads make of the neurons of all blocks before it: `norm` is that of the
    tokens, `value_map` comes behind its σ, (heads · head_dim, width)."""
    layers, tokens = [layer_of(taps, block) for block in blocks], look.k.shape[2]
    for layer in layers:
        layer.check()
    value_hkd = value_map.unflatten(0, (look.k.shape[1], -1))
    std_bt1 = std(norm, taps.before[norm])[:, -tokens:, None]  # without what the pool leaves out

    def second_order(mlp_layer: int) -> Tensor:
        written = layers[mlp_layer].neurons_btd[:, -tokens:] / std_bt1
        weighed = torch.einsum("bht,btd->bhd", pooled.last_pattern_bht, written)
        found = torch.einsum("bhd,hkd,hke->be", weighed, value_hkd, pooled.head_map_lhke[0])
        return found / pooled.std_b[:, None]

    return replace(pooled, second_order=second_order, second_order_layers=len(layers))


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
        fixed_le=torch.zeros_like(bias_e)[None],
        bias_e=bias_e,
        values=lambda _, head: look.values(head, first_bq),
        last_pattern_bht=look.pattern(first_bq),
    )


def _coca(taps: Taps, trunk: nn.Module) -> Golden:
    """CoCa's pool of many queries, the first of which is the output; then the norm."""
    pool, norm = trunk.attn_pool, trunk.ln_post
    queries = taps.after[pool.ln_q].expand(len(taps.output), -1, -1)
    look = multihead(pool.attn, queries, taps.after[pool.ln_k])
    mixed = gathered(look)
    weight, bias = pool.attn.out_proj.weight.detach(), pool.attn.out_proj.bias.detach()
    out = weight.unflatten(1, (pool.attn.num_heads, -1))
    found = torch.einsum("bqhk,dhk->bqd", mixed, out) + bias
    torch.testing.assert_close(found, taps.after[pool], rtol=1e-10, atol=1e-10)
    projection = trunk.proj.detach().T
    pooled = _pooled(
        taps,
        look,
        mixed[:, 0],
        out,
        bias,
        torch.zeros_like(found[:, 0]),
        behind(norm, projection),
        projection @ beta(norm, bias),
        std(norm, found[:, 0]),
    )
    attention = pool.attn
    if attention.in_proj_weight is None:
        weight = attention.v_proj_weight.detach()
    else:
        weight = attention.in_proj_weight.detach().chunk(3)[2]
    values = behind(pool.ln_k, weight)
    return _with_trunk(taps, pooled, trunk.transformer.resblocks, pool.ln_k, values, look)


def _resnet(taps: Taps, trunk: nn.Module) -> Golden:
    """CLIP's ResNet: the pool's query is the mean pixel, whose share is every pixel's."""
    pool = trunk.attnpool
    pixels = taps.before[pool].flatten(2).mT
    positions = pool.positional_embedding.detach()
    tokens = torch.cat([pixels.mean(1, keepdim=True), pixels], 1) + positions
    q, k, v = (
        split(tokens @ part.weight.detach().T + part.bias.detach(), pool.num_heads)
        for part in (pool.q_proj, pool.k_proj, pool.v_proj)
    )
    look = Look(q, k, v)
    out = pool.c_proj.weight.detach()
    embed = len(out)

    def values(_: int, head: int) -> Tensor:
        rows = slice(head * v.shape[-1], (head + 1) * v.shape[-1])
        weight, bias = pool.v_proj.weight.detach()[rows], pool.v_proj.bias.detach()[rows]
        found = torch.zeros_like(v[:, head])
        for image in range(len(found)):
            mean, *alpha = look.alpha(image, head, 0)
            found[image, 0] = bias + mean * (weight @ positions[0])
            for t, share in enumerate(alpha):
                found[image, 0] += share * (weight @ positions[1 + t])
                found[image, 1 + t] = (share + mean / len(alpha)) * (weight @ pixels[image, t])
        return found

    pooled = _pooled(
        taps,
        look,
        gathered(look)[:, 0],
        out.unflatten(1, (pool.num_heads, -1)),
        pool.c_proj.bias.detach(),
        torch.zeros_like(taps.output),
        torch.eye(embed, dtype=out.dtype),
        out.new_zeros(embed),
    )
    mean_bh, alpha_bhp = pooled.last_pattern_bht[..., 0], pooled.last_pattern_bht[..., 1:]
    shared = alpha_bhp + mean_bh[..., None] / alpha_bhp.shape[-1]
    pattern = torch.cat([torch.ones_like(mean_bh)[..., None], shared], -1)
    return replace(pooled, values=values, last_pattern_bht=pattern)


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
        fixed_le=map_ed.new_zeros(layers, len(map_ed)),
        bias_e=projection @ beta(norm, rows[0][0]) + bias,
        values=values,
        last_pattern_bht=map_ed.new_zeros(b, 0, 0),
    )
