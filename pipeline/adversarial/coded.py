"""Neurons of several layers with their directions and their codes over one pool of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.concepts.pools import CodedPool, pool_of_codes
from pipeline.neurons.answers import described
from pipeline.neurons.choices import parse_mlp_layers
from pipeline.neurons.found_directions import read_directions
from pipeline.texts import Pool
from pipeline.texts.classes import texts_digest
from storage.errors import FacetError, Remedy, StoreError
from storage.results import Result, finished_results
from storage.store import Store

JOB = "omp"


@dataclass(frozen=True, eq=False)
class CodedNeurons:
    """N neurons in words, over a pool of M texts.

    Attributes
    ----------
    layers_n, neurons_n : (N,) int64
        Where they are.
    directions_ne : (N, E) float64
        r_n, of unit length.
    texts : tuple of str
        The pool.
    rows_k, texts_k : (K,) int64
        Of every text of a code, the neuron (a row of the above) and the text.
    coefficients_k : (K,) float64
        γ, with its sign.
    """

    layers_n: NDArray[np.int64]
    neurons_n: NDArray[np.int64]
    directions_ne: NDArray[np.float64]
    texts: tuple[str, ...]
    rows_k: NDArray[np.int64]
    texts_k: NDArray[np.int64]
    coefficients_k: NDArray[np.float64]

    @classmethod
    def of(
        cls, directions: dict[int, NDArray[np.floating]], codes: pd.DataFrame, texts: Sequence[str]
    ) -> CodedNeurons:
        """Neurons of layers that have an effect, with their codes.

        Parameters
        ----------
        directions : dict of int to (neurons, E) float
            By layer; zero for a neuron without effect.
        codes : DataFrame
            As ``neurons.tables.CODES`` has it; rows of other layers are left out.
        texts : sequence of str
            The pool.
        """
        where = [(at, int(n)) for at, r in directions.items() for n in np.flatnonzero(r.any(1))]
        layers_n, neurons_n = np.array(where, np.int64).reshape(-1, 2).T
        row = {neuron: i for i, neuron in enumerate(where)}
        number = {text: i for i, text in enumerate(texts)}
        codes = codes[codes["layer"].isin(list(directions))]
        return cls(
            layers_n,
            neurons_n,
            np.stack([directions[layer][n] for layer, n in where]).astype(np.float64),
            tuple(texts),
            np.array([row[at] for at in zip(codes["layer"], codes["neuron"], strict=True)], int),
            np.array([number[text] for text in codes["text"]], int),
            codes["coefficient"].to_numpy(np.float64),
        )


def coded_results(store: Store, mlp_layers: str | None, pool: Pool | None) -> dict[int, Result]:
    """The codes of every layer, over one pool, that were asked for last.

    Parameters
    ----------
    store : Store
    mlp_layers : str or None
        As ``parse_mlp_layers`` reads them; None: all that have codes over the pool.
    pool : Pool or None
        None: that of the codes that were asked for last.

    Raises
    ------
    StoreError
        If a layer has no codes, or no codes over the pool.
    """
    found = finished_results(store.url, JOB)
    wanted = None if mlp_layers is None else parse_mlp_layers(mlp_layers, store.meta)
    digest = None if pool is None else texts_digest(pool.texts)
    by_layer: dict[int, Result] = {}
    for result in reversed(found):
        layers = set(result.provenance["mlp_layers"])
        if wanted is not None and not by_layer and not layers & set(wanted):
            continue  # of other layers alone, and so its pool is none that was meant
        digest = digest or result.provenance["identity"]["pool"]
        if result.provenance["identity"]["pool"] == digest:
            by_layer |= dict.fromkeys(layers - by_layer.keys(), result)
    lacking = [at for at in wanted or () if at not in by_layer]
    if lacking or not by_layer:
        which = ",".join(map(str, lacking)) if lacking else mlp_layers
        over = "" if pool is None else f" over the pool {pool.source}"
        raise StoreError(
            f"no codes{over} of neurons{f' of MLP layers {which}' if which else ''} in {store.url}",
            Remedy.first(
                JOB, store.url, mlp_layers=which, pool=None if pool is None else pool.source
            ),
        )
    return {at: by_layer[at] for at in sorted(by_layer if wanted is None else wanted)}


def coded_pool(store: Store, codes: Result) -> CodedPool:
    """The pool that a result's codes were picked from.

    Raises
    ------
    StoreError
        If its embeddings are gone.
    """
    found = pool_of_codes(store, codes)
    if found is None:
        raise StoreError(
            f"the embeddings of the texts that {codes.url} names are gone",
            Remedy.anew(JOB, store.url),
        )
    return found


def read_coded(store: Store, results: dict[int, Result]) -> CodedNeurons:
    """Directions and codes of the layers of `coded_results`.

    Raises
    ------
    FacetError
        If directions are gone or hold NaN, or no neuron has an effect.
    """
    directions: dict[int, NDArray[np.floating]] = {}
    tables = []
    for layer, result in results.items():
        directions |= read_directions(described(store, result), [layer]).by_layer
        table = result.table("codes").to_pandas()
        tables.append(table[table["layer"] == layer])
    first = next(iter(results.values()))
    texts = coded_pool(store, first).texts
    codes = pd.concat(tables, ignore_index=True)
    if unknown := set(codes["text"]) - set(texts):
        raise FacetError(f"{first.url} names texts that its pool lacks, such as {min(unknown)!r}")
    return CodedNeurons.of(directions, codes, texts)
