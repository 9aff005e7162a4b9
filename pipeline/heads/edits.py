"""Edits: how much each part of a model counts in an image's embedding.

An edit has a gain for every head, block and layer's attention bias: 1 leaves the part as it is, 0
puts its mean in its place. On the published scale, where an image's contributions are divided by
the norm of its embedding, the edited embedding is

    embedding/‖embedding‖ − Σ (1 − gain) · contribution + Σ (1 − gain) · mean

so that everything linear in the embedding, a logit or a margin, is linear in the gains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Edit:
    """Gains of a model's parts, and the means that stand in for what they take away.

    Attributes
    ----------
    name : str
        What was edited, in words.
    weights : str
        Digest of the model's weights: an edit is of one model.
    heads_lh : (L, H) float64
        Gains of the heads.
    blocks_s : (L + 1,) float64
        Of the start (0) and of the MLPs.
    attention_bias_l : (L,) float64
        Of every layer's output bias, over the image's ln_std.
    constant_e : (E,) float64
        Σ (1 − gain) · mean contribution, in the joint space and on the published scale.
    """

    name: str
    weights: str
    heads_lh: np.ndarray
    blocks_s: np.ndarray
    attention_bias_l: np.ndarray
    constant_e: np.ndarray
