"""What blocks of the libraries' models are, from hooks on their parts; see ``hooks.py``.

Letters: b image, h head, k head_dim, t token, q query, d width, e embed, i all heads side by side.
"""

from __future__ import annotations

import math
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
    value_hkd: Tensor
    """From the stream over the σ of the norm before to values, without their bias."""
    normed_btd: Tensor
    """The stream as it enters over the σ of the norm before the attention."""
    std_bt: Tensor
    neurons_btd: Tensor
    """What the MLP wrote less what it writes with no neuron at work."""

    def check(self) -> None:
        """The attention's terms are what it wrote."""
        found = torch.einsum("bthk,dhk->btd", self.gathered_bthk, self.out_dhk) + self.constant_d
        found = self.scale_bt[..., None] * found + self.fixed_d
        torch.testing.assert_close(found, self.written_btd, rtol=1e-10, atol=1e-10)
        # Values are the stream's, and a bias that is the same everywhere.
        bias = self.attention.v - torch.einsum("hkd,btd->bhtk", self.value_hkd, self.normed_btd)
        torch.testing.assert_close(bias, bias[:1, :, :1].expand_as(bias), rtol=1e-10, atol=1e-10)


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

    def pattern(self, weights_bq: Tensor) -> Tensor:
        """Σ_q w_q α_qi, (batch, head, token)."""
        logits = self.q @ self.k.mT / math.sqrt(self.q.shape[-1])
        if self.bias_hqt is not None:
            logits = logits + self.bias_hqt
        return torch.einsum("bq,bhqt->bht", weights_bq, logits.softmax(-1))

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
    idle = _idle(block.mlp)
    before, stream = nn.Identity() if _post_norm(block) else block.norm1, taps.before[block]
    std_bt = std(before, stream)
    if _post_norm(block):
        x = taps.before[block.norm1]
        scale_bt, fixed = 1 / std(block.norm1, x), beta(block.norm1, x[0, 0])
        after = behind(block.norm1, torch.eye(len(weight), dtype=weight.dtype))
        matrix, constant = after @ matrix, after @ constant
        written, mlp = taps.after[block.norm1], taps.after[block.norm2]
        rest = idle @ behind(block.norm2, torch.eye(len(idle), dtype=idle.dtype)).T
        rest = rest / std(block.norm2, taps.before[block.norm2])[..., None]
        neurons = mlp - rest - beta(block.norm2, idle)
    else:
        written, mlp = taps.after[attention], taps.after[block.mlp]
        if scales[0] is not None:
            matrix, constant, written = (
                scales[0][:, None] * matrix,
                scales[0] * constant,
                scales[0] * written,
            )
        if scales[1] is not None:
            mlp, idle = scales[1] * mlp, scales[1] * idle
        neurons = mlp - idle
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
        value_hkd=_values(attention, before),
        normed_btd=stream / std_bt[..., None],
        std_bt=std_bt,
        neurons_btd=neurons,
    )


def _idle(mlp: nn.Module) -> Tensor:
    """What an MLP writes with no neuron at work."""
    last = next(getattr(mlp, name) for name in ("fc2", "w2", "c_proj") if hasattr(mlp, name))
    weight = last.weight.detach()
    constant = beta(last, weight[:, 0])
    norm = getattr(mlp, "ln", getattr(mlp, "norm", nn.Identity()))
    if hasattr(mlp, "w2"):
        norm = nn.Identity()  # ViTamin's is before the neurons
    return constant + weight @ beta(norm, weight[0])


