"""Texts to choose from, classes of a zero-shot test, and their embeddings."""
