"""The text tower of an open_clip model, run no further than its texts go."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def last_read(model: nn.Module, tokens_mt: Tensor) -> Tensor | None:
    """The token that each text's embedding is read from, (text,); None where more is read.

    In a causal tower nothing behind that token reaches it.
    """
    tower, _ = _tower(model)
    mask, pool = getattr(tower, "attn_mask", None), _pool(model)
    if mask is None or getattr(tower, "cls_emb", None) is not None:
        return None
    causal = torch.full_like(mask, float("-inf")).triu_(1)
    if mask.shape != causal.shape or not torch.equal(mask, causal):
        return None
    if pool == "argmax":
        return tokens_mt.argmax(1)
    if pool == "eos":
        return (tokens_mt == _end(model)).int().argmax(1)
    return None


def encode_tokens(model: Any, tokens_mt: Tensor, length: int, normalize: bool) -> Tensor:
    """Embeddings of texts of which the first `length` tokens are computed, (text, embed)."""
    tower, prefix = _tower(model)
    if length >= tokens_mt.shape[1]:
        return model.encode_text(tokens_mt, normalize=normalize)
    cut = {
        f"model.{prefix}positional_embedding": tower.positional_embedding[:length],
        f"model.{prefix}attn_mask": tower.attn_mask[:length, :length],
    }
    return functional_call(_TextSide(model), cut, (tokens_mt[:, :length], normalize))


class _TextSide(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_mt: Tensor, normalize: bool) -> Tensor:
        return self.model.encode_text(tokens_mt, normalize=normalize)  # type: ignore[operator]


def _tower(model: nn.Module) -> tuple[Any, str]:
    """What holds the positions and the mask, and its name in the model."""
    return (model, "") if hasattr(model, "positional_embedding") else (model.text, "text.")


def _pool(model: Any) -> str:
    return getattr(model, "text_pool_type", "") or getattr(_tower(model)[0], "pool_type", "")


def _end(model: Any) -> int:
    return model.text_eos_id if hasattr(model, "text_eos_id") else _tower(model)[0].eos_id
