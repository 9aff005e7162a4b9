"""Attention heads: descriptions, shares, roles, ablations."""
