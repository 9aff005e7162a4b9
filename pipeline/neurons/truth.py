"""Whether neurons fire on what their texts say, where the truth is known.

A neuron's text is the one with the largest positive coefficient in its code. On the embedded
world a text names values of attributes (colour red, background night), and is true of the images
that have them all. How well the neuron tells these from the others is the area under the ROC
curve of its firing: the share of pairs, one image of each kind, in which it fires more on the
image that the text is true of. Random texts of the same pool are the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.cluster.tasks import each
from pipeline.microworld.words import microworld_values
from pipeline.microworld.world import ATTRIBUTES
from pipeline.subsets import chosen_rows, shard_rows
from storage import neurons, urls
from storage.store import Store, open_store

from .maps import SecondOrderMaps
from .rows import stored_rows, tensor

Values = frozenset[tuple[str, str]]

# An area under a curve is known well enough from these; later shards are left out.
MOST_IMAGES = 100_000
DRAWS = 20


@dataclass(frozen=True, eq=False)
class Firing:
    """How much each neuron of a layer fires on each image.

    Attributes
    ----------
    rows : pyarrow.Table
        The images' attributes.
    firing_bn : (B, N) float32
    by : str
        ``scores``, the projection on the neuron's direction, or ``norms``.
    """

    rows: pa.Table
    firing_bn: NDArray[np.float32]
    by: str


@dataclass(frozen=True, eq=False)
class NeuronTruth:
    """What is known of one layer's neurons and their texts.

    Attributes
    ----------
    table : DataFrame
        A row a neuron whose text names something: layer, neuron, text, attribute, value, auc,
        auc_random (mean over the draws).
    strength : (rows,) float
        Spread (standard deviation) of each neuron's firing, for the rows of the table.
    draws : (DRAWS,) float
        Mean over the neurons of each draw of random texts.
    unnamed : int
        Neurons left out: their text names no value, or one that all or none of the images have.
    images : int
    by : str
    """

    table: pd.DataFrame
    strength: NDArray[np.float32]
    draws: NDArray[np.float64]
    unnamed: int
    images: int
    by: str

    def facts(self) -> dict[str, Any]:
        """All but the table, JSON-able."""
        return {
            **{name: getattr(self, name) for name in ("unnamed", "images", "by")},
            "strength": self.strength.tolist(),
            "draws": self.draws.tolist(),
        }

    @classmethod
    def of(cls, table: pd.DataFrame, facts: dict[str, Any]) -> NeuronTruth:
        """What ``facts`` and the table were taken from."""
        strength, draws = np.array(facts["strength"], np.float32), np.array(facts["draws"])
        return cls(table, **{**facts, "strength": strength, "draws": draws})


def measure(store: Store, layer: int) -> str | None:
    """What the store keeps of a layer's neurons to tell their firing by; None where nothing."""
    for name in ("coefficients", "norms"):
        if neurons.done(store.url, layer, name):
            return name
    return None


def firing(
    store: Store,
    layer: int,
    maps: SecondOrderMaps,
    directions_ne: NDArray[np.float32],
    report: Callable[[int], None] = lambda shards: None,
) -> Firing:
    """Firing of a layer's neurons on the store's images.

    Parameters
    ----------
    store : Store
        That keeps coefficients or norms of the layer.
    layer : int
    maps : SecondOrderMaps
        On the CPU.
    directions_ne : (N, E)
    report : callable
        Called with the number of shards done so far.
    """
    kept = measure(store, layer)
    readout_pn = None
    if kept == "coefficients":
        readout_pn = maps.readout(torch.tensor(directions_ne)).numpy()
    found = []
    for part in each(shard_firing, read_shards(store, layer), store.url, layer, readout_pn):
        found.append(part)
        report(len(found))
    rows, values = zip(*found, strict=True)
    by = "norms" if readout_pn is None else "scores"
    return Firing(pa.concat_tables(rows), np.concatenate(values), by)


