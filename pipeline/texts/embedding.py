"""Texts through a model's text tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from pipeline.models.text_tower import encode_tokens, last_read
from storage.errors import NotFinite

from .classes import PoolError

# What a tokenizer of open_clip is: texts and a length in, (texts, length) token ids out.
Tokenizer = Callable[..., torch.Tensor]


def count_too_long(tokenizer: Tokenizer, texts: Sequence[str], context_length: int) -> int:
    """How many texts have more tokens than the model reads; the tokenizer cuts those off."""
    if not texts:
        return 0
    pad = tokenizer([""], context_length=context_length + 1)[0, -1]
    longer = tokenizer(list(texts), context_length=context_length + 1)
    return int((longer[:, -1] != pad).sum())


@torch.inference_mode()
def encode_texts(
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    batch: int = 256,
    normalize: bool = True,
) -> np.ndarray:
    """Embeddings of texts in the joint space.

    Parameters
    ----------
    model : open_clip.CLIP
        Its own text tower, with its own activation function.
    tokenizer : callable
        open_clip's tokenizer of that model.
    texts : sequence of str
        Those over the context length are cut off by the tokenizer: see ``count_too_long``.
    batch : int
    normalize : bool
        Rows of unit length, as zero-shot classification and the published TextSpan have them.

    Returns
    -------
    (M, E) float32
    """
    if not texts:
        raise PoolError("no texts to encode: the pool is empty")
    device = next(model.parameters()).device
    length: int = model.context_length  # type: ignore[assignment]
    tokens_mt = tokenizer(list(texts), context_length=length).to(device)
    last_m = last_read(model, tokens_mt)
    ends_m = torch.full((len(texts),), length) if last_m is None else last_m.cpu() + 1
    order_m = ends_m.argsort(stable=True)
    rows = [
        encode_tokens(model, tokens_mt[part_b.to(device)], int(ends_m[part_b[-1]]), normalize)
        for part_b in order_m.split(batch)
    ]
    found = torch.cat(rows)[order_m.argsort().to(device)].float().cpu().numpy()
    if lost := np.flatnonzero(~np.isfinite(found).all(1)).tolist():
        raise NotFinite(
            f"the embeddings of {len(lost)} of {len(texts)} texts hold NaN or infinite numbers, "
            f"the first is that of {texts[lost[0]]!r}: the text tower's weights are finite and "
            "its numbers are not. Give other weights"
        )
    return found
