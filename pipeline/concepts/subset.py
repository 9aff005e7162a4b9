"""Concepts over a store: counts of texts inside of a subset and outside, shard by shard.

Scores come from what the store keeps: coefficients of neurons, or their lengths where the
published method alone is asked for, heads, embeddings; where it keeps neither of neurons, by passes
of the model. Memory is that of a few images and of the layers' maps, whatever the store. Where the
truth is known, the same scan holds the concepts to it, beside four baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.cluster.tasks import each
from pipeline.cluster.work import LIBRARIES, Needs, Workers
from pipeline.heads.parts import StoredParts
from pipeline.models import VisionModel
from pipeline.neurons.rows import ROW_BYTES, Rows, stored_rows
from pipeline.neurons.workers import from_model
from pipeline.subsets import chosen_rows, shard_rows
from storage import neurons, urls
from storage.layout import CONTRIBUTIONS
from storage.store import Store, open_store

from . import over, precision
from .by_codes import ByEmbedding, ByHeads
from .by_neurons import ByNeurons
from .choices import OF_NEURONS
from .precision import NEAREST, Precision, Told, told

Array = NDArray[np.float64]
By = ByNeurons | ByHeads | ByEmbedding
# Where neurons' scores come from.
Source = Literal["coefficients", "norms", "model", "none"]
# Random sets of neurons, and of texts, over which baselines are averaged.
DRAWS = 5
NEAREST_RAW, RANDOM, CHANCE = "nearest texts", "random neurons", "random texts"


@dataclass(frozen=True, eq=False)
class Truth:
    """What baselines take, where the images' attributes are known.

    Attributes
    ----------
    texts : tuple of str
        The pool that concepts are chosen from.
    embeddings_me : (M, E)
        Its unit embeddings.
    mean_e : (E,)
        Mean of the unit embeddings of the store's images.
    """

    texts: tuple[str, ...]
    embeddings_me: NDArray[np.floating]
    mean_e: Array


@dataclass(frozen=True, eq=False)
class Question:
    """What is counted of every shard.

    Attributes
    ----------
    url : str
        Of the store.
    where : str
        The subset.
    methods : dict of str to ByNeurons, ByHeads or ByEmbedding
    source : Source
    truth : Truth or None
    """

    url: str
    where: str
    methods: Mapping[str, By]
    source: Source
    truth: Truth | None = None

    @property
    def layers(self) -> tuple[int, ...]:
        """MLP layers whose neurons are asked."""
        by = next((m for m in self.methods.values() if isinstance(m, ByNeurons)), None)
        return () if by is None else tuple(by.long)


def source_of(store: Store, methods: Iterable[str], mlp_layers: Sequence[int]) -> Source:
    """Where the scores of neurons come from: what is kept of all finished shards."""
    asked = OF_NEURONS & set(methods)
    if not asked:
        return "none"
    shards = store.done_shards()

    def keeps(quantity: str) -> bool:
        return all(shards <= neurons.done(store.url, at, quantity) for at in mlp_layers)

    if keeps("coefficients"):
        return "coefficients"
    return "norms" if asked == {"published"} and keeps("norms") else "model"


@dataclass(frozen=True, eq=False)
class Counts:
    """What was found of some images.

    Attributes
    ----------
    over : dict of str to Sides
        By method.
    precision : Precision or None
        Where the truth is known.
    """

    over: dict[str, over.Sides]
    precision: Precision | None

    @property
    def images(self) -> tuple[int, int]:
        """Inside and outside."""
        sides = next(iter(self.over.values()))
        return sides.inside.scores.n, sides.outside.scores.n


def merge(counts: Sequence[Counts]) -> Counts:
    """Counts of the images of all."""
    known = [found.precision for found in counts if found.precision is not None]
    return Counts(
        {name: over.merge(found.over[name] for found in counts) for name in counts[0].over},
        precision.merge(known) if known else None,
    )


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of a shard that are ok, B of them in order, as the methods take them.

    Attributes
    ----------
    images_b : (B,) int64
        Their numbers.
    parts : StoredParts
        Without heads, unless they are asked.
    rows : dict of int to Rows
        By MLP layer; empty where coefficients of neurons are not known.
    lengths : dict of int to (B, N)
        In their place, where the published method is the only one of neurons.
    """

    images_b: NDArray[np.int64]
    parts: StoredParts
    rows: Mapping[int, Rows] = field(default_factory=dict)
    lengths: Mapping[int, Array] = field(default_factory=dict)


