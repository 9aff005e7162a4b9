"""Coefficients, norms and peaks of one MLP layer, image by image: read back, or computed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.extraction.finite import finite_rows, refuse_pass
from pipeline.extraction.unchanged import refuse_changed
from pipeline.images.batches import Batch
from pipeline.models import VisionModel
from pipeline.subsets import chosen_rows
from storage import ledger, neurons, urls
from storage.errors import NotFinite
from storage.layout import CONTRIBUTIONS
from storage.store import Store

from .forward import NeuronPass
from .maps import SecondOrderMaps

# Coefficients that a reader holds at once, as float32.
ROW_BYTES = 32 << 20


@dataclass(frozen=True, eq=False)
class Rows:
    """Images that are ok, B of them in order, and one layer's neurons on them.

    Attributes
    ----------
    mlp_layer : int
    images_b : (B,) int64
    coefficients_bpn : (B, P, N)
        s, as the pass gives it.
    peaks_bn : (B, N)
        Largest activation over the image tokens.
    scale_b : (B,)
        ln_std · ‖embedding‖, which brings s to the published scale.
    unit_be : (B, E)
        The embedding, of unit length.
    """

    mlp_layer: int
    images_b: Tensor
    coefficients_bpn: Tensor
    peaks_bn: Tensor
    scale_b: Tensor
    unit_be: Tensor

    def deviations(self, mean_pn: Tensor) -> Tensor:
        """Published coefficients less their mean, (B, P, N)."""
        return self.coefficients_bpn / self.scale_b[:, None, None] - mean_pn


def stored_rows(
    store: Store, mlp_layer: int, shard: int, at_once: int | None = None
) -> Iterator[Rows]:
    """Rows of a finished shard whose coefficients are kept, a bounded number at a time.

    ``at_once`` is that number, for layers that are read side by side.
    """
    start, _ = store.meta.rows(shard)
    ok = np.asarray(ledger.read_part(store.data, shard)["ok"])
    data: Any = urls.open_group(urls.join(store.data, CONTRIBUTIONS), mode="r")
    group: Any = urls.open_group(neurons.group_url(store.url, mlp_layer), mode="r")
    per_image = 4 * len(store.meta.paths(mlp_layer)) * store.meta.neurons
    step = at_once or max(1, ROW_BYTES // per_image)
    kept = chosen_rows(group, ["coefficients", "peaks"], start, ok, step)
    for (numbers, ours), (_, shared) in zip(
        kept, chosen_rows(data, ["ln_std", "embedding"], start, ok, step), strict=True
    ):
        images_b = torch.from_numpy(numbers)
        found = {**ours, **shared}
        rows = {n: torch.from_numpy(values.astype(np.float32)) for n, values in found.items()}
        for name, values in rows.items():
            if not (finite := finite_rows(values)).all():
                raise NotFinite(
                    f"{store.url}, MLP layer {mlp_layer}: images {images_b[~finite][:5].tolist()} "
                    f"are ok in the ledger and their {name} hold NaN or infinite numbers "
                    f"({int((~finite).sum())} images): the store is damaged there, extract it anew"
                )
        yield _rows(mlp_layer, images_b, *rows.values())


@dataclass(frozen=True, eq=False)
class OkImages:
    """The images of a batch that are ok.

    Attributes
    ----------
    model : VisionModel
    images_b : (B,) int64
    images_bchw : (B, 3, height, width)
        As the model takes them, on its device.
    """

    model: VisionModel
    images_b: Tensor
    images_bchw: Tensor


def ok_images(
    model: VisionModel, batch: Batch, pixels_bhwc: Tensor, known: pa.Table, shard_start: int
) -> OkImages | None:
    """What is ok of a decoded batch; None where nothing is.

    Parameters
    ----------
    model : VisionModel
    batch : Batch
    pixels_bhwc : (b, height, width, 3) uint8
        Of all of it, on the model's device.
    known : pyarrow.Table
        The store's ledger rows of the batch's shard, which starts at image ``shard_start``.

    Raises
    ------
    FacetError
        If an image is not what it was when the store was made.
    """
    part = known.slice(batch.start - shard_start, len(batch.keys))
    ok = np.asarray(part["ok"])
    loaded = batch.loaded
    columns = {"ok": loaded.ok, "sha256": loaded.sha256, "error": loaded.error}
    refuse_changed(part, pa.table(columns), batch.keys, "the store was made")
    if not ok.any():
        return None
    keep = torch.from_numpy(ok)
    pixels = pixels_bhwc if ok.all() else pixels_bhwc[keep.to(pixels_bhwc.device)]
    images_b = torch.arange(batch.start, batch.start + len(ok))[keep]
    return OkImages(model, images_b, model.preprocess.to_tensor(pixels))


def passed_rows(run: NeuronPass, pictures: OkImages) -> Iterator[Rows]:
    """Rows by the model, one for each layer of a pass of coefficients and peaks."""
    parts = run(pictures.images_bchw)
    found = {"ln_std": parts.ln_std_b, "embedding": parts.embedding_be}
    for layer, coefficients_bpn in parts.coefficients.items():
        found[f"coefficients of MLP layer {layer}"] = coefficients_bpn
        found[f"peaks of MLP layer {layer}"] = parts.peaks[layer]
    for name, values in found.items():
        finite = finite_rows(values)
        refuse_pass(run.model, name, pictures.images_bchw, pictures.images_b, finite)
    for layer, coefficients_bpn in parts.coefficients.items():
        yield _rows(
            layer,
            pictures.images_b,
            coefficients_bpn,
            parts.peaks[layer],
            parts.ln_std_b,
            parts.embedding_be,
        )


def _rows(
    mlp_layer: int,
    images_b: Tensor,
    coefficients_bpn: Tensor,
    peaks_bn: Tensor,
    ln_std_b: Tensor,
    embedding_be: Tensor,
) -> Rows:
    norm_b = embedding_be.norm(dim=1)
    return Rows(
        mlp_layer,
        images_b,
        coefficients_bpn,
        peaks_bn,
        ln_std_b * norm_b,
        embedding_be / norm_b[:, None],
    )


Packed = dict[str, NDArray[Any]]


def pack(maps: SecondOrderMaps) -> Packed:
    """Maps as arrays, which Ray shares between the workers of a node."""
    return {name: tensor.cpu().numpy() for name, tensor in vars(maps).items()}


def unpack(packed: Packed, device: torch.device) -> SecondOrderMaps:
    """The maps again, on a device."""
    return SecondOrderMaps(**{name: tensor(array, device) for name, array in packed.items()})


def tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array as a float32 tensor; one that Ray shares must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device, torch.float32)
