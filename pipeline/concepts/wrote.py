"""What concepts of one picture are told from: a pass of the model, or what the store keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.extraction.decompose import Decomposer
from pipeline.heads.parts import StoredParts, part_arrays
from pipeline.models import VisionModel
from pipeline.neurons.forward import NeuronPass, TokenReads
from pipeline.neurons.rows import Rows, tensor
from storage import neurons, urls
from storage.layout import CONTRIBUTIONS
from storage.store import Store


@dataclass(frozen=True, eq=False)
class Wrote:
    """One picture.

    Attributes
    ----------
    rows : dict of int to Rows
        By MLP layer; empty where no neurons are asked.
    reads : TokenReads or None
        Token by token: of a pass, not of what a store keeps.
    parts : StoredParts or None
        None where neither heads nor the embedding are asked.
    """

    rows: dict[int, Rows]
    reads: TokenReads | None = None
    parts: StoredParts | None = None


def seen(
    model: VisionModel, images_bchw: torch.Tensor, mlp_layers: Sequence[int], parts: bool
) -> Wrote:
    """From passes of the model over one picture.

    Parameters
    ----------
    model : VisionModel
    images_bchw : (1, 3, height, width)
        From `Preprocess.to_tensor`, on the model's device.
    mlp_layers : sequence of int
        Whose neurons are asked; may be none.
    parts : bool
        Whether what heads and MLPs wrote is wanted.
    """
    rows, reads, found = dict[int, Rows](), None, None
    if mlp_layers:
        reads = NeuronPass(model, mlp_layers).tokens(images_bchw)
        norm_b = reads.embedding_be.norm(dim=1)
        for layer in mlp_layers:
            rows[layer] = Rows(
                layer,
                torch.zeros(1, dtype=torch.int64),
                reads.coefficients(layer),
                reads.hidden[layer][:, model.prefix :].amax(1),
                reads.ln_std_b * norm_b,
                reads.embedding_be / norm_b[:, None],
            )
    if parts:
        found = StoredParts.passed(Decomposer(model)(images_bchw))
    return Wrote(rows, reads, found)


def keeps_neurons(store: Store, image: int, mlp_layers: Sequence[int]) -> bool:
    """Whether a store keeps the coefficients of an image's neurons."""
    shard = image // store.meta.shard_size
    return all(shard in neurons.done(store.url, at, "coefficients") for at in mlp_layers)


def stored_parts(store: Store, image: int) -> StoredParts:
    """What a store with heads and MLPs keeps of an image that is ok."""
    group: Any = urls.open_group(urls.join(store.data, CONTRIBUTIONS), mode="r")
    at = slice(image, image + 1)
    return StoredParts.of({name: np.asarray(group[name][at]) for name in part_arrays(store.meta)})


def stored_rows(
    store: Store, image: int, mlp_layers: Sequence[int], device: torch.device
) -> dict[int, Rows]:
    """What a store keeps of an image's neurons, by MLP layer, on a device; see `keeps_neurons`."""
    data: Any = urls.open_group(urls.join(store.data, CONTRIBUTIONS), mode="r")
    at, found = slice(image, image + 1), {}
    embedding_be = tensor(data["embedding"][at], device)
    ln_std_b = tensor(data["ln_std"][at], device)
    norm_b = embedding_be.norm(dim=1)
    for layer in mlp_layers:
        group: Any = urls.open_group(neurons.group_url(store.url, layer), mode="r")
        coefficients_bpn, peaks_bn = (
            tensor(group[name][at], device) for name in ("coefficients", "peaks")
        )
        found[layer] = Rows(
            layer,
            torch.tensor([image]),
            coefficients_bpn,
            peaks_bn,
            ln_std_b * norm_b,
            embedding_be / norm_b[:, None],
        )
    return found
