"""What a store keeps of neurons: rows of each image, and the states of unfinished reductions.

``contributions.zarr/neurons/<layer>`` holds an array a quantity, each with a ledger of its own
below ``neurons/<layer>/<quantity>``. ``neurons.zarr/<layer>`` holds what is gathered over
images: moments for good, other states until the run that needs them has ended.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import xarray as xr
import zarr
from numpy.typing import NDArray

from . import arrays, ledger, urls
from .errors import Remedy, StoreError, StoreMismatch
from .layout import CONTRIBUTIONS, LEDGER, ArraySpec, images_per_chunk, largest_divisor
from .metadata import Metadata
from .reductions import as_spans

NEURONS = "neurons"
STATES = "neurons.zarr"
QUANTITIES = ("coefficients", "peaks", "norms")
# Axes of the moments of a layer's coefficients.
MOMENT_DIMS: dict[str, tuple[str, ...]] = {
    "count": (),
    "mean": ("neuron", "path"),
    "products": ("neuron", "path", "other_path"),
    "squares": ("neuron", "path"),
}
# A zarr shard of neuron rows is held in memory whole while it is written.
SHARD_BYTES = 2**26


def neuron_arrays(
    meta: Metadata, mlp_layer: int, dtypes: Mapping[str, str]
) -> dict[str, ArraySpec]:
    """The arrays of one MLP layer, by quantity; ``dtypes`` says which are kept and how."""
    count, neurons = len(meta.paths(mlp_layer)), meta.neurons
    specs = {}
    for name, dtype in dtypes.items():
        dims, sizes = ("neuron",), (neurons,)
        if name == "coefficients":
            dims, sizes = ("path", "neuron"), (count, neurons)  # type: ignore[assignment]
        per_image = math.prod(sizes) * np.dtype(dtype).itemsize
        shard = largest_divisor(meta.shard_size, SHARD_BYTES // per_image)
        specs[name] = ArraySpec(
            name,
            ("image", *dims),
            (meta.images, *sizes),
            dtype,
            (images_per_chunk(shard, per_image), *sizes),
            (shard, *sizes),
        )
    return specs


def group_url(url: str, mlp_layer: int) -> str:
    return urls.join(url, CONTRIBUTIONS, NEURONS, str(mlp_layer))


def kept(url: str, mlp_layer: int) -> dict[str, str]:
    """Dtypes of the quantities that have an array, by name; empty where nothing is kept."""
    if not urls.exists(urls.join(group_url(url, mlp_layer), "zarr.json")):
        return {}
    return dict(urls.open_group(group_url(url, mlp_layer), mode="r").attrs.get("facet", {}))  # type: ignore[arg-type]


def kept_layers(url: str) -> list[int]:
    """MLP layers of which something is kept."""
    names = urls.list_names(urls.join(url, CONTRIBUTIONS, NEURONS))
    return [layer for layer in sorted(int(n) for n in names if n.isdecimal()) if kept(url, layer)]


def create(url: str, meta: Metadata, mlp_layer: int, quantities: Sequence[str], dtype: str) -> None:
    """Make the arrays that a layer lacks; the driver alone calls this.

    Raises
    ------
    StoreMismatch
        If a quantity is kept as float32 and float16 is asked for. What is kept as float16 and
        asked for as float32, which is the remedy of an overflow, is dropped and made anew.
    """
    have = kept(url, mlp_layer)
    for name in quantities:
        if name in have and have[name] != dtype:
            if dtype == "float16":
                raise StoreMismatch(
                    f"{name} of MLP layer {mlp_layer} are kept as {have[name]} in {url}: give "
                    f"`store_dtype` {have[name]}"
                )
            urls.remove(urls.join(url, folder(url, mlp_layer, name)))
            del have[name]
    wanted = {name: dtype for name in quantities if name not in have}
    if not wanted:
        return
    root = urls.join(url, CONTRIBUTIONS)
    for place in (root, urls.join(root, NEURONS)):  # a view has none but neurons
        zarr.open_group(urls.zarr_store(place, read_only=False), mode="a")
    group = zarr.open_group(urls.zarr_store(group_url(url, mlp_layer), read_only=False), mode="a")
    arrays.create_arrays(group, neuron_arrays(meta, mlp_layer, wanted).values(), overwrite=True)
    if "path_layer" not in group:
        for name, values in zip(
            ("path_layer", "path_head"), zip(*meta.paths(mlp_layer), strict=True), strict=True
        ):
            array = group.create_array(
                name, shape=(len(values),), dtype="int64", dimension_names=("path",)
            )
            array[:] = np.array(values)
    ledgers = {} if "facet" in group.attrs else {"ledger": NEURONS}
    # The attribute says what is kept: without it the arrays count as not there.
    group.attrs.update({"coordinates": "path_layer path_head", "facet": have | wanted, **ledgers})
    arrays.consolidate(urls.open_group(root, mode="r+"))


def folder(url: str, mlp_layer: int, quantity: str) -> str:
    """Where the ledger parts of one quantity stand, below the store.

    Layers that were begun under schema version 1 have theirs inside the store's own ledger.
    """
    attributes = urls.open_group(group_url(url, mlp_layer), mode="r").attrs
    place = str(attributes.get("ledger", urls.join(LEDGER, NEURONS)))
    return urls.join(place, str(mlp_layer), quantity)


def done(url: str, mlp_layer: int, quantity: str) -> set[int]:
    """Shards of which a quantity is kept."""
    if quantity not in kept(url, mlp_layer):
        return set()
    return ledger.done_shards(url, folder(url, mlp_layer, quantity))


def finish_shard(url: str, mlp_layer: int, quantity: str, shard: int, rows: pa.Table) -> None:
    """Declare one quantity of a shard finished; ``rows`` are the store's own ledger rows."""
    ledger.write_part(url, shard, rows, {}, folder(url, mlp_layer, quantity))


