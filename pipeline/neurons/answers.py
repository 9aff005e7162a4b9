"""What is known of a layer's neurons, as data: the strongest ones, and their sparse codes."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from storage.errors import Remedy, StoreError
from storage.results import Result, finished_results
from storage.store import Store

# Neurons of each layer that are listed.
STRONGEST = 20
# Neurons of a layer that a page shows.
SELECTIVE = 10


@dataclass(frozen=True)
class CodeText:
    """A text of a neuron's code."""

    text: str
    coefficient: float


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


def most_selective(neurons: pd.DataFrame, layer: int, count: int = SELECTIVE) -> list[int]:
    """Neurons of a layer that act on few images only, the most selective first.

    By the length of their effect on the last of their top images over its mean length, among
    the half of the layer whose effect on the top images is longest: a neuron that does next to
    nothing is selective for no reason.

    Parameters
    ----------
    neurons : DataFrame
        The second-order job's table.
    """
    rows = neurons[(neurons["layer"] == layer) & (neurons["norm_mean"] > 0)]
    strong = rows[rows["norm_large"] >= rows["norm_large"].median()]
    order = (strong["norm_large"] / strong["norm_mean"]).sort_values(ascending=False, kind="stable")
    return [int(n) for n in strong.loc[order.index, "neuron"][:count]]


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