def scores_of(methods: Mapping[str, By], batch: Batch) -> dict[str, Array]:
    """Scores of texts, (B, M), by method."""
    found: dict[str, Array] = {}
    for name, by in methods.items():
        if not isinstance(by, ByNeurons):
            found[name] = by.scores(batch.parts)
        elif batch.rows:
            found[name] = by.scores(batch.rows)
        else:
            found[name] = by.codes.add(by.weights_of_lengths(batch.lengths))
    return found


class Counter:
    """Takes a shard's images batch by batch, and counts them.

    Parameters
    ----------
    question : Question
    store : Store
    shard : int
    """

    def __init__(self, question: Question, store: Store, shard: int) -> None:
        self._truth, self._methods = question.truth, question.methods
        self._start, _ = store.meta.rows(shard)
        self._inside = shard_rows(store, shard, question.where)[1]
        self._found: list[Counts] = []
        self._rng = np.random.default_rng([0, shard])
        if question.truth is not None:
            self._ok, of = shard_rows(store, shard)
            self._place = np.cumsum(of) - 1
            texts = {name: by.texts for name, by in self._methods.items()}
            texts[NEAREST] = question.truth.texts
            self._named = {name: precision.named_values(of) for name, of in texts.items()}

    def add(self, batch: Batch) -> None:
        """Count images of the shard."""
        if batch.rows:
            device = next(iter(batch.rows.values())).coefficients_bpn.device
            self._methods = {name: placed(by, device) for name, by in self._methods.items()}
        scores = scores_of(self._methods, batch)
        inside_b = self._inside[batch.images_b - self._start]
        found = {name: over.count(scores_bm, inside_b) for name, scores_bm in scores.items()}
        self._found.append(Counts(found, self._precision(batch, scores)))

    def _precision(self, batch: Batch, scores: dict[str, Array]) -> Precision | None:
        truth = self._truth
        if truth is None:
            return None
        table = self._ok.take(pa.array(self._place[batch.images_b - self._start]))
        true_bv = precision.true_values(table)

        def of(scores_bm: NDArray[np.floating], texts: str) -> Told:
            return told(scores_bm, self._named[texts], true_bv)

        found: dict[str, Sequence[Told]] = {name: [of(scores[name], name)] for name in scores}
        found[NEAREST], found[NEAREST_RAW] = (
            [of(cosines, NEAREST)] for cosines in nearest(truth, batch.parts)
        )
        if batch.rows:
            name, by = self._of_neurons()
            drawn = random_sets(by, batch.rows, self._rng)
            found[RANDOM] = [of(by.codes.add(weights), name) for weights in drawn]
        shape = len(batch.images_b), len(truth.texts)
        found[CHANCE] = [of(self._rng.random(shape), NEAREST) for _ in range(DRAWS)]
        return precision.measure(found)

    def _of_neurons(self) -> tuple[str, ByNeurons]:
        """The signed method where it is asked for, else the published one."""
        asked = [(name, by) for name, by in self._methods.items() if isinstance(by, ByNeurons)]
        return min(asked, key=lambda one: one[1].published)

    def close(self) -> Counts | None:
        """Of all images; None where none is ok."""
        return merge(self._found) if self._found else None


def placed(by: By, device: torch.device) -> By:
    """A method with what it multiplies rows by on a device."""
    if not isinstance(by, ByNeurons):
        return by
    effects = {
        layer: replace(of, **{name: t.to(device) for name, t in vars(of).items()})
        for layer, of in by.effects.items()
    }
    return replace(by, effects=effects)


