"""Mergeable statistics: moments, principal components, reductions, accuracy."""