def read_shards(store: Store, layer: int) -> list[int]:
    """Shards whose neurons are kept: the first, up to ``MOST_IMAGES`` images."""
    kept = measure(store, layer)
    shards = sorted(store.done_shards() & neurons.done(store.url, layer, kept)) if kept else []
    return shards[: max(1, MOST_IMAGES // store.meta.shard_size)]


def shard_firing(
    url: str, layer: int, readout_pn: NDArray | None, shard: int
) -> tuple[pa.Table, NDArray]:
    """Attributes and firing of one shard's images: scores, or norms without a readout.

    Scores are not mean-removed: the mean shifts all of a neuron's by the same.
    """
    store = open_store(url)
    rows, chosen = shard_rows(store, shard)
    rows = rows.select(list(ATTRIBUTES))
    if readout_pn is None:
        group: Any = urls.open_group(neurons.group_url(store.url, layer), mode="r")
        norms = np.zeros((0, store.meta.neurons), np.float32)
        for _, found in chosen_rows(group, ["norms"], store.meta.rows(shard)[0], chosen):
            norms = found["norms"].astype(np.float32)
        return rows, norms
    readout = tensor(readout_pn, torch.device("cpu"))
    parts = [
        ((part.coefficients_bpn * readout).sum(1) / part.scale_b[:, None]).numpy()
        for part in stored_rows(store, layer, shard)
    ]
    return rows, np.concatenate([np.zeros((0, readout.shape[1]), np.float32), *parts])


def areas(holds_tb: NDArray[np.bool_], firing_bn: NDArray) -> NDArray[np.float64]:
    """Area under the ROC curve of every neuron for every text, (text, neuron).

    By rank sums (Mann & Whitney 1947), equal firings counted as half. NaN where a text is true
    of all images or of none.
    """
    from scipy.stats import rankdata  # a second to import, for pages that hold no truth, too

    ranks_bn = rankdata(firing_bn, axis=0)
    positive = holds_tb.sum(1, keepdims=True).astype(float)
    negative = holds_tb.shape[1] - positive
    pairs = positive * negative
    wins_tn = holds_tb.astype(float) @ ranks_bn - positive * (positive + 1) / 2
    return np.where(pairs > 0, wins_tn / np.maximum(pairs, 1), np.nan)


def holds(values: Sequence[Values], rows: pa.Table) -> NDArray[np.bool_]:
    """Which images have all of each set of values, (set, image)."""
    columns = {
        name: np.array([str(v) for v in rows[name].to_pylist()], dtype=object)
        for name in ATTRIBUTES
    }
    found = np.ones((len(values), rows.num_rows), bool)
    for row, named in zip(found, values, strict=True):
        for attribute, value in named:
            row &= columns[attribute] == value
    return found


def top_positive(codes: pd.DataFrame) -> dict[int, str]:
    """The text with the largest positive coefficient of every neuron of one layer."""
    positive = codes[codes["coefficient"] > 0]
    best = positive.loc[positive.groupby("neuron")["coefficient"].idxmax()]
    return {int(n): str(t) for n, t in zip(best["neuron"], best["text"], strict=True)}


def truth(
    layer: int, codes: pd.DataFrame, pool: Sequence[str], fired: Firing, seed: int = 0
) -> NeuronTruth:
    """Compare neurons of one layer with what their texts say.

    Parameters
    ----------
    layer : int
    codes : DataFrame
        The layer's rows of the table of codes.
    pool : sequence of str
        Texts that random ones are drawn from; those that name nothing are left out.
    fired : Firing
    seed : int
        Of the draws.
    """
    names = {text: values for text in pool if (values := microworld_values(text))}
    distinct = list(dict.fromkeys(names.values()))
    auc_tn = areas(holds(distinct, fired.rows), fired.firing_bn)
    # A text that is true of all images, or of none, tells nothing apart.
    place = {v: t for t, v in enumerate(distinct) if np.isfinite(auc_tn[t]).all()}
    candidates = np.array([place[v] for v in names.values() if v in place], int)
    texts = top_positive(codes)
    own = {n: names[t] for n, t in sorted(texts.items()) if names.get(t) in place}
    drawn = np.random.default_rng([seed, layer]).choice(
        candidates if len(candidates) else [0], (DRAWS, len(own))
    )
    random_dn = auc_tn[drawn, list(own)] if own else np.full((DRAWS, 1), np.nan)
    rows = [
        {
            "layer": layer,
            "neuron": neuron,
            "text": texts[neuron],
            "attribute": ", ".join(attribute for attribute, _ in sorted(values)),
            "value": ", ".join(value for _, value in sorted(values)),
            "auc": float(auc_tn[place[values], neuron]),
            "auc_random": float(mean),
        }
        for (neuron, values), mean in zip(own.items(), random_dn.mean(0), strict=bool(own))
    ]
    unnamed = int(codes["neuron"].nunique()) - len(rows)
    strength = fired.firing_bn.std(0)[list(own)]
    return NeuronTruth(
        _table(rows), strength, random_dn.mean(1), unnamed, fired.rows.num_rows, fired.by
    )


def _table(rows: list[dict]) -> pd.DataFrame:
    columns = ["layer", "neuron", "text", "attribute", "value", "auc", "auc_random"]
    return pd.DataFrame(rows, columns=columns)


def truth_facts(found: NeuronTruth) -> dict[str, str]:
    """The figures, as lines of a summary."""
    auc = found.table["auc"]
    if auc.empty:
        return {"known truth": f"no text of {found.unnamed} neurons names a value"}
    low, middle, high = auc.quantile([0.25, 0.5, 0.75])
    strongest = found.strength >= np.quantile(found.strength, 0.9)
    above = int((auc > 0.5).sum())
    return {
        "known truth": f"{len(auc):,} neurons against what their text names, over "
        f"{found.images:,} images, by {found.by}; {found.unnamed:,} texts name nothing",
        "  AUC": f"mean {auc.mean():.3f}, quartiles {low:.3f}, {middle:.3f}, {high:.3f}; above "
        f"0.5: {above:,} of {len(auc):,} ({above / len(auc):.0%})",
        "  of the strongest tenth": f"mean {auc[strongest].mean():.3f}: the {strongest.sum():,} "
        "neurons whose firing spreads most",
        "  of random texts": f"mean {found.draws.mean():.3f}, {len(found.draws)} draws from "
        f"{found.draws.min():.3f} to {found.draws.max():.3f}",
    }
