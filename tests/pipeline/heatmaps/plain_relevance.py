"""Relevance propagation as its formulae stand: one picture, every product of an input and a weight
written out, no layer cut short, down to the pixels."""

from types import SimpleNamespace

import torch

from tests.pipeline.heatmaps import plain_vit


class Plain:
    """The rules; `lost` is the relevance of outputs that nothing gave to."""

    def __init__(self):
        self.lost = 0.0

    def share(self, relevance, whole):
        self.lost += float(relevance[whole == 0].sum())
        return torch.where(whole == 0, 0, relevance / whole)

    def linear(self, relevance_to, x_ti, weight_oi):
        """R_i = Σ_j (x⁺w⁺ + x⁻w⁻)_ij / Z_j · R_j."""
        relevance_ti = torch.zeros_like(x_ti)
        for t in range(len(x_ti)):
            plus = x_ti[t].clamp(min=0) * weight_oi.clamp(min=0)
            given_oi = plus + x_ti[t].clamp(max=0) * weight_oi.clamp(max=0)
            share_o = self.share(relevance_to[t], given_oi.sum(1))
            for o, share in enumerate(share_o):
                relevance_ti[t] += given_oi[o] * share
        return relevance_ti

    def product(self, relevance_rc, left_ri, right_ic):
        """Half to each operand of Z = L·R."""
        left, right = torch.zeros_like(left_ri), torch.zeros_like(right_ic)
        share_rc = self.share(relevance_rc, left_ri @ right_ic)
        for r in range(len(left_ri)):
            given_ic = left_ri[r][:, None] * right_ic * share_rc[r]
            left[r] += given_ic.sum(1) / 2
            right += given_ic / 2
        return left, right

    def addition(self, relevance, left, right):
        """In proportion, then rescaled as |Σa| to |Σb|."""
        share = self.share(relevance, left + right)
        a, b = left * share, right * share
        size, total = a.sum().abs() + b.sum().abs(), relevance.sum()
        if size == 0:
            return a * 0, b * 0
        return tuple(x * (x.sum().abs() / size * total / x.sum() if x.sum() else 0) for x in (a, b))


def relevance(model, image, text):
    """Maps of one picture by method, what the class token and the positions have, what is lost."""
    visual, plain, heads = model.visual, Plain(), model.heads
    trace = plain_vit.forward(model, image)
    slopes = torch.autograd.grad(
        plain_vit.unit_score(visual, trace.streams[-1][0], text), trace.patterns
    )
    maps = {}
    with torch.no_grad():
        # The logit, the projection, ln_post; of all tokens the class token is read.
        normed_d = visual.ln_post(trace.streams[-1][0])
        embedding_e = normed_d @ visual.proj
        one = torch.ones(1, 1, dtype=torch.float64)
        relevance_1e = plain.linear(one, embedding_e[None], text[None])
        relevance_td = torch.zeros_like(trace.streams[-1])
        relevance_td[:1] = plain.linear(relevance_1e, normed_d[None], visual.proj.T)
        product_tt = torch.eye(model.tokens, dtype=torch.float64)
        layers = list(enumerate(visual.transformer.resblocks))
        for layer, block in reversed(layers):
            relevance_td, pattern_htt = _block(
                plain, block, heads, trace.streams[layer], relevance_td
            )
            if layer == len(layers) - 1:
                maps["partial-lrp"] = sum(r[0].clamp(min=0) for r in pattern_htt) / heads
            both = zip(slopes[layer], pattern_htt, strict=True)
            mean_tt = sum((slope * r).clamp(min=0) for slope, r in both) / heads
            product_tt = product_tt @ (torch.eye(model.tokens, dtype=torch.float64) + mean_tt)
        maps["transformer-attribution"] = product_tt[0]
        # ln_pre, positions, and the patches' pixels.
        side = visual.conv1.kernel_size
        pixels_pi = torch.nn.functional.unfold(image[None], side, stride=side)[0].T
        filters_di = visual.conv1.weight.flatten(1)
        tokens_td = torch.cat([visual.class_embedding[None], pixels_pi @ filters_di.T])
        tokens_td, positions_td = plain.addition(
            relevance_td, tokens_td, visual.positional_embedding
        )
        at_pixels_pi = plain.linear(tokens_td[1:], pixels_pi, filters_di)
        maps["lrp"] = torch.cat([tokens_td[:1].sum(1), at_pixels_pi.sum(1)])
    return SimpleNamespace(
        maps={name: map_t[1:].reshape(model.grid) for name, map_t in maps.items()},
        rest=float(maps["lrp"][0] + positions_td.sum()),
        lost=plain.lost,
    )


def _block(plain, block, heads, x_td, relevance_td):
    """Relevance before a block, and that of its attention patterns."""
    attention, mlp = block.attn, block.mlp
    normed_td = block.ln_1(x_td)
    qkv_ti = normed_td @ attention.in_proj_weight.T + attention.in_proj_bias
    q_ti, k_ti, v_ti = qkv_ti.chunk(3, -1)
    parts = torch.arange(x_td.shape[1]).chunk(heads)
    patterns = [(q_ti[:, i] @ k_ti[:, i].T / len(i) ** 0.5).softmax(-1) for i in parts]
    mixed_ti = torch.cat([a @ v_ti[:, i] for a, i in zip(patterns, parts, strict=True)], 1)
    attended_td = attention.out_proj(mixed_ti)
    middle_td = x_td + attended_td
    normed_2_td = block.ln_2(middle_td)
    hidden_tn = mlp.gelu(mlp.c_fc(normed_2_td))

    middle, written = plain.addition(relevance_td, middle_td, mlp.c_proj(hidden_tn))
    hidden = plain.linear(written, hidden_tn, mlp.c_proj.weight)
    middle = middle + plain.linear(hidden, normed_2_td, mlp.c_fc.weight)
    stream, attended = plain.addition(middle, x_td, attended_td)
    mixed = plain.linear(attended, mixed_ti, attention.out_proj.weight)
    q, k, v = (torch.zeros_like(q_ti) for _ in range(3))
    found = []
    for a, i in zip(patterns, parts, strict=True):
        r, v[:, i] = plain.product(mixed[:, i], a, v_ti[:, i])
        found.append(r)
        q[:, i], k_it = plain.product(r, q_ti[:, i], k_ti[:, i].T)
        k[:, i] = k_it.T
    qkv = torch.cat([q, k, v], 1)
    return stream + plain.linear(qkv, normed_td, attention.in_proj_weight), found
