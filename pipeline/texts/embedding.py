"""Texts through a model's text tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.models.text_tower import encode_tokens, last_read
from storage.errors import NotFinite

from .classes import PoolError

# What a tokenizer of open_clip is: texts and a length in, (texts, length) token ids out.
Tokenizer = Callable[..., torch.Tensor]
# What one pass takes at most: much to multiply at once, and yet seconds on one CPU.
TEXTS, TOKENS = 256, 4096


def count_too_long(tokenizer: Tokenizer, texts: Sequence[str], context_length: int) -> int:
    """How many texts have more tokens than the model reads; the tokenizer cuts those off."""
    if not texts:
        return 0
    cut, longer = (
        tokenizer(list(texts), context_length=length)
        for length in (context_length, context_length + 1)
    )
    # Some put a token that is read behind the padding.
    read = context_length - (getattr(tokenizer, "tokenizer_mode", "") == "clips")
    return int((cut[:, :read] != longer[:, :read]).any(1).sum())


class Passes:
    """Texts through a text tower, a batch at a time; the longest go first, whatever their order.

    In a causal tower a batch is computed no further than its longest text goes. What a text gets
    is then what it gets alone and at full length, but for the rounding of sums in another order:
    below 1e-6 in a float32 row of unit length.

    Parameters
    ----------
    model : open_clip.CLIP
        Its own text tower, with its own activation function: open_clip's, or Hugging Face's.
    tokenizer : callable
        open_clip's tokenizer of that model.
    texts : sequence of str
        Those over the context length are cut off by the tokenizer: see ``count_too_long``.
    batch : int
        Texts in one pass, at most.
    normalize : bool
        Rows of unit length, as zero-shot classification and the published TextSpan have them.

    Attributes
    ----------
    batches : list of (B,) int64
        Which texts pass together: together each text is there once.
    tokens_m : (text,) int64
        Tokens that are computed of each text.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Tokenizer,
        texts: Sequence[str],
        batch: int = TEXTS,
        normalize: bool = True,
    ) -> None:
        if not texts:
            raise PoolError("no texts to encode: the pool is empty")
        self.model, self.texts, self.normalize = model, texts, normalize
        self.device = next(model.parameters()).device
        self._tokens_mt = tokenizer(list(texts))
        length = self._tokens_mt.shape[1]
        last_m = last_read(model, self._tokens_mt)
        ends_m = torch.full((len(texts),), length) if last_m is None else last_m + 1
        self.tokens_m = ends_m.numpy()
        self.batches = in_batches(self.tokens_m, batch)

    @torch.inference_mode()
    def embed(self, batch_b: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings of one of the batches, (B, E)."""
        length = int(self.tokens_m[batch_b].max())
        tokens_bt = self._tokens_mt[torch.from_numpy(batch_b)].to(self.device)
        found = encode_tokens(self.model, tokens_bt, length, self.normalize).float().cpu().numpy()
        if len(lost := np.flatnonzero(~np.isfinite(found).all(1))):
            raise NotFinite(
                f"the embeddings of {len(lost)} of {len(batch_b)} texts hold NaN or infinite "
                f"numbers, the first is that of {self.texts[batch_b[lost[0]]]!r}: the text "
                "tower's weights are finite and its numbers are not. Give other weights"
            )
        return found


def in_batches(tokens_m: NDArray[np.int64], most: int = TEXTS) -> list[NDArray[np.int64]]:
    """Texts that pass the tower together, by falling length over all of them."""
    order_m = np.argsort(-tokens_m, kind="stable")
    batches = []
    while len(order_m):
        size = min(most, max(1, TOKENS // int(tokens_m[order_m[0]])))
        batches.append(order_m[:size])
        order_m = order_m[size:]
    return batches


def encode_texts(
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    batch: int = TEXTS,
    normalize: bool = True,
) -> NDArray[np.float32]:
    """Embeddings of texts in the joint space, (M, E), in the texts' order: see ``Passes``."""
    passes = Passes(model, tokenizer, texts, batch, normalize)
    rows = np.vstack([passes.embed(batch_b) for batch_b in passes.batches])
    return rows[np.argsort(np.concatenate(passes.batches))]
