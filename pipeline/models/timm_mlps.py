"""The MLPs of timm's blocks, as blocks here take them."""

from __future__ import annotations

from typing import Any

from torch import nn

from pipeline.lean import timm

from . import mlps
from .norms import linear_of

Mlp, GluMlp, SwiGLU = timm.layers.Mlp, timm.layers.GluMlp, timm.layers.SwiGLU
GeGluMlp = timm.models.vitamin.GeGluMlp
GATED = (GluMlp, SwiGLU, GeGluMlp)
NAMES = {
    "GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quickgelu", "SiLU": "silu",
}  # fmt: skip
GATED_NAMES = {"gelu": "geglu", "silu": "swiglu"}


def mlp_faults(mlp: nn.Module) -> list[str]:
    """What keeps an MLP from being a sum of neurons, in words."""
    if type(mlp) not in (Mlp, *GATED) or isinstance(getattr(mlp, "fc1", None), nn.Conv2d):
        return [f"its MLPs are of a kind that is not known here ({type(mlp).__name__})"]
    return []


def mlp_of(mlp: Any) -> mlps.Mlp:
    """One without faults; what `norm_before` gives is no part of it."""
    if isinstance(mlp, GeGluMlp):
        return mlps.GatedMlp(linear_of(mlp.w0), linear_of(mlp.w1), mlp.act, linear_of(mlp.w2))
    down = linear_of(mlp.fc2)
    if isinstance(mlp, SwiGLU):
        return mlps.GatedMlp(linear_of(mlp.fc1_g), linear_of(mlp.fc1_x), mlp.act, down, mlp.norm)
    up = linear_of(mlp.fc1)
    if isinstance(mlp, GluMlp):
        weights, biases = up[0].chunk(2), up[1].chunk(2)
        first, second = zip(weights, biases, strict=True)
        gate, value = (second, first) if mlp.gate_last else (first, second)
        return mlps.GatedMlp(gate, value, mlp.act, down, mlp.norm)
    return mlps.PlainMlp(up, mlp.act, down, mlp.norm)


def norm_before(norm: nn.Module, mlp: nn.Module) -> nn.Module:
    """A block's norm before its MLP, and the one that ViTamin's MLPs begin with."""
    return nn.Sequential(norm, mlp.norm) if isinstance(mlp, GeGluMlp) else norm


def neurons(mlp: Any) -> int:
    """How many neurons an MLP has."""
    return int((mlp.w2 if isinstance(mlp, GeGluMlp) else mlp.fc2).in_features)


def activation(mlp: Any) -> str:
    """What an MLP does with its neurons, in a word."""
    name = NAMES.get(type(mlp.act).__name__, type(mlp.act).__name__.lower())
    if getattr(mlp.act, "approximate", "none") == "tanh":
        name = "gelu_tanh"
    return GATED_NAMES.get(name, f"gated {name}") if isinstance(mlp, GATED) else name


def projection(mlp: Any) -> nn.Linear:
    """What writes to the stream, which a LayerScale may be folded into."""
    last: nn.Linear = mlp.w2 if isinstance(mlp, GeGluMlp) else mlp.fc2
    return last
