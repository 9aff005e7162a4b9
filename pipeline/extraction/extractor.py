"""One shard from decoded batches to the store."""

from __future__ import annotations

import platform
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.cluster.work import Report
from pipeline.images.bad import BadImages
from pipeline.images.batches import Batch
from pipeline.models import VisionModel
from pipeline.models.arithmetic import TF32, placed, settle
from storage.errors import StoreDtypeError
from storage.layout import COMPONENTS
from storage.ledger import SCHEMA
from storage.store import open_store

from .decompose import Decomposer
from .feed import Fetched, Link
from .finite import finite_rows, refuse_pass


def shard_facts(values: dict[str, NDArray], rows: pa.Table) -> dict[str, dict[str, Any]]:
    """What the ledger keeps of a shard, so that no one has to read all images to sum up."""
    facts = BadImages.of(values["key"], rows["error"].to_pylist()).facts()
    ok = np.asarray(rows["ok"])
    if ok.any():
        for name in ("residual", "rounding"):
            exact = values[name][ok].astype(np.float64)
            facts[name] = {"sum": float(exact.sum()), "max": float(exact.max())}
    return facts


@dataclass(frozen=True, eq=False)
class Pass:
    """A batch that the model was given: what comes of it, and what to tell where it is wrong.

    Attributes
    ----------
    batch : Batch
    images_bchw : Tensor
    names : tuple of str
        Of the arrays.
    arrays, finite : Fetched
        As they are stored; and whether each image's numbers are finite, ``computed`` and
        ``stored``, (array, image) bool.
    """

    batch: Batch
    images_bchw: torch.Tensor
    names: tuple[str, ...]
    arrays: Fetched
    finite: Fetched


class Extractor:
    """Owns a model; turns shards of decoded batches into finished shards of the store.

    Parameters
    ----------
    url : str
        A created store.
    model : VisionModel
        On the CPU, float32.
    device : str
        ``cpu``, ``cuda``, …
    threads : int
        Torch's threads on the CPU.
    """

    def __init__(self, url: str, model: VisionModel, device: str, threads: int) -> None:
        settle(threads, TF32)
        self.store = open_store(url, mode="r+")
        meta = self.store.meta
        model = placed(model, device, meta.precision)
        self.link = Link(model.device)
        self.preprocess = model.preprocess
        self.stored = torch.float16 if meta.store_dtype == "float16" else torch.float32
        self.decomposer = Decomposer(model, meta.components, meta.token_layers, self.stored)
        self._seen = 0
        # While one shard is being written, the next is computed; two are never computed at once.
        self._computing = threading.Lock()

    def progress(self) -> int:
        """Images computed since this extractor was made."""
        return self._seen

    def do(self, shard: int, batches: Iterable[Batch]) -> Report[None]:
        """Compute, write, verify and declare one shard finished."""
        start, stop = self.store.meta.rows(shard)
        values = self.store.empty_rows(stop - start)
        rows: list[pa.Table] = []
        under_way: deque[Pass] = deque()
        # Pictures are on their way before it is their turn.
        with self.link.placed(batches) as fed, self._computing:
            began, started = time.time(), time.monotonic()
            for batch, pixels in fed:
                under_way.append(self._begin(batch, pixels))
                if len(under_way) > self.link.under_way:
                    rows.append(self._take(under_way.popleft(), values, start))
        # The device has the next shard's while this one's last are taken, and written.
        while under_way:
            rows.append(self._take(under_way.popleft(), values, start))
        table = pa.concat_tables(rows)
        computed = time.monotonic()
        facts = shard_facts(values, table)
        written = self.store.write_shard(shard, values, table, facts, began)
        return Report(
            shard,
            table.num_rows,
            facts,
            bytes=written["bytes"],
            compute_seconds=computed - started,
            write_seconds=time.monotonic() - computed,
            node=platform.node(),
        )

    def _begin(self, batch: Batch, pixels_bhwc: torch.Tensor) -> Pass:
        """The stored arrays of one batch, begun: in their stored dtypes, on their way here."""
        images_bchw = self.preprocess.to_tensor(pixels_bhwc)
        parts = self.decomposer(images_bchw)
        arrays = {
            "heads": parts.heads_blhk,
            "mlps": parts.mlps_bsd,
            "tokens": parts.tokens_bte,
            "sources": parts.sources_blshk,
            "pool_neurons": parts.pool_neurons_bn,
            "channels": parts.channels_bhc,
            "bias_weights": parts.bias_weights_bl,
            "embedding": parts.embedding_be,
            "ln_std": parts.ln_std_b,
            "residual": parts.residual_b,
            "rounding": parts.rounding_b,
        }
        kept = {n: a for n, a in arrays.items() if a is not None and n in self.store.arrays}
        narrow = {
            n: a.to(self.stored if n in COMPONENTS else torch.float32) for n, a in kept.items()
        }
        finite = {
            "computed": torch.stack([finite_rows(values) for values in kept.values()]),
            "stored": torch.stack([finite_rows(values) for values in narrow.values()]),
        }
        return Pass(
            batch, images_bchw, tuple(kept), self.link.fetch(narrow), self.link.fetch(finite)
        )

    def _take(self, done: Pass, values: dict[str, NDArray], first: int) -> pa.Table:
        """Put a batch's arrays where they belong; its rows of the ledger.

        Parameters
        ----------
        values : dict of str to ndarray
            The shard's.
        first : int
            The shard's first image.
        """
        batch, loaded, n = done.batch, done.batch.loaded, len(done.batch.keys)
        index = np.arange(batch.start, batch.start + n)
        bad, finite = torch.from_numpy(~loaded.ok), done.finite.wait()
        for name, finite_b in zip(done.names, finite["computed"], strict=True):
            if name != "rounding":  # the store's part in it is told below
                numbers = torch.from_numpy(index)
                refuse_pass(self.decomposer.model, name, done.images_bchw, numbers, finite_b | bad)
        for name, finite_b in zip(done.names, finite["stored"], strict=True):
            if not (finite_b | bad).all():
                raise StoreDtypeError(
                    f"{name}: a value of images {index[0]}-{index[-1]} does not fit "
                    f"{self.store.meta.store_dtype}; run again into a new store with "
                    "`store_dtype` float32"
                )
        row = slice(batch.start - first, batch.start - first + n)
        values["key"][row], values["label"][row] = batch.keys, batch.labels
        for name, tensor in done.arrays.wait().items():
            if loaded.ok.all():
                values[name][row] = tensor.numpy()
            else:
                values[name][row][loaded.ok] = tensor.numpy()[loaded.ok]  # bad ones keep their NaN
        self._seen += n
        columns = [index, loaded.ok, loaded.error, loaded.sha256, loaded.width, loaded.height]
        return pa.table(columns, schema=SCHEMA)
