"""Reductions of a store: moments, and what follows from them.

chunk: one task a shard reads its images of the subset; combine: states are merged in a tree;
finalize: means, covariances, principal components. Shards are taken in waves, so that no more
states are held at once than the cluster has use for, and each wave is kept in
``reductions.zarr``: a stopped run goes on from there, and shards that were extracted later are
added without reading the others again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import zarr

from pipeline.cluster.tasks import scan
from pipeline.subsets import SubsetError, check_where, shard_rows
from storage import head_index, neurons, urls
from storage.errors import NotFinite, Remedy, StoreError
from storage.layout import CONTRIBUTIONS
from storage.metadata import Metadata
from storage.reductions import (
    TABLE,
    Facts,
    Reduction,
    Reductions,
    all_reductions,
    as_spans,
    axis_sizes,
    find_reductions,
    mean_shape,
    subset_url,
    table,
    write_reductions,
)
from storage.store import Store, open_store

from .choices import available_components, refuse_components
from .moments import Moments, chunk, combine, finalize, remove

States = dict[str, Moments]

# What a task holds of one array at once, as stored.
READ_BYTES = 64 << 20
# Principal components with less of the largest variance are rounding noise: kept as zero.
_NOISE = 1e-12


def reduce_store(
    store: Store,
    where: str | None = None,
    components: Sequence[str] | None = None,
    *,
    report: Callable[[int], None] = lambda shards: None,
) -> Reductions:
    """Bring a subset's reductions up to date with the store's finished shards.

    Parameters
    ----------
    store : Store
    where : str, optional
        See ``subsets``; all images unless given.
    components : sequence of str, optional
        Of ``heads``, ``mlps``, ``tokens``, ``embedding``; all that the store has unless given.
    report : callable
        Called with the number of shards done so far in this run.

    Raises
    ------
    SubsetError
        If the condition cannot be understood or matches no image that is ok.
    StoreError
        If no shard is finished, a component is missing, or a row that is ok has no values.
    """
    chosen = available_components(store.meta) if components is None else tuple(components)
    check(store, where, chosen)
    found = find_reductions(store.url, store.meta, where)
    facts = Facts(where, store.meta.digest()) if found is None else found.facts
    states = {} if found is None else _states(found, store.meta)
    done = 0
    for group, shards in _missing(store, facts, chosen).items():
        for count, wave in scan(shard_states, shards, merge, store.url, where, group):
            states = merge([states, wave])
            counted = {c: facts.counted(c) | set(shards[:count]) for c in group}
            facts = Facts(
                where, facts.store, facts.shards | {c: as_spans(v) for c, v in counted.items()}
            )
            write_reductions(store.url, store.meta, moments(states), facts)
            report(done + count)
        done += len(shards)
    _refuse_empty(states, store, where)
    if done or found is None or any(f"{n}_pca" not in found.data for n in _with_pca(states)):
        values = moments(states) | principal_components(states, store)
        write_reductions(store.url, store.meta, values, facts)
    return store.reductions(where)


def check(store: Store, where: str | None, components: Sequence[str]) -> None:
    """Refuse what cannot work before a task starts."""
    refuse_components(store.url, store.meta, components)
    check_where(store, where)
    if not store.done_shards():
        raise StoreError(f"no shard of {store.url} is finished", Remedy.first("extract", store.url))


def _missing(
    store: Store, facts: Facts, components: Sequence[str]
) -> dict[tuple[str, ...], list[int]]:
    """Finished shards that are not counted, by the components that lack them."""
    groups: dict[tuple[str, ...], list[int]] = {}
    counted = {c: facts.counted(c) for c in sorted(components)}
    for shard in sorted(store.done_shards()):
        lacking = tuple(c for c, shards in counted.items() if shard not in shards)
        if lacking:
            groups.setdefault(lacking, []).append(shard)
    return groups


def missing_shards(store: Store, where: str | None, components: Sequence[str]) -> int:
    """How many shards ``reduce_store`` would read."""
    found = find_reductions(store.url, store.meta, where)
    facts = Facts(where, store.meta.digest()) if found is None else found.facts
    return sum(map(len, _missing(store, facts, components).values()))


def _refuse_empty(states: States, store: Store, where: str | None) -> None:
    if max(state.n for state in states.values()):
        return
    done = len(store.done_shards())
    raise SubsetError(
        f"`where` {where!r} matches no image that is ok in the {done} finished shards of "
        f"{store.url}: check the values in the image table"
        if where is not None
        else f"no image of {store.url} is ok: the ledger says why"
    )


# -- chunk ---------------------------------------------------------------------------------


def shard_states(url: str, where: str | None, components: Sequence[str], shard: int) -> States:
    """State of one shard's images of the subset."""
    store = open_store(url)
    _, chosen = shard_rows(store, shard, where)
    return chosen_states(store, shard, chosen, components)


