"""What second-order effects of a store will write and need, as arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.cluster.work import LIBRARIES
from storage.metadata import Metadata
from storage.neurons import SHARD_BYTES, neuron_arrays

# Covariances of all layers together; beyond it variances alone are gathered.
COVARIANCE_BYTES = 1 << 30
# Maps and top images that a phase holds at once, for layers that pass the model together.
GROUP_BYTES = 2 << 30
# Merging two states holds both and what they become.
_COPIES = 3


@dataclass(frozen=True)
class NeuronProjection:
    """Bytes that a run will write and hold.

    Attributes
    ----------
    store : int
        Rows that are not kept yet, before compression.
    per_image : int
        Of rows, over all layers.
    states : int
        Moments and top images in the store, while the run lasts.
    worker : int
        Peak memory of one actor.
    """

    store: int
    per_image: int
    states: int
    worker: int


def covariance_bytes(meta: Metadata, mlp_layers: Sequence[int]) -> int:
    """Of the covariances of all coefficients, float64."""
    return sum(8 * meta.neurons * len(meta.paths(at)) ** 2 for at in mlp_layers)


def top_bytes(meta: Metadata, mlp_layer: int, k: int) -> int:
    """Of a layer's top images with their coefficients and peaks, float32."""
    return 4 * meta.neurons * k * (len(meta.paths(mlp_layer)) + 1)


def map_bytes(meta: Metadata, mlp_layer: int) -> int:
    """Of a layer's maps, float32: values and Gram matrices."""
    count = len(meta.paths(mlp_layer))
    return 4 * meta.neurons * count * (meta.head_dim + count) + 4 * count * meta.head_dim * (
        meta.embed
    )


def groups(meta: Metadata, mlp_layers: Sequence[int], k: int) -> list[tuple[int, ...]]:
    """Layers whose maps and top images are held at once, for one pass of the model each."""
    found: list[tuple[int, ...]] = []
    held = 0
    for layer in mlp_layers:
        need = map_bytes(meta, layer) + _COPIES * top_bytes(meta, layer, k)
        if found and held + need <= GROUP_BYTES:
            found[-1] = (*found[-1], layer)
            held += need
        else:
            found.append((layer,))
            held = need
    return found


def project(
    meta: Metadata,
    mlp_layers: Sequence[int],
    dtypes: Mapping[str, str],
    *,
    absent: Mapping[tuple[str, int], int],
    k: int,
    covariance: bool,
    batch_size: int,
    parameters: int,
) -> NeuronProjection:
    """Project the bytes of a run.

    Parameters
    ----------
    meta : Metadata
    mlp_layers : sequence of int
    dtypes : mapping of str to str
        Quantities that are kept, and as what.
    absent : mapping of (str, int) to int
        Images whose rows are not kept yet, by quantity and layer.
    """
    rows = {
        (name, at): spec.bytes_per_row
        for at in mlp_layers
        for name, spec in neuron_arrays(meta, at, dtypes).items()
    }
    counts = [len(meta.paths(at)) for at in mlp_layers]
    coefficients = 4 * meta.neurons * sum(counts)
    second = covariance_bytes(meta, mlp_layers) if covariance else 2 * coefficients
    tops = sum(top_bytes(meta, at, k) for at in mlp_layers)
    itemsize = 4 if meta.precision == "fp32" else 2
    activations = batch_size * meta.tokens * itemsize * 4 * (4 * meta.width + meta.neurons)
    hidden = batch_size * meta.tokens * meta.neurons * 4 * len(mlp_layers)
    widest = max(
        sum(map_bytes(meta, at) + _COPIES * top_bytes(meta, at, k) for at in group)
        for group in groups(meta, mlp_layers, k)
    )
    phases = (
        3 * batch_size * coefficients + 4 * len(mlp_layers) * SHARD_BYTES,
        3 * batch_size * coefficients + 3 * second,
        5 * batch_size * coefficients + widest,
    )
    keeps = (True, True, True) if "coefficients" in dtypes else (False, True, True)
    peak = max(need for need, does in zip(phases, keeps, strict=True) if does)
    worker = LIBRARIES + parameters * (4 + itemsize) + activations + hidden + peak
    written = sum(images * rows[of] for of, images in absent.items())
    return NeuronProjection(written, sum(rows.values()), second + tops, worker)
