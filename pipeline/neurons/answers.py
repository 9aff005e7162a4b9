"""What is known of a layer's neurons, as data: the strongest ones, and their sparse codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storage.errors import Remedy, StoreError
from storage.results import Result, finished_results
from storage.store import Store

# Neurons of each layer that are listed; top images of a neuron that are shown.
STRONGEST, IMAGES = 20, 8


@dataclass(frozen=True)
class CodeText:
    """A text of a neuron's code."""

    text: str
    coefficient: float


def signed(texts: Sequence[CodeText]) -> str:
    """``+ a red star · − snow``."""
    return " · ".join(f"{'+' if term.coefficient > 0 else '−'} {term.text}" for term in texts)


@dataclass(frozen=True)
class CodedNeuron:
    """A neuron in words; its texts by rank."""

    layer: int
    neuron: int
    texts: tuple[CodeText, ...]


@dataclass(frozen=True, eq=False)
class Coded:
    """What sparse codes say.

    Attributes
    ----------
    neurons : list of CodedNeuron
        The strongest of each layer.
    accuracy : DataFrame or None
        As ``heads.tables.ABLATIONS`` has it, where it was asked for.
    truth : dict of str to dict
        Of each layer, in words, how true the texts are; empty where the truth is not known.
    """

    neurons: list[CodedNeuron]
    accuracy: pd.DataFrame | None
    truth: dict[str, dict[str, str]]


def strongest(neurons: pd.DataFrame) -> pd.DataFrame:
    """The neurons of each layer whose effects on their top images are longest, in that order."""
    rows = neurons.sort_values(["layer", "norm_large"], ascending=[True, False], kind="stable")
    return rows.groupby("layer").head(STRONGEST)


@dataclass(frozen=True)
class Picked:
    """A neuron that is shown, and why: ``the worst: …``."""

    neuron: int
    why: str


def picked(
    neurons: pd.DataFrame,
    directions_ne: NDArray[np.floating],
    codes: pd.DataFrame,
    quality: pd.Series,
    names: tuple[str, str],
    count: int,
) -> list[Picked]:
    """Neurons of one layer to be shown: the best said, the worst said, and of the rest a variety.

    Of the half of the layer whose effect on the top images is longest: a neuron that does next to
    nothing is a poor example of anything. The rest are picked one by one, each time the neuron of
    longest effect times what its direction has of its own, 1 - |cos| to the nearest picked before;
    none with the first text of another.

    Parameters
    ----------
    neurons : DataFrame
        The layer's rows of the second-order job's table.
    directions_ne : (N, E) float
        Unit vectors; zero for a neuron without effect.
    codes : DataFrame
        The layer's rows of the table of codes; empty where there are none.
    quality : Series
        How well neurons are said, by neuron; more is better. Empty where that is not known.
    names : pair of str
        What the best and the worst are called.
    count : int
        At most so many.
    """
    rows = neurons[neurons["norm_max"] > 0].set_index("neuron")["norm_large"]
    strong = rows[rows >= rows.median()]
    positive = codes[codes["coefficient"] > 0].sort_values("rank").drop_duplicates("neuron")
    text = dict(zip(positive["neuron"], positive["text"], strict=True))
    known = quality[quality.index.isin(strong.index)].sort_values(ascending=False, kind="stable")
    found = []
    if len(known) > 1 and count > 1:
        ends = known.index[0], known.index[-1]
        found = [Picked(int(n), why) for n, why in zip(ends, names, strict=True)]
    own = np.ones(len(directions_ne))
    for one in found:
        own = np.minimum(own, 1 - np.abs(directions_ne @ directions_ne[one.neuron]))
    left = strong.copy()
    while len(found) < count:
        said = {text[p.neuron] for p in found if p.neuron in text}
        taken = {p.neuron for p in found}
        left = left[[n not in taken and text.get(n) not in said for n in left.index]]
        if left.empty:
            break
        neuron = int(left.index[int((left * own[left.index]).to_numpy().argmax())])
        found.append(Picked(neuron, "one of long effect along a direction of its own"))
        own = np.minimum(own, 1 - np.abs(directions_ne @ directions_ne[neuron]))
    return found


def coded(store: Store, result: Result, top: int) -> Coded:
    """What a result of the job of sparse codes says.

    Parameters
    ----------
    store : Store
    result : Result
    top : int
        Texts of each neuron, at most.
    """
    codes = result.table("codes").to_pandas()
    neurons = described(store, result).table("neurons").to_pandas()
    listed = strongest(neurons.merge(codes[["layer", "neuron"]].drop_duplicates()))
    asked = result.config["classes"] is not None
    return Coded(
        [
            CodedNeuron(layer, neuron, terms(codes, layer, neuron)[:top])
            for layer, neuron in listed[["layer", "neuron"]].to_numpy().tolist()
        ],
        result.table("accuracy").to_pandas() if asked else None,
        {layer: dict(facts) for layer, facts in result.provenance["truth"].items()},
    )


def terms(codes: pd.DataFrame, layer: int, neuron: int) -> tuple[CodeText, ...]:
    """A neuron's code, by rank; empty where it was not coded."""
    rows = codes[(codes["layer"] == layer) & (codes["neuron"] == neuron)].sort_values("rank")
    pairs = zip(rows["text"], rows["coefficient"], strict=True)
    return tuple(CodeText(str(text), float(coefficient)) for text, coefficient in pairs)


def codes_of(store: Store, effects: Result, layer: int) -> Result | None:
    """The codes, asked for last, of a layer's directions in a second-order result."""
    for result in reversed(finished_results(store.url, "omp")):
        if layer in result.provenance["mlp_layers"] and _coded_name(result) == effects.name:
            return result
    return None


def described(store: Store, codes: Result) -> Result:
    """The second-order result whose directions were coded.

    Raises
    ------
    StoreError
        If it is gone.
    """
    for result in finished_results(store.url, "second_order"):
        if result.name == _coded_name(codes):
            return result
    raise StoreError(
        f"the second-order effects that {codes.url} describes are gone "
        f"({codes.provenance['second_order']})",
        Remedy.anew("omp", store.url),
    )


def _coded_name(codes: Result) -> str:
    # By its last part: a store may have moved since.
    return codes.provenance["second_order"].rstrip("/").rpartition("/")[2]