def chosen_states(
    store: Store, shard: int, chosen: np.ndarray, components: Sequence[str]
) -> States:
    """State of the ``chosen`` images (bool) of a shard, all of which must be ok."""
    start, stop = store.meta.rows(shard)
    wanted = table(store.meta, components)
    states = {r.name: _no_rows(r, store.meta) for r in wanted}
    if not chosen.any():
        return states
    data = urls.open_group(urls.join(store.data, CONTRIBUTIONS), mode="r")
    norm, scale = image_scales(data, start, stop)
    if (lost := chosen & ~(np.isfinite(scale) & (scale > 0))).any():
        raise NotFinite(
            f"{store.url}: images {(start + np.flatnonzero(lost)[:5]).tolist()} are ok in the "
            f"ledger, and their embedding or ln_std is NaN, infinite or 0 ({int(lost.sum())} "
            "images): the store was made from damaged weights, or is damaged; extract a new one"
        )
    for component in components:
        step = max(1, READ_BYTES // store.arrays[component].bytes_per_row)
        for first in range(0, len(chosen), step):
            part = slice(first, min(first + step, len(chosen)))
            if not chosen[part].any():
                continue
            rows = np.asarray(data[component][start + part.start : start + part.stop])  # type: ignore[index]
            for r in wanted:
                if r.component == component:
                    used = rows[:, store.meta.prefix :] if r.name == "patches" else rows
                    if r.name == "bias_weights":
                        used = np.asarray(data[r.name][start + part.start : start + part.stop])  # type: ignore[index]
                    try:
                        new = _chunk(r, used, chosen[part], scale[part], norm[part])
                    except NotFinite as error:
                        raise NotFinite(
                            f"{store.url}, {component}, rows from image {start + first} on: {error}"
                        ) from None
                    _refuse_lost(r, new, int(chosen[part].sum()), used, start + first)
                    states[r.name] = combine([states[r.name], new])
    return states


def image_scales(data: zarr.Group, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """‖embedding‖ and ln_std ‖embedding‖ of images ``start … stop-1``, float64."""
    embedding, ln_std = (np.asarray(data[n][start:stop]) for n in ("embedding", "ln_std"))  # type: ignore[index]
    norm = np.linalg.norm(embedding.astype(np.float64), axis=1)
    return norm, norm * ln_std


def _chunk(
    r: Reduction, rows: np.ndarray, ok: np.ndarray, scale: np.ndarray, norm: np.ndarray
) -> Moments:
    if r.name == "inverse_scale":
        return chunk(np.ones((len(rows), 1)), ok, scale, r.covariance)
    if r.name == "patches":  # every patch is a row
        patches = rows.shape[1]
        flat = rows.reshape(-1, rows.shape[-1])
        return chunk(flat, ok.repeat(patches), norm.repeat(patches), r.covariance)
    return chunk(rows, ok, norm if r.component in ("tokens", "embedding") else scale, r.covariance)


def _refuse_lost(r: Reduction, state: Moments, images: int, rows: np.ndarray, at: int) -> None:
    expected = images * (rows.shape[1] if r.name == "patches" else 1)
    if state.n != expected:
        raise StoreError(
            f"{r.component}: images from {at} on are ok in the ledger and hold no values "
            f"({expected - state.n} rows): the store is damaged: extract into a "
            "new one"
        )


def _no_rows(r: Reduction, meta: Metadata) -> Moments:
    shape = mean_shape(r, meta) or (1,)
    square = shape + shape[-1:] if r.covariance else shape
    return Moments(0, np.zeros(shape), np.zeros(square))


# -- combine -------------------------------------------------------------------------------


def merge(states: Iterable[Mapping[str, Moments]]) -> States:
    """Combine states name by name; a name need not be in all of them."""
    merged: States = {}
    for state in states:
        for name, new in state.items():
            merged[name] = combine([merged[name], new]) if name in merged else new
    return merged


# -- growth --------------------------------------------------------------------------------


def forget_shard(store: Store, shard: int) -> None:
    """Take one shard out of every subset's reductions, before its rows change."""
    for found in all_reductions(store.url, store.meta):
        group = tuple(c for c in found.facts.shards if shard in found.facts.counted(c))
        if not group:
            continue
        states = _states(found, store.meta)
        for name, part in shard_states(store.url, found.facts.where, group, shard).items():
            states[name] = remove(states[name], part)
        left = {c: as_spans(found.facts.counted(c) - {shard}) for c in group}
        facts = replace(found.facts, shards=found.facts.shards | left)
        write_reductions(store.url, store.meta, moments(states), facts)


def forget_redone(store: Store) -> None:
    """Drop all that counts shards which the ledger lacks: done again, they may hold others."""
    lacking = set(range(store.meta.shards)) - store.done_shards()
    for found in all_reductions(store.url, store.meta):
        if any(lacking & found.facts.counted(component) for component in found.facts.shards):
            urls.remove(subset_url(store.url, found.facts.where))
    neurons.forget_shards(store.url, lacking)
    head_index.forget_shards(store.url, store.meta, lacking)


def carry_over(store: Store, before: Metadata) -> None:
    """Keep the reductions of a store that has grown: what they count is what it was."""
    for found in all_reductions(store.url, before):
        facts = replace(found.facts, store=store.meta.digest())
        values = {str(n): v.values for n, v in found.data.data_vars.items()}
        write_reductions(store.url, store.meta, values, facts)


# -- finalize ------------------------------------------------------------------------------


def moments(states: States) -> dict[str, np.ndarray | int]:
    """The arrays that ``reductions.zarr`` keeps of states, and can be merged from again."""
    values: dict[str, np.ndarray | int] = {}
    for r in TABLE:
        if (state := states.get(r.name)) is not None:
            second = "covariance" if r.covariance else "variance"
            values |= {
                f"{r.name}_count": state.n,
                f"{r.name}_mean": state.mean,
                f"{r.name}_{second}": state.m2 / max(state.n, 1),
            }
    return values


def _states(found: Reductions, meta: Metadata) -> States:
    """The states that were kept."""
    states = {}
    for r in TABLE:
        if f"{r.name}_count" in found.data:
            n = found.count(r.name)
            second = found.array(f"{r.name}_{'covariance' if r.covariance else 'variance'}").values
            mean = found.array(f"{r.name}_mean").values
            empty = _no_rows(r, meta)
            states[r.name] = Moments(
                n, mean.reshape(empty.mean.shape), second.reshape(empty.m2.shape) * n
            )
    return states


def _with_pca(states: States) -> list[str]:
    return [r.name for r in TABLE if r.covariance and r.name in states and states[r.name].n]


def principal_components(states: States, store: Store) -> dict[str, np.ndarray]:
    """Principal components, in factored coordinates: rows times the map are orthonormal."""
    from .pca import covariance_pca, factored_pca  # tasks start without scikit-learn

    model, sizes, values = store.model(), axis_sizes(store.meta), {}
    maps = {"heads": "head_map", "mlps": "mlp_map"}
    for r in TABLE:
        if r.name not in _with_pca(states):
            continue
        covariance, n = finalize(states[r.name]).covariance, sizes[r.axis]
        assert covariance is not None  # the table says so
        if r.name in maps:
            joint = model[maps[r.name]].values.astype(np.float64)
            found = factored_pca(covariance, joint, n)
            rows = found.axes @ np.linalg.pinv(joint)
        else:
            found = covariance_pca(covariance, n)
            rows = found.axes
        real = found.variances > _NOISE * found.variances[..., :1]
        values[f"{r.name}_pca"] = rows * real[..., None]
        values[f"{r.name}_pca_variance"] = found.variances * real
    return values
