"""One shard from decoded batches to the store."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.cluster.work import Report
from pipeline.images.bad import BadImages
from pipeline.images.batches import Batch
from pipeline.images.load import LoadedImages
from pipeline.models import VisionModel
from pipeline.models.arithmetic import TF32, placed, settle
from storage.errors import StoreDtypeError
from storage.layout import COMPONENTS
from storage.ledger import SCHEMA
from storage.store import open_store

from .decompose import Decomposer
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
        self.device = model.device
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
        with self._computing:
            began, started = time.time(), time.monotonic()
            values, rows = self._compute(shard, batches)
        computed = time.monotonic()
        facts = shard_facts(values, rows)
        written = self.store.write_shard(shard, values, rows, facts, began)
        return Report(
            shard,
            rows.num_rows,
            facts,
            bytes=written["bytes"],
            compute_seconds=computed - started,
            write_seconds=time.monotonic() - computed,
            node=platform.node(),
        )

    def _compute(self, shard: int, batches: Iterable[Batch]) -> tuple[dict[str, NDArray], pa.Table]:
        start, stop = self.store.meta.rows(shard)
        values = self.store.empty_rows(stop - start)
        ledger = []
        for batch in batches:
            loaded, n = batch.loaded, len(batch.keys)
            row = slice(batch.start - start, batch.start - start + n)
            values["key"][row], values["label"][row] = batch.keys, batch.labels
            ok = torch.from_numpy(loaded.ok)
            index = np.arange(batch.start, batch.start + n)
            for name, tensor in self._parts(loaded, index).items():
                values[name][row][loaded.ok] = tensor[ok].numpy()  # bad images keep their NaN
            columns = [index, loaded.ok, loaded.error, loaded.sha256, loaded.width, loaded.height]
            ledger.append(pa.table(columns, schema=SCHEMA))
            self._seen += n
        return values, pa.concat_tables(ledger)

    def _parts(self, loaded: LoadedImages, index: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """The stored arrays of one batch, on the CPU, in their stored dtypes."""
        images_bchw = self.preprocess.to_tensor(torch.from_numpy(loaded.pixels).to(self.device))
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
        numbers, bad = torch.from_numpy(index), torch.from_numpy(~loaded.ok).to(self.device)
        for name, values in kept.items():
            if name != "rounding":  # the store's part in it is told below
                finite = finite_rows(values) | bad
                refuse_pass(self.decomposer.model, name, images_bchw, numbers, finite)
        for name, values in narrow.items():
            if not (finite_rows(values) | bad).all():
                raise StoreDtypeError(
                    f"{name}: a value of images {index[0]}-{index[-1]} does not fit "
                    f"{self.store.meta.store_dtype}; run again into a new store with "
                    "`store_dtype` float32"
                )
        return {n: a.cpu() for n, a in narrow.items()}
