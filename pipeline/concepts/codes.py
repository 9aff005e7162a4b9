"""What neurons stand for: codes of several MLP layers as one list of texts, and sums over them.

The score of a text is the sum, over the neurons that speak, of the coefficient of the text in the
neuron's code times the neuron's weight (Gandelsman 2025, section B.1). For what a neuron weighs
see ``by_neurons``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storage.errors import Remedy, StoreError
from storage.results import Result, finished_results
from storage.store import Store

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = NDArray[Any]


@dataclass(frozen=True)
class Coded:
    """An MLP layer whose neurons are coded: the codes, and the directions that they are of."""

    mlp_layer: int
    codes: Result
    effects: Result


@dataclass(frozen=True)
class Said:
    """A neuron that speaks for a text, or against it: coefficient × weight, of a score."""

    layer: int
    neuron: int
    coefficient: float
    weight: float

    @property
    def share(self) -> float:
        """What the neuron adds to the text's score."""
        return self.coefficient * self.weight


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of the neurons of several MLP layers.

    Attributes
    ----------
    texts : tuple of str
        M texts, all that any of the codes has.
    by_layer : dict of int to (N, M) sparse float64
        Coefficients γ by MLP layer.
    """

    texts: tuple[str, ...]
    by_layer: dict[int, csr_array]

    def add(self, weights: Mapping[int, Array]) -> NDArray[np.float64]:
        """Scores of texts.

        Parameters
        ----------
        weights : mapping of int to (B, N)
            Of some of the layers; 0 for a neuron that does not speak.

        Returns
        -------
        (B, M) float64
            Σ over layers and neurons of weight · γ.
        """
        # Few neurons speak: what none of the pictures needs is not multiplied.
        parts = []
        for layer, weights_bn in weights.items():
            spoke = np.flatnonzero(weights_bn.any(0))
            parts.append(weights_bn[:, spoke].astype(np.float64) @ self.by_layer[layer][spoke])
        return np.sum(parts, axis=0)

    def said(self, weights: Mapping[int, Array], text: str) -> list[Said]:
        """Who speaks for a text or against it on one picture, what adds most first.

        Parameters
        ----------
        weights : mapping of int to (N,)
        text : str
        """
        at, found = self.texts.index(text), []
        for layer, weights_n in weights.items():
            column = self.by_layer[layer][:, [at]].tocoo()
            for neuron, coefficient in zip(column.coords[0], column.data, strict=True):
                if weight := float(weights_n[neuron]):
                    found.append(Said(layer, int(neuron), float(coefficient), weight))
        return sorted(found, key=lambda one: -abs(one.share))


def coded_layers(store: Store, pool: str | None = None) -> dict[int, Coded]:
    """The MLP layers whose neurons are coded, each with the codes that were asked for last.

    Parameters
    ----------
    store : Store
    pool : str, optional
        Digest of the texts that the codes are to be made of; by default any.
    """
    effects = {result.name: result for result in finished_results(store.url, "second_order")}
    found: dict[int, Coded] = {}
    for codes in finished_results(store.url, "omp"):
        if pool not in (None, codes.provenance["identity"]["pool"]):
            continue
        # By its last part: a store may have moved since.
        of = effects.get(codes.provenance["second_order"].rstrip("/").rpartition("/")[2])
        if of is not None:
            found |= {layer: Coded(layer, codes, of) for layer in codes.provenance["mlp_layers"]}
    return dict(sorted(found.items()))


def chosen_layers(
    store: Store, mlp_layers: Sequence[int] | None = None, pool: tuple[str, str] | None = None
) -> list[Coded]:
    """Layers by number, all of them coded; by default all that are.

    Parameters
    ----------
    store : Store
    mlp_layers : sequence of int, optional
    pool : (name, digest), optional
        The pool that codes are to be over.

    Raises
    ------
    StoreError
        If one is not coded, or none; its remedy says how to.
    """
    known = coded_layers(store, None if pool is None else pool[1])
    over = "" if pool is None else f" over {pool[0]}"
    lacking = sorted(set(mlp_layers or ()) - set(known))
    if lacking or not known:
        listed = ",".join(map(str, lacking)) or "last:1"
        which = f"of MLP layers {listed}" if lacking else "of any neurons"
        raise StoreError(
            f"no codes {which}{over} in {store.url}",
            Remedy.first("omp", store.url, mlp_layers=listed, pool=pool and pool[0]),
        )
    return [known[layer] for layer in (sorted(set(mlp_layers)) if mlp_layers else known)]


def read_codes(layers: Sequence[Coded], terms: int | None = None) -> Codes:
    """Codes of some layers.

    Parameters
    ----------
    layers : sequence of Coded
    terms : int, optional
        At most so many texts a neuron, those of the largest coefficients; by default all.
    """
    from scipy.sparse import csr_array  # long to import

    tables: dict[int, pd.DataFrame] = {}
    for of in layers:
        rows = of.codes.table("codes").to_pandas()
        rows = rows[rows["layer"] == of.mlp_layer]
        tables[of.mlp_layer] = rows if terms is None else rows[rows["rank"] < terms]
    texts = list(dict.fromkeys(text for rows in tables.values() for text in rows["text"]))
    at = {text: i for i, text in enumerate(texts)}
    found = {}
    for of in layers:
        rows = tables[of.mlp_layer]
        neurons = of.effects.arrays("components").sizes["neuron"]
        place = rows["neuron"].to_numpy(), rows["text"].map(at).to_numpy(int)
        found[of.mlp_layer] = csr_array(
            (rows["coefficient"].to_numpy(float), place), shape=(neurons, len(texts))
        )
    return Codes(tuple(texts), found)
