"""Zero-shot accuracy when neurons write what their codes say (Gandelsman 2025, Figure 3.4).

Every second-order effect of a layer's neurons is replaced by its mean plus its score along the
neuron's direction r times r̂, the code's reconstruction of r; for comparison by its mean alone,
and with r itself in place of r̂. All of these are linear corrections of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.heads.studies import NamedStep
from pipeline.stats.accuracy import predicted_classes
from pipeline.texts.classes import Classes
from pipeline.texts.labels import Labels, refuse_labels, shard_labels
from storage import neurons
from storage.errors import Remedy, StoreError
from storage.store import Store, open_store

from .effects import ablate
from .phases import kept_moments
from .rows import Packed, stored_rows, tensor, unpack

# Images whose labels are looked at before any work is done.
MEANS, DIRECTION = "all replaced by means", "uncompressed direction"


@dataclass(frozen=True, eq=False)
class CodeStudy:
    """All that a task needs to evaluate one layer's codes on a shard; see ``studies.Predicts``.

    Attributes
    ----------
    url : str
    layer : int
    label_column : str
    classes : Classes
    readout_ce : (C, E) float32
        Unit embeddings of the classes.
    maps : packed SecondOrderMaps
    means_pn : (P, N) float32
        Mean coefficients, on the published scale.
    directions_ne : (N, E) float32
    sizes : tuple of int
    written : (sizes, N, E) float32
        r̂; zero for a neuron without a direction.
    """

    url: str
    layer: int
    label_column: str
    classes: Classes
    readout_ce: NDArray[np.float32]
    maps: Packed
    means_pn: NDArray[np.float32]
    directions_ne: NDArray[np.float32]
    sizes: tuple[int, ...]
    written: NDArray[np.float32]

    @property
    def steps(self) -> list[NamedStep]:
        """What is replaced, in the order of the predictions."""
        layer = f"layer {self.layer}"
        bounds = [
            NamedStep("codes", f"{layer}, {what}", "", f"{layer}: {what}")
            for what in (MEANS, DIRECTION)
        ]
        codes = [
            NamedStep("codes", layer, str(size), f"{layer}: code of {size} texts")
            for size in self.sizes
        ]
        return [*bounds, *codes]

    def predict(self, shard: int) -> tuple[NDArray[np.int32], Labels]:
        store, cpu = open_store(self.url), torch.device("cpu")
        maps = unpack(self.maps, cpu)
        directions_ne, means_pn = tensor(self.directions_ne, cpu), tensor(self.means_pn, cpu)
        readout_ce, written_sne = tensor(self.readout_ce, cpu), tensor(self.written, cpu)
        predicted = [np.zeros((3 + len(self.sizes), 0), np.int32)]
        for rows in stored_rows(store, self.layer, shard):
            deviations_bpn = rows.deviations(means_pn)
            none_large = torch.zeros_like(deviations_bpn[:, 0], dtype=torch.bool)
            whole = ablate(deviations_bpn, none_large, directions_ne, maps)
            removed = [torch.zeros_like(rows.unit_be), whole.all_neurons, whole.beside_component]
            for written_ne in written_sne:
                found = ablate(deviations_bpn, none_large, directions_ne, maps, written_ne)
                removed.append(found.beside_component)
            logits_abc = (rows.unit_be - torch.stack(removed)) @ readout_ce.T
            predicted.append(predicted_classes(logits_abc.numpy()).astype(np.int32))
        labels = shard_labels(store, shard, None, self.label_column, self.classes)
        return np.concatenate(predicted, 1), labels


def check(store: Store, mlp_layers: Sequence[int], label_column: str, classes: Classes) -> None:
    """Refuse layers whose coefficients the store does not keep, and labels that are no class."""
    shards = store.done_shards()
    lacking = [
        layer
        for layer in mlp_layers
        if shards - neurons.done(store.url, layer, "coefficients")
        or kept_moments(store, layer) is None
    ]
    if lacking:
        layers = ",".join(map(str, lacking))
        raise StoreError(
            f"`classes` needs the coefficients of MLP layers {layers} on every image, which "
            f"{store.url} does not keep",
            Remedy.first("second_order", store.url, mlp_layers=layers, keep="coefficients"),
        )
    refuse_labels(store, None, label_column, classes)


def layer_means(store: Store, layer: int) -> NDArray[np.float32]:
    """Mean coefficients over all images that are ok, published scale, (path, neuron)."""
    moments = kept_moments(store, layer)
    if moments is None:
        raise StoreError(f"no moments of MLP layer {layer} over all finished shards in {store.url}")
    return np.ascontiguousarray(moments.mean.T, np.float32)