def forget(url: str, mlp_layer: int, quantity: str) -> None:
    """Declare no shard of a quantity finished."""
    urls.remove(urls.join(url, folder(url, mlp_layer, quantity)))


def forget_shards(url: str, shards: Collection[int]) -> None:
    """Declare some shards unfinished in all that is kept of neurons, and drop what counts them."""
    for layer in kept_layers(url):
        for quantity in kept(url, layer):
            for shard in done(url, layer, quantity) & set(shards):
                urls.remove(ledger.part_url(url, shard, folder(url, layer, quantity)))
    for name in urls.list_names(urls.join(url, STATES)):
        if not name.isdecimal():
            continue
        for place in _states(url, int(name), None):
            if _counted(place) & set(shards):
                urls.remove(place)


def open_neurons(url: str, mlp_layer: int) -> xr.Dataset:
    """A layer's arrays, lazy, float32, in blocks of whole zarr shards.

    Raises
    ------
    StoreError
        If none is kept.
    """
    have = kept(url, mlp_layer)
    if not have:
        raise StoreError(
            f"the store at {url} keeps no neurons of MLP layer {mlp_layer}",
            Remedy.first("second_order", url, mlp_layers=mlp_layer),
        )
    group: Any = urls.open_group(group_url(url, mlp_layer), mode="r")
    shards = [group[name].shards[0] for name in have]
    data = arrays.open_images(group_url(url, mlp_layer), max(shards), consolidated=False)
    for name in ("path_layer", "path_head"):
        data[name].load()  # conditions on a path can then be written down directly
    return data[list(have)]


# -- states --------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """Something gathered over shards, as it stands in the store.

    Attributes
    ----------
    shards : set of int
        Shards that are counted.
    values : dict of str to ndarray
    """

    shards: set[int] = field(default_factory=set)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)


def _states(url: str, mlp_layer: int, kind: str | None) -> list[str]:
    """Places of the states of one kind, or of all."""
    place = urls.join(url, STATES, str(mlp_layer))
    names = [n for n in urls.list_names(place) if "-" in n]
    return [urls.join(place, n) for n in names if kind in (None, n.split("-")[0])]


def _facts(place: str) -> Any:
    if not urls.exists(urls.join(place, "zarr.json")):
        return None
    return urls.open_group(place, mode="r").attrs.get("facet")


def _counted(place: str) -> set[int]:
    facts = _facts(place)
    return set() if facts is None else {s for a, b in facts["shards"] for s in range(a, b + 1)}


def write_state(
    url: str,
    mlp_layer: int,
    kind: str,
    identity: Mapping[str, Any],
    state: State,
    dims: Mapping[str, tuple[str, ...]],
) -> None:
    """Keep a state in place of the one before it, which goes when this one stands.

    Parameters
    ----------
    kind : str
        Its name.
    identity : mapping
        JSON-able; a state is only found again under the same.
    state : State
    dims : mapping of str to tuple of str
        Axes of its values.
    """
    before = _states(url, mlp_layer, kind)
    place = urls.join(url, STATES, str(mlp_layer), f"{kind}-{len(state.shards)}")
    for outer in (urls.join(url, STATES), urls.join(url, STATES, str(mlp_layer))):
        zarr.open_group(urls.zarr_store(outer, read_only=False), mode="a")
    data = xr.Dataset({name: (dims[name], value) for name, value in state.values.items()})
    shards = [list(r) for r in as_spans(state.shards)]
    facts = {"facet": {"identity": dict(identity), "shards": shards}}
    arrays.write_dataset(place, data, facts)
    for old in before:
        if old != place:
            urls.remove(old)


def read_state(url: str, mlp_layer: int, kind: str, identity: Mapping[str, Any]) -> State:
    """The state that was kept under this identity; an empty one where there is none."""
    found = State()
    for place in _states(url, mlp_layer, kind):
        facts = _facts(place)
        if facts is None or facts["identity"] != dict(identity):
            continue
        shards = _counted(place)
        if len(shards) > len(found.shards):
            data = arrays.open_dataset(place).load()
            found = State(shards, {str(n): v.values for n, v in data.items()})
    return found


def drop_state(url: str, mlp_layer: int, kind: str) -> None:
    """Remove a state that has served."""
    for place in _states(url, mlp_layer, kind):
        urls.remove(place)
