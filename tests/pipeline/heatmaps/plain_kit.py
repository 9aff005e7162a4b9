"""Small models, and contributions of heads and tokens written out one at a time."""

import torch
from hypothesis import strategies as st

from tests.pipeline.heatmaps.plain_vit import embed, forward


@st.composite
def shapes(draw):
    """Configurations whose grids need not be square."""
    head_width, patch = draw(st.sampled_from([4, 8])), draw(st.sampled_from([4, 6]))
    return {
        "embed_dim": draw(st.integers(3, 16)),
        "vision_cfg": {
            "patch_size": patch,
            "image_size": [patch * draw(st.integers(1, 3)), patch * draw(st.integers(1, 4))],
            "head_width": head_width,
            "width": head_width * draw(st.integers(1, 3)),
            "layers": draw(st.integers(1, 4)),
            "mlp_ratio": draw(st.sampled_from([2.0, 32.0])),
        },
        "quick_gelu": draw(st.booleans()),
    }


def unit_rows(count, embed_dim, seed):
    """Texts, (count, embed)."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, embed_dim, generator=generator, dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def every_head(model, layers=None):
    """All heads of some layers, or of all."""
    chosen = range(model.layers) if layers is None else layers
    return [(layer, head) for layer in chosen for head in range(model.heads)]


def values_and_neurons(model, trace):
    """Of each layer: values, (token, width), and activations, (token, neuron)."""
    found = []
    blocks = model.visual.transformer.resblocks
    for block, x, pattern in zip(blocks, trace.streams[:-1], trace.patterns, strict=True):
        attention = block.attn
        qkv = block.ln_1(x) @ attention.in_proj_weight.T + attention.in_proj_bias
        values = qkv.chunk(3, -1)[2]
        cuts = torch.arange(model.width).chunk(model.heads)
        mixed = [alpha @ values[:, cut] for alpha, cut in zip(pattern, cuts, strict=True)]
        x = x + attention.out_proj(torch.cat(mixed, 1))
        found.append((values, block.mlp.gelu(block.mlp.c_fc(block.ln_2(x)))))
    return found


def shares_of(model, image, convention):
    """(layer, head, token, embed): contributions over ‖embedding‖.

    Under ``equal-share`` as Gandelsman et al. 2024 have it: a layer's output bias over its heads
    and tokens; the last norm's mean and bias over 2L+1 components, then over heads and tokens.
    """
    visual, norm = model.visual, model.visual.ln_post
    trace = forward(model, image)
    z = trace.streams[-1][0]
    mean, std = z.mean(), (z.var(correction=0) + norm.eps).sqrt()
    cuts = torch.arange(model.width).chunk(model.heads)
    of = model.heads * model.tokens
    shares = z.new_zeros(model.layers, model.heads, model.tokens, model.embed_dim)
    for layer, (values, _) in enumerate(values_and_neurons(model, trace)):
        out = visual.transformer.resblocks[layer].attn.out_proj
        for head, cut in enumerate(cuts):
            for token in range(model.tokens):
                alpha = trace.patterns[layer][head, 0, token]
                written = out.weight[:, cut] @ (alpha * values[token, cut])
                if convention == "centred":
                    normed = (written - written.mean()) / std * norm.weight
                else:
                    share = 1 / of / (2 * model.layers + 1)
                    written = written + out.bias / of - mean * share
                    normed = written / std * norm.weight + norm.bias * share
                shares[layer, head, token] = normed @ visual.proj
    return (shares / embed(visual, z).norm()).detach()