def _values(attention: nn.Module, norm: nn.Module) -> Tensor:
    """From the stream over σ of the norm before to values, (head, head_dim, width)."""
    if getattr(attention, "qkv", None) is None:
        weight, groups = attention.v_proj.weight.detach(), getattr(attention, "num_kv_groups", 1)
    else:
        weight, groups = attention.qkv.weight.detach().chunk(3)[2], 1
    shared = behind(norm, weight).unflatten(0, (attention.num_heads // groups, -1))
    return shared.repeat_interleave(groups, 0)


def _post_norm(block: nn.Module) -> bool:
    return "PostNorm" in type(block).__name__ or "ResPost" in type(block).__name__


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
    groups = getattr(attention, "num_kv_groups", 1)  # heads that share keys and values
    q, k, v = split(q, heads), split(k, heads // groups), split(v, heads // groups)
    if not isinstance(getattr(attention, "q_norm", nn.Identity()), nn.Identity):
        q, k = taps.after[attention.q_norm], taps.after[attention.k_norm]
    if (rope := taps.given[block].get("rope")) is not None:
        rotated = [
            _rotated(y, rope, attention.num_prefix_tokens, attention.rotate_half) for y in (q, k)
        ]
        q, k = rotated
    k, v = (y.repeat_interleave(groups, 1) for y in (k, v))
    return Look(q, k, v, _position_bias(taps, block))


def _rotated(x_bhtk: Tensor, rope: Tensor, prefix: int, half: bool) -> Tensor:
    """Rotary positions, pair of coordinates by pair: the patches are turned, the prefix is not."""
    sin, cos = rope.to(x_bhtk).chunk(2, -1)
    found, size = x_bhtk.clone(), x_bhtk.shape[-1]
    for patch in range(x_bhtk.shape[2] - prefix):
        for i in range(size // 2):
            one, other = (i, i + size // 2) if half else (2 * i, 2 * i + 1)
            a, b = x_bhtk[:, :, prefix + patch, one], x_bhtk[:, :, prefix + patch, other]
            turned = a * cos[..., patch, one] - b * sin[..., patch, one]
            found[:, :, prefix + patch, one] = turned
            found[:, :, prefix + patch, other] = (
                b * cos[..., patch, other] + a * sin[..., patch, other]
            )
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
    """OpenCLIP's. Attention of its usual blocks is one call of PyTorch that no hook sees into: what
    heads gather is made again of its weights, and `Layer.check` holds it to what the call gave."""
    attention, x, stream = block.attn, taps.after[block.ln_1], taps.before[block]
    look, inner = multihead(attention, x, x), getattr(attention, "ln_inner", nn.Identity())
    values = behind(block.ln_1, attention.in_proj_weight.detach().chunk(3)[2])
    value_hkd = values.unflatten(0, (attention.num_heads, -1))
    if isinstance(attention, nn.MultiheadAttention):
        mixed_bti = gathered(look).flatten(2)
    else:
        mixed_bti = taps.before[inner]
        scale = attention.head_scale.detach()
        look = Look(taps.after[attention.ln_q], taps.after[attention.ln_k], scale * look.v)
        value_hkd = scale * value_hkd
    inner_bt = std(inner, mixed_bti)
    weight, bias = attention.out_proj.weight.detach(), attention.out_proj.bias.detach()
    bias, weight = bias + weight @ beta(inner, bias), behind(inner, weight)
    written, mlp, idle = taps.after[block.attn], taps.after[block.mlp], _idle(block.mlp)
    if hasattr(block.ls_1, "gamma"):
        one, two = block.ls_1.gamma.detach(), block.ls_2.gamma.detach()
        weight, bias, written = one[:, None] * weight, one * bias, one * written
        mlp, idle = two * mlp, two * idle
    return Layer(
        gathered_bthk=(mixed_bti / inner_bt[..., None]).unflatten(-1, (attention.num_heads, -1)),
        out_dhk=weight.unflatten(1, (attention.num_heads, -1)),
        constant_d=bias,
        scale_bt=torch.ones_like(inner_bt),
        fixed_d=torch.zeros_like(bias),
        written_btd=written,
        mlp_btd=mlp,
        attention=look,
        inner_std_bt=inner_bt,
        value_hkd=value_hkd,
        normed_btd=stream / std(block.ln_1, stream)[..., None],
        std_bt=std(block.ln_1, stream),
        neurons_btd=mlp - idle,
    )


def multihead(attention: nn.MultiheadAttention, x: Tensor, context: Tensor) -> Look:
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


def gathered(look: Look) -> Tensor:
    """Σ α_i v_i of every query, (batch, query, head, head_dim)."""
    alpha = (look.q @ look.k.mT / math.sqrt(look.q.shape[-1])).softmax(-1)
    return (alpha @ look.v).transpose(1, 2)
