"""Ablation studies over a store: what is ablated, and what becomes of accuracy, by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import ray

from pipeline.images.listing import ray_mapper
from pipeline.stats.accuracy import accuracy_table
from pipeline.stats.reductions import READ_BYTES
from pipeline.subsets import SubsetError, shard_rows
from pipeline.texts.classes import Classes
from storage import urls
from storage.errors import FacetError, StoreError
from storage.layout import CONTRIBUTIONS
from storage.reductions import Reductions
from storage.store import Store, open_store

from . import ablation as ablate

if TYPE_CHECKING:
    from pipeline.models import ModelMaps

# Of contributions to the output; `neuron_studies` and `neuron_comparison` have those of neurons.
DirectStudy = Literal["mlps", "layers", "heads", "class-token", "textspan", "chosen"]
Study = DirectStudy | Literal["neurons", "effects"]
RANDOM_TRIALS = 5


@dataclass(frozen=True, eq=False)
class Step:
    """One ablation and where it stands in its study.

    Attributes
    ----------
    study, series : str
        The study, and the line or bar of its plot.
    at : str
        Place along the series: a layer, a ``layer.head``, a number of directions, or nothing.
    ablation : Ablation
    """

    study: str
    series: str
    at: str
    ablation: ablate.Ablation

    @property
    def name(self) -> str:
        """What was replaced by its mean."""
        return self.ablation.name


@dataclass(frozen=True)
class NamedStep:
    """A step whose ablation is not one of contributions: ``name`` says what was replaced."""

    study: str
    series: str
    at: str
    name: str


def steps(
    size: ablate.ModelSize,
    studies: Sequence[DirectStudy],
    *,
    spans: Mapping[str, Mapping[ablate.Head, np.ndarray]] | None = None,
    counts: Sequence[int] = (),
    chosen: Sequence[ablate.Head] = (),
    token_layers: Sequence[int] = (),
) -> list[Step]:
    """The ablations of some studies.

    Parameters
    ----------
    size : ModelSize
    studies : sequence of Study
    spans : mapping of series to directions of heads
        For ``textspan``: see ``ablate.spans``.
    counts : sequence of int
        For ``textspan``: how many directions are kept.
    chosen : sequence of (layer, head)
        For ``chosen``: the set; random sets of its size are its baseline.
    token_layers : sequence of int
        For ``class-token``: the layers that the store's tokens are summed over.
    """
    found: list[Step] = []

    def add(study: str, series: str, at: Sequence[object], made: Sequence[ablate.Ablation]) -> None:
        found.extend(Step(study, series, str(x), a) for x, a in zip(at, made, strict=True))

    layers = range(size.layers)
    if "mlps" in studies:
        add("mlps", "all MLPs", [""], ablate.all_mlps(size))
    if "layers" in studies:
        add("layers", "layers 0 to l", layers, ablate.accumulated_layers(size))
        add("layers", "layer l alone", layers, ablate.single_layers(size))
    if "heads" in studies:
        names = [f"{layer}.{head}" for layer, head in np.ndindex(size.layers, size.heads)]
        add("heads", "one head", names, ablate.single_heads(size))
    if "class-token" in studies:
        made = ablate.class_token(size, token_layers)
        add("class-token", made[0].name, [""] * len(made), made)
    if "textspan" in studies:
        for series, directions in (spans or {}).items():
            add("textspan", series, counts, ablate.spans(size, directions, counts, series))
    if "chosen" in studies:
        name = f"heads {' '.join(f'{layer}.{head}' for layer, head in chosen)}"
        add("chosen", "chosen", [""], [size.ablation(name, heads=chosen)])
        baseline = ablate.random_heads(size, len(chosen), RANDOM_TRIALS)
        add("chosen", "random heads", range(RANDOM_TRIALS), baseline)
    return found


def reduced_means(reductions: Reductions) -> ablate.Means:
    """Mean contributions of a reduced subset."""
    arrays, token = reductions.array, None
    if "tokens_mean" in reductions.data:
        token = arrays("tokens_mean").isel(token=0).values
    return ablate.Means(
        arrays("heads_mean").values,
        arrays("mlps_mean").values,
        float(arrays("inverse_scale_mean")),
        token,
    )


def maps_of(store: Store) -> ModelMaps:
    """A store's maps in float64."""
    from pipeline.models import ModelMaps  # brings torch, which workers that predict do without

    model = store.model()
    return ModelMaps(
        *(
            model[name].values.astype(np.float64)
            for name in ("head_map", "mlp_map", "attention_bias", "bias")
        )
    )