def nearest(truth: Truth, parts: StoredParts) -> tuple[Array, Array]:
    """Cosines of images and texts, both less their means, and as they are, (B, M)."""
    texts_me = np.asarray(truth.embeddings_me, np.float64)
    unit_be = np.asarray(parts.embedding_be, np.float64) / parts.norm_b[:, None]
    beyond_me = texts_me - texts_me.mean(0)
    beyond_me /= np.maximum(np.linalg.norm(beyond_me, axis=1, keepdims=True), 1e-30)
    return (unit_be - truth.mean_e) @ beyond_me.T, unit_be @ texts_me.T


def random_sets(
    by: ByNeurons, rows: Mapping[int, Rows], rng: np.random.Generator
) -> Iterator[dict[int, Array]]:
    """Weights of as many neurons of each layer as are active on an image, drawn at random.

    They weigh what they would if they were active: ``DRAWS`` times (B, N) by MLP layer. Neurons
    without any effect, which are never active, are not drawn.
    """
    known = {}
    for layer, of in rows.items():
        lengths_bn = by.effects[layer].lengths(of)
        weigh_bn = lengths_bn if by.published else by.effects[layer].projections(of)
        known[layer] = weigh_bn, by.active(layer, lengths_bn).sum(1)
    for _ in range(DRAWS):
        drawn = {}
        for layer, (weigh_bn, active_b) in known.items():
            order_bn = rng.random(weigh_bn.shape)
            order_bn[:, ~np.isfinite(by.long[layer].lengths_n)] = 2.0
            rank_bn = order_bn.argsort(1).argsort(1)
            drawn[layer] = np.where(rank_bn < active_b[:, None], weigh_bn, 0.0)
        yield drawn


# -- shard by shard ------------------------------------------------------------------------


def counted(
    question: Question, store: Store, shards: Sequence[int]
) -> Iterator[tuple[int, Counts | None]]:
    """Counts of shards from what the store keeps, in their order, by tasks."""
    needs = Needs(1, memory=task_bytes(question))
    found = each(count_shard, shards, question, needs=needs)
    yield from zip(shards, found, strict=True)


def task_bytes(question: Question) -> int:
    """Memory of one task: what lengths and projections of all layers take, and a few images.

    The inner products of a layer's neurons are the most of it: a gigabyte of a large model's.
    """
    layers = {
        id(of): of
        for by in question.methods.values()
        if isinstance(by, ByNeurons)
        for of in by.effects.values()
    }
    held = sum(t.nbytes for of in layers.values() for t in vars(of).values())
    return LIBRARIES + 4 * ROW_BYTES + held


def count_shard(question: Question, shard: int) -> Counts | None:
    """Counts of one shard's images from what the store keeps; None where none is ok."""
    store = open_store(question.url)
    counter = Counter(question, store, shard)
    for batch in stored(question, store, shard):
        counter.add(batch)
    return counter.close()


def stored(question: Question, store: Store, shard: int) -> Iterator[Batch]:
    """A shard's images from what the store keeps, a bounded number at a time."""
    step, ok = step_of(question, store), shard_rows(store, shard)[1]
    if question.source == "coefficients":
        layers = [stored_rows(store, layer, shard, step) for layer in question.layers]
        for rows in zip(*layers, strict=True):
            images_b = rows[0].images_b.numpy()
            parts = parts_of(question, store, images_b)
            yield Batch(images_b, parts, {of.mlp_layer: of for of in rows})
    elif question.source == "norms":
        start, _ = store.meta.rows(shard)
        groups: list[Any] = [
            urls.open_group(neurons.group_url(store.url, at), mode="r") for at in question.layers
        ]
        kept = [chosen_rows(group, ["norms"], start, ok, step) for group in groups]
        for read in zip(*kept, strict=True):
            lengths = [of["norms"].astype(np.float64) for _, of in read]
            parts = parts_of(question, store, read[0][0])
            by_layer = dict(zip(question.layers, lengths, strict=True))
            yield Batch(read[0][0], parts, lengths=by_layer)
    else:
        numbers = store.meta.rows(shard)[0] + np.flatnonzero(ok)
        for first in range(0, len(numbers), step):
            images_b = numbers[first : first + step]
            yield Batch(images_b, parts_of(question, store, images_b))


