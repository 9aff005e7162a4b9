"""Which neurons fire on a picture, and the concepts that they add up to.

A neuron fires where its mean-removed second-order effect is longer than on 98 of 100 images. Its
effect has a sign along the neuron's direction, and the direction a code of texts: a concept's score
is the sum, over the neurons that fire, of the effect's signed projection times the text's
coefficient (Gandelsman 2025, section 4.2, which takes lengths for projections).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.library import Library, Opened
from pipeline.explorer.subject import Subject, pixels_of
from pipeline.subsets import spread
from storage import neurons, urls
from storage.errors import FacetError
from storage.results import Result
from storage.store import Store

if TYPE_CHECKING:
    from pipeline.explorer.model import Loaded
    from pipeline.neurons.answers import CodeText
    from pipeline.neurons.maps import SecondOrderMaps

JOB = "second_order"
# Of 100 images, on so many a neuron that fires writes less.
PERCENT = 98
# What is long is told from about so many images.
SAMPLE = 4096
# Neurons and concepts that are shown.
SHOWN, CONCEPTS = 12, 12


@dataclass(frozen=True)
class Firing:
    """A neuron that fires.

    Attributes
    ----------
    neuron : int
    norm : float
        Length of its mean-removed effect on the embedding, over ‖embedding‖.
    usual : float
        Its mean length over all images.
    score : float or None
        The effect's projection on the neuron's direction; None where the model was not asked.
    texts : tuple of CodeText
        The neuron's code, by rank.
    """

    neuron: int
    norm: float
    usual: float
    score: float | None
    texts: tuple[CodeText, ...]


@dataclass(frozen=True)
class Concept:
    """A text that neurons that fire stand for, or against; and how many of them."""

    text: str
    score: float
    neurons: int


@dataclass(frozen=True)
class FiringLayer:
    """The neurons of an MLP layer that fire on a picture.

    Attributes
    ----------
    layer : int
    firing, of : int
        How many fire, of how many.
    long : str
        When a neuron counts as firing, in words.
    neurons : tuple of Firing
        The longest effects first.
    concepts : tuple of Concept
        Those of the largest size first; empty where projections are not known, or no codes are.
    signed : bool
        Whether projections are known.
    """

    layer: int
    firing: int
    of: int
    long: str
    neurons: tuple[Firing, ...]
    concepts: tuple[Concept, ...]
    signed: bool


@dataclass(frozen=True, eq=False)
class Effects:
    """The mean-removed effects of a layer's neurons on a picture: lengths, and projections."""

    norms_n: NDArray[np.float64]
    scores_n: NDArray[np.float64] | None


def effects_by_layer(here: Opened) -> dict[int, Result]:
    """The second-order effects of each MLP layer that were asked for last."""
    found: dict[int, Result] = {}
    for result in here.results(JOB):
        for layer in result.provenance["mlp_layers"]:
            found.setdefault(layer, result)
    return dict(sorted(found.items(), reverse=True))


def firing(library: Library, here: Opened, subject: Subject, signed: bool) -> list[FiringLayer]:
    """Which neurons fire on a picture, of every layer whose effects are known.

    Parameters
    ----------
    library : Library
    here : Opened
    subject : Subject
    signed : bool
        Whether projections are wanted, which the model is asked for. Of a picture that the store
        does not hold, or no lengths of, they are told in any case.

    Raises
    ------
    NotYet
        If the model is being loaded.
    """
    return [
        _of_layer(library, here, subject, layer, result, signed)
        for layer, result in effects_by_layer(here).items()
    ]


def _of_layer(
    library: Library, here: Opened, subject: Subject, layer: int, result: Result, signed: bool
) -> FiringLayer:
    from pipeline.neurons.answers import codes_of, terms

    kept = None if signed or subject.index is None else stored_effects(here, layer, subject.index)
    if kept is None:
        picture = subject.index if subject.data is None else subject.data
        kept = here.cached(
            ("effects", layer, subject.key),
            lambda: library.model.ask(here, effects_of, layer, result.name, picture),
        )
    table = here.cached(
        ("neurons", result.url, layer),
        lambda: _rows(result, "neurons", layer).set_index("neuron").sort_index(),
    )
    threshold_n, long = long_effects(here, layer, table)
    fires_n = (kept.norms_n > threshold_n) & (table["norm_max"].to_numpy() > 0)
    order = [int(n) for n in np.argsort(-kept.norms_n, kind="stable") if fires_n[n]]
    codes = here.cached(("codes", result.url, layer), lambda: codes_of(here.store, result, layer))
    code = None
    if codes is not None:
        code = here.cached(("codes", codes.url, layer), lambda: _rows(codes, "codes", layer))
    scores_n = kept.scores_n
    shown = tuple(
        Firing(
            neuron,
            float(kept.norms_n[neuron]),
            float(table["norm_mean"][neuron]),
            None if scores_n is None else float(scores_n[neuron]),
            () if code is None else terms(code, layer, neuron),
        )
        for neuron in order[:SHOWN]
    )
    concepts = () if code is None or scores_n is None else concepts_of(code, scores_n, order)
    return FiringLayer(layer, len(order), len(fires_n), long, shown, concepts, scores_n is not None)


