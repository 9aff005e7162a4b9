"""Texts to choose from, classes of a zero-shot test, and their embeddings."""

from .pools import Pool, load_classes, load_pool

__all__ = ["Pool", "load_classes", "load_pool"]