def parts_of(question: Question, store: Store, images_b: NDArray[np.int64]) -> StoredParts:
    """What a store holds of neighbouring images beside neurons; of heads only where asked."""
    data: Any = urls.open_group(urls.join(store.data, CONTRIBUTIONS), mode="r")
    first, last = int(images_b[0]), int(images_b[-1]) + 1
    names = ["embedding", "ln_std"]
    if any(isinstance(by, ByHeads) for by in question.methods.values()):
        names.append("heads")
    read = {n: np.asarray(data[n][first:last])[images_b - first] for n in names}
    nothing = np.zeros((len(images_b), 0, 0), np.float32)
    heads = read.get("heads", nothing[..., None])
    return StoredParts(heads, nothing, read["embedding"], read["ln_std"])


def step_of(question: Question, store: Store) -> int:
    """Images that are counted at once: what is held of them is bounded."""
    meta, per_image = store.meta, store.arrays["heads"].bytes_per_row
    per_image += sum(4 * len(meta.paths(at)) * meta.neurons for at in question.layers)
    per_image += sum(8 * len(by.texts) for by in question.methods.values())
    heads = [by for by in question.methods.values() if isinstance(by, ByHeads)]
    per_image += sum(8 * len(by.texts) * len(by.heads) for by in heads)
    return max(1, ROW_BYTES // per_image)


# -- by passes of the model ----------------------------------------------------------------


class CountPasses:
    """Counts of shards whose pictures go through the model again: a `neurons.sinks.Task`."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self._open: _Layers | None = None

    def open(self, store: Store, mlp_layer: int, shard: int, known: pa.Table) -> _Sink:
        """A sink for one layer; those of a shard count together."""
        if mlp_layer == self.question.layers[0] or self._open is None:
            self._open = _Layers(self.question, store, shard)
        return _Sink(self._open, mlp_layer == self.question.layers[-1])

    def merge(self, a: Counts | None, b: Counts | None) -> Counts | None:
        """Of the images of both."""
        known = [one for one in (a, b) if one is not None]
        return merge(known) if known else None


class _Layers:
    """Rows of a batch, until those of all layers are there."""

    def __init__(self, question: Question, store: Store, shard: int) -> None:
        self.counter = Counter(question, store, shard)
        self._question, self._store, self._rows = question, store, dict[int, Rows]()

    def take(self, rows: Rows) -> None:
        self._rows[rows.mlp_layer] = rows
        if len(self._rows) == len(self._question.layers):
            given, self._rows = self._rows, {}
            images_b = rows.images_b.cpu().numpy()
            self.counter.add(
                Batch(images_b, parts_of(self._question, self._store, images_b), given)
            )


class _Sink:
    """One layer of a shard; its last layer hands over the counts."""

    def __init__(self, together: _Layers, last: bool) -> None:
        self._together, self._last = together, last

    def add(self, rows: Rows) -> None:
        self._together.take(rows)

    def close(self) -> Counts | None:
        return self._together.counter.close() if self._last else None


def passed(
    question: Question,
    store: Store,
    model: VisionModel,
    workers: Workers,
    memory: int,
    shards: Sequence[int],
    report: Callable[[int], None] = lambda images: None,
    say: Callable[[str], None] = print,
) -> Iterator[tuple[int, Counts | None]]:
    """Counts of shards by passes of the model, in their order; see ``neurons.workers``."""
    wanted = [(shard, question.layers) for shard in shards]
    task = CountPasses(question)
    for shard, states in from_model(store, task, model, workers, memory, wanted, report, say):
        yield shard, states[question.layers[-1]]