def _rows(result: Result, name: str, layer: int) -> Any:
    table = result.table(name).to_pandas()
    return table[table["layer"] == layer]


def concepts_of(code: Any, scores_n: NDArray[np.float64], firing: list[int]) -> tuple[Concept, ...]:
    """Texts by Σ coefficient · projection over the neurons that fire.

    Parameters
    ----------
    code : DataFrame
        The layer's rows of the table of codes.
    scores_n : (N,)
    firing : list of int
    """
    rows = code[code["neuron"].isin(firing)]
    rows = rows.assign(score=rows["coefficient"] * scores_n[rows["neuron"].to_numpy(int)])
    found = rows.groupby("text")["score"].agg(["sum", "size"])
    found = found.iloc[np.argsort(-found["sum"].abs().to_numpy(), kind="stable")][:CONCEPTS]
    return tuple(
        Concept(str(text), float(row["sum"]), int(row["size"])) for text, row in found.iterrows()
    )


def stored_effects(here: Opened, layer: int, image: int) -> Effects | None:
    """Lengths that the store keeps of an image; None where it keeps none."""
    done = here.cached(("norms done", layer), lambda: neurons.done(here.store.url, layer, "norms"))
    if image // here.meta.shard_size not in done:
        return None
    group: Any = urls.open_group(neurons.group_url(here.store.url, layer), mode="r")
    return Effects(np.asarray(group["norms"][image], np.float64), None)


def long_effects(here: Opened, layer: int, table: Any) -> tuple[NDArray[np.float64], str]:
    """From which length on each neuron's effect is a long one, (N,), and what that is, in words."""

    def sample() -> tuple[NDArray[np.float64], int] | None:
        store = here.store
        kept = sorted(store.done_shards() & neurons.done(store.url, layer, "norms"))
        if not kept:
            return None
        group: Any = urls.open_group(neurons.group_url(store.url, layer), mode="r")
        shards = spread(kept, max(1, SAMPLE // store.meta.shard_size))
        each, rows = -(-SAMPLE // len(shards)), []
        for shard in shards:
            start, stop = store.meta.rows(shard)
            rows.append(np.asarray(group["norms"][start : min(stop, start + each)], np.float32))
        norms_bn = np.concatenate(rows)
        norms_bn = norms_bn[np.isfinite(norms_bn).all(1)]
        return np.percentile(norms_bn, PERCENT, axis=0), len(norms_bn)

    known = here.cached(("long effects", layer), sample)
    if known is None:
        return table["norm_large"].to_numpy(), "longer than on the last of its top images"
    return known[0], f"longer than on {PERCENT}% of {known[1]:,} images"


# -- in the model's process ----------------------------------------------------------------

_maps: dict[tuple[str, int], tuple[SecondOrderMaps, Any, Any]] = {}


def effects_of(loaded: Loaded, layer: int, result: str, picture: int | bytes) -> Effects:
    """Effects of a layer's neurons on a picture, from one pass of the model.

    Parameters
    ----------
    loaded : Loaded
    layer : int
    result : str
        Of the second-order effects whose directions are meant.
    picture : int or bytes
    """
    import torch

    from pipeline.neurons.forward import NeuronPass
    from pipeline.neurons.maps import published_scale

    maps, mean_pn, readout_pn = _known(loaded, layer, result)
    with torch.inference_mode():
        found = NeuronPass(loaded.model, [layer])(pixels_of(loaded, picture))
        published_bpn = published_scale(
            found.coefficients[layer], found.ln_std_b, found.embedding_be
        )
        beyond_bpn = published_bpn - mean_pn
        scores_bn = (beyond_bpn * readout_pn).sum(1)
        norms_bn = maps.norms(beyond_bpn)
    return Effects(norms_bn[0].double().cpu().numpy(), scores_bn[0].double().cpu().numpy())


def _known(loaded: Loaded, layer: int, result: str) -> tuple[SecondOrderMaps, Any, Any]:
    """A layer's maps, the mean of its coefficients, and what its directions make of them."""
    import torch

    from pipeline.neurons.maps import second_order_maps
    from pipeline.neurons.phases import kept_moments
    from storage.results import finished_results

    store: Store = loaded.store
    key = f"{store.url} {result}", layer
    if key not in _maps:
        moments = kept_moments(store, layer)
        of = next((r for r in finished_results(store.url, JOB) if r.name == result), None)
        if moments is None or of is None:
            raise FacetError(
                f"the mean effects of MLP layer {layer} are not kept, or of other images than "
                "there are now"
            )
        maps = second_order_maps(loaded.model, layer)
        directions = of.arrays("components")["direction"].sel(layer=layer).values
        readout_pn = maps.readout(torch.from_numpy(directions).to(maps.head_map_pke))
        mean_pn = torch.from_numpy(moments.mean.T.copy()).to(maps.head_map_pke)
        _maps[key] = maps, mean_pn, readout_pn
    return _maps[key]
