"""OpenCLIP's ViT run on one picture as its modules have it, with attention written out."""

from types import SimpleNamespace

import torch


def forward(model, image, kept=None):
    """Streams before and behind every block and attention patterns, (head, query, key).

    Of the patches only those that `kept` names, by number; all if None.
    """
    visual = model.visual
    patches = visual.conv1(image[None])[0].flatten(1).T
    x = torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding
    x = visual.ln_pre(x)
    if kept is not None:
        x = torch.cat([x[:1], x[[1 + patch for patch in kept]]])
    streams, patterns = [x], []
    for block in visual.transformer.resblocks:
        attention = block.attn
        q, k, v = (block.ln_1(x) @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, -1)
        alphas, mixed = [], []
        for at in torch.arange(x.shape[1]).chunk(model.heads):
            alphas.append((q[:, at] @ k[:, at].T / len(at) ** 0.5).softmax(-1))
        pattern = torch.stack(alphas)
        if not pattern.requires_grad:
            pattern.requires_grad_()
        for alpha, at in zip(pattern, torch.arange(x.shape[1]).chunk(model.heads), strict=True):
            mixed.append(alpha @ v[:, at])
        x = x + attention.out_proj(torch.cat(mixed, 1))
        x = x + block.mlp(block.ln_2(x))
        streams.append(x)
        patterns.append(pattern)
    return SimpleNamespace(streams=streams, patterns=patterns)


def embed(visual, x_d):
    """The embedding that the tail makes of a class token."""
    return visual.ln_post(x_d) @ visual.proj


def unit_score(visual, x_d, text_e):
    """⟨embedding/‖embedding‖, text⟩."""
    embedding = embed(visual, x_d)
    return embedding @ text_e / (embedding @ embedding).sqrt()
