"""What every component writes to the logits of classes, and logits with any gains.

Everything is on the published scale. What mean-ablating a component takes from a logit, its score,
is what it writes less its mean over the reference images (``heads.ablation``), so that

    logits(gains) = logits − Σ (1 − gain) · score
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.heads.ablation import Means, Readout
from pipeline.heads.parts import StoredParts, part_arrays
from pipeline.stats.reductions import READ_BYTES
from pipeline.subsets import chosen_rows
from storage import urls
from storage.layout import CONTRIBUTIONS
from storage.store import Store

from .gains import Components


@dataclass(frozen=True, eq=False)
class Scorer:
    """What is needed to score components; sent to every task.

    Attributes
    ----------
    components : Components
    means : Means
        Over the reference images.
    readout : Readout
        To C classes.
    """

    components: Components
    means: Means
    readout: Readout

    def logits(self, parts: StoredParts) -> np.ndarray:
        """Of the model as it is, (N, C)."""
        unit = (np.asarray(parts.embedding_be) / parts.norm_b[:, None]).astype(self.readout.dtype)
        return unit @ self.readout.classes.T

    def scores(self, parts: StoredParts, used_s: np.ndarray) -> np.ndarray:
        """What mean-ablating each used component takes from the logits, (used, N, C)."""
        readout, means, dtype = self.readout, self.means, self.readout.dtype
        inverse_b = 1 / parts.scale_b
        heads_lh, blocks_s, bias_l = self.components.split(used_s)
        found = []
        for layer, mask in enumerate(heads_lh):
            if mask.any():
                u = np.asarray(parts.heads_blhk[:, layer, mask], dtype)
                scaled = u * inverse_b[:, None, None] - means.heads_lhk[layer, mask]
                by_head = np.moveaxis(scaled.astype(dtype), 1, 0)
                found.append(by_head @ readout.heads_lhkc[layer, mask])
        for block in np.flatnonzero(blocks_s).tolist():
            rows = np.asarray(parts.mlps_bsd[:, block], dtype) * inverse_b[:, None]
            found.append(((rows - means.mlps_sd[block]).astype(dtype) @ readout.mlp_dc)[None])
        for layer in np.flatnonzero(bias_l).tolist():
            alone_l = np.eye(len(bias_l))[layer]
            maps = (readout.attention_bias_lc, readout.bias_map_lc)
            found.append((parts.biases(alone_l, *maps) - means.biases(alone_l, *maps))[None])
        if not found:
            return np.zeros((0, len(inverse_b), len(readout.classes)), dtype)
        return np.concatenate(found).astype(dtype)

    def edited(self, parts: StoredParts, gains_es: np.ndarray) -> Iterator[np.ndarray]:
        """Logits (N, C) as they are, and then with the gains of every edit."""
        base = self.logits(parts)
        yield base
        used_s = (gains_es != 1).any(0)
        scores_snc = self.scores(parts, used_s)
        for gains_s in gains_es:
            yield base - np.tensordot((1 - gains_s[used_s]).astype(base.dtype), scores_snc, 1)

    def parts(self, store: Store, shard: int, chosen: np.ndarray) -> Iterator[StoredParts]:
        """The chosen images of a shard, a bounded number at a time."""
        data: Any = urls.open_group(urls.join(store.data, CONTRIBUTIONS), mode="r")
        names = part_arrays(store.meta)
        row = sum(store.arrays[name].bytes_per_row for name in names)
        row += self.components.count * len(self.readout.classes) * self.readout.dtype.itemsize
        step = max(1, READ_BYTES // row)
        for _, rows in chosen_rows(data, names, store.meta.rows(shard)[0], chosen, step):
            yield StoredParts.of(rows)