@dataclass(frozen=True, eq=False)
class Plan:
    """All that a task needs to evaluate its shard.

    Attributes
    ----------
    url : str
    where : str or None
        The images to evaluate.
    label_column : str
    classes : Classes
    readout : Readout
    means : Means
    ablations : list of Ablation
    """

    url: str
    where: str | None
    label_column: str
    classes: Classes
    readout: ablate.Readout
    means: ablate.Means
    ablations: list[ablate.Ablation]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What became of one shard's images.

    Attributes
    ----------
    predicted : (1 + ablations, N) int32
        Row 0 is the model as it is.
    truth : (N,) int64
    groups : list of str or None
    """

    predicted: np.ndarray
    truth: np.ndarray
    groups: list[str] | None


def predict_shard(plan: Plan, shard: int) -> Predictions:
    """Truth and predictions of one shard's images; plain code, run in a task or in-process."""
    store = open_store(plan.url)
    rows, chosen = shard_rows(store, shard, plan.where)
    truth = plan.classes.truth(rows[plan.label_column].to_pylist())
    groups = None
    if "group" in rows.column_names:
        groups = ["none" if g is None else str(g) for g in rows["group"].to_pylist()]
    predicted = [
        ablate.predict(parts, plan.means, plan.readout, plan.ablations).astype(np.int32)
        for parts in _parts(store, shard, chosen, any(a.class_token for a in plan.ablations))
    ]
    empty = np.zeros((1 + len(plan.ablations), 0), np.int32)
    return Predictions(np.concatenate([empty, *predicted], axis=1), truth, groups)


def _parts(
    store: Store, shard: int, chosen: np.ndarray, class_token: bool
) -> Iterator[ablate.StoredParts]:
    """The chosen images of a shard, a bounded number at a time."""
    data: Any = urls.open_group(urls.join(store.url, CONTRIBUTIONS), mode="r")
    first_image = store.meta.rows(shard)[0]
    names = ["heads", "mlps", "embedding", "ln_std", *(["tokens"] if class_token else [])]
    step = max(1, READ_BYTES // sum(store.arrays[n].bytes_per_row for n in names))
    for first in range(0, len(chosen), step):
        keep = chosen[first : first + step]
        if not keep.any():
            continue
        at = slice(first_image + first, first_image + first + len(keep))
        yield ablate.StoredParts(
            heads_blhk=np.asarray(data["heads"][at])[keep],
            mlps_bsd=np.asarray(data["mlps"][at])[keep],
            embedding_be=np.asarray(data["embedding"][at])[keep],
            ln_std_b=np.asarray(data["ln_std"][at])[keep],
            class_token_be=np.asarray(data["tokens"][at, 0])[keep] if class_token else None,
        )


def check(store: Store, studies: Sequence[DirectStudy], label_column: str) -> None:
    """Refuse what the store cannot answer, before anything is read."""
    needed = ["heads", "mlps"] if studies else []
    needed += ["tokens"] if "class-token" in studies else []
    lacking = [n for n in needed if n not in store.meta.components]
    if lacking:
        raise StoreError(
            f"these ablations need {', '.join(needed)}, and the store at {store.url} has no "
            f"{', '.join(lacking)}: extract with --components {' '.join(needed)} into a new store"
        )
    columns = store.images(0, 1).column_names
    if label_column not in columns:
        raise FacetError(
            f"the image table has no column {label_column!r} to take labels from; it has "
            f"{', '.join(columns)}"
        )


def run(plan: Plan, shards: Sequence[int], report: Callable[[int], None]) -> Predictions:
    """Evaluate shards on the Ray cluster; ``report`` gets the number of shards done so far."""
    kept = [ray.put(plan)]
    found: list[Predictions] = []
    for prediction in ray_mapper(_predict_with, [(kept, shard) for shard in shards]):
        found.append(prediction)
        report(len(found))
    if not sum(len(f.truth) for f in found):
        raise SubsetError(
            f"--where {plan.where!r} matches no image that is ok in the {len(shards)} finished "
            "shards: check the values in the image table"
        )
    return join_images(found)


def join_images(found: Sequence[Predictions]) -> Predictions:
    """The same ablations of one set of images after the other."""
    return Predictions(
        np.concatenate([f.predicted for f in found], axis=1),
        np.concatenate([f.truth for f in found]),
        None if found[0].groups is None else [g for f in found for g in f.groups or []],
    )


def join_ablations(found: Sequence[Predictions]) -> Predictions:
    """Further ablations of the same images; the baseline is the first's."""
    first, *others = found
    predicted = np.concatenate([first.predicted, *(f.predicted[1:] for f in others)])
    return Predictions(predicted, first.truth, first.groups)


def _predict_with(item: tuple[list[ray.ObjectRef], int]) -> Predictions:
    return predict_shard(ray.get(item[0][0]), item[1])


def study_table(
    found: Predictions, classes: Classes, made: Sequence[Step | NamedStep]
) -> pd.DataFrame:
    """Accuracies with intervals, one row an ablation and a cell; the baseline's study is "none".

    See ``accuracy_table`` for the columns after ``study``, ``series`` and ``at``.
    """
    names = [step.name for step in made]
    table = accuracy_table(found.predicted, names, found.truth, classes.names, found.groups)
    where = {s.name: (s.study, s.series, s.at) for s in made} | {"none": ("none", "", "")}
    places = pd.DataFrame(
        [where[name] for name in table["ablation"]], columns=["study", "series", "at"]
    )
    return pd.concat([places, table], axis=1)
