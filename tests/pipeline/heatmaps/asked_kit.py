"""Random texts to ask a random model for."""

import torch

from pipeline.heatmaps.asked import Asked


def asked_of(model, seed, count, classes=5):
    generator = torch.Generator().manual_seed(seed)
    texts_ce = torch.randn(classes, model.embed_dim, generator=generator, dtype=torch.float64)
    texts_ce /= texts_ce.norm(dim=1, keepdim=True)
    classes_b = torch.arange(count) * 2 % classes
    return Asked(classes_b, texts_ce.to(**model.wide), torch.arange(count))


def part_of(asked, which):
    """What is asked of some pictures of a batch."""
    return Asked(asked.classes_b[which], asked.texts_ce, asked.images_b[which])
