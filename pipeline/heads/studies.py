"""Ablation studies over a store: what is ablated, and what becomes of accuracy, by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from pipeline.cluster.tasks import each
from pipeline.stats.accuracy import (
    Outcomes,
    accuracy_table,
    add,
    count,
    predicted_classes,
)
from pipeline.stats.reductions import READ_BYTES
from pipeline.subsets import SubsetError, chosen_rows
from pipeline.texts.classes import Classes
from pipeline.texts.labels import Labels, check_labels, shard_labels
from storage import urls
from storage.layout import CONTRIBUTIONS
from storage.store import Store, open_store

from . import ablation as ablate
from .choices import DirectStudy, refuse_studies
from .edits import Edit, edited_logits
from .names import heads_name
from .parts import part_arrays

if TYPE_CHECKING:
    from pipeline.models import ModelMaps

# Of contributions to the output; those of neurons stand in their wing.
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
    """A step that is no ablation of whole contributions: ``name`` says what was replaced."""

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
        add("chosen", "chosen", [""], [size.ablation(heads_name(chosen), heads=chosen)])
        baseline = ablate.random_heads(size, len(chosen), RANDOM_TRIALS)
        add("chosen", "random heads", range(RANDOM_TRIALS), baseline)
    return found


def maps_of(store: Store) -> ModelMaps:
    """A store's maps in float64."""
    from pipeline.models import ModelMaps  # brings torch, which workers that predict do without

    model = store.model()
    names = ("head_map", "mlp_map", "attention_bias", "bias", "bias_map")
    maps = {name: model[name].values.astype(np.float64) for name in names if name in model}
    maps.setdefault("head_map", np.zeros((store.meta.layers, 0, 0, store.meta.embed)))
    return ModelMaps(**maps)


def edit_steps(edits: Sequence[Edit]) -> list[NamedStep]:
    """Edits as steps of a study of their own; those of one name are numbered."""
    names: list[str] = []
    for edit in edits:
        same = sum(edit.name == other.name for other in edits[: len(names)])
        names.append(f"edit: {edit.name}" + (f" ({same + 1})" if same else ""))
    return [NamedStep("edits", "edits", "", name) for name in names]


def shard_parts(
    store: Store, shard: int, chosen: np.ndarray, class_token: bool = False
) -> Iterator[tuple[np.ndarray, ablate.StoredParts]]:
    """Numbers and parts of the chosen images of a shard, a bounded number at a time.

    Parameters
    ----------
    store : Store
    shard : int
    chosen : (images of the shard,) bool
        Which are ok and wanted.
    class_token : bool
        Whether what heads write from the class token is wanted, too.
    """
    data: Any = urls.open_group(urls.join(store.data, CONTRIBUTIONS), mode="r")
    names = [*part_arrays(store.meta), *(["tokens"] if class_token else [])]
    step = max(1, READ_BYTES // sum(store.arrays[n].bytes_per_row for n in names))
    for numbers, rows in chosen_rows(data, names, store.meta.rows(shard)[0], chosen, step):
        token = rows["tokens"][:, 0] if class_token else None
        yield numbers, ablate.StoredParts.of(rows, token)


@dataclass(frozen=True, eq=False)
class ShardStudy:
    """All that a task needs to ablate contributions of its shard.

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
    edits : tuple of Edit
        Come after the ablations.
    """

    url: str
    where: str | None
    label_column: str
    classes: Classes
    readout: ablate.Readout
    means: ablate.Means
    ablations: list[ablate.Ablation]
    edits: tuple[Edit, ...] = ()

    def predict(self, shard: int) -> tuple[np.ndarray, Labels]:
        store = open_store(self.url)
        labels = shard_labels(store, shard, self.where, self.label_column, self.classes)
        class_token = any(a.class_token for a in self.ablations)
        predicted = [
            self._predict(parts)
            for _, parts in shard_parts(store, shard, labels.chosen, class_token)
        ]
        empty = np.zeros((1 + len(self.ablations) + len(self.edits), 0), np.int32)
        return np.concatenate([empty, *predicted], axis=1), labels

    def _predict(self, parts: ablate.StoredParts) -> np.ndarray:
        ablated = ablate.predict(parts, self.means, self.readout, self.ablations)
        edited = [
            predicted_classes(edited_logits(parts, edit, self.readout)) for edit in self.edits
        ]
        return np.concatenate([ablated, *(row[None] for row in edited)]).astype(np.int32)


class Predicts(Protocol):
    """Predictions of a shard's images, as they are and with parts replaced; sent to every task."""

    @property
    def classes(self) -> Classes: ...

    def predict(self, shard: int) -> tuple[np.ndarray, Labels]:
        """Classes (1 + ablations, N), row 0 of the model as it is; and what the images show."""


def check(store: Store, studies: Sequence[DirectStudy], label_column: str) -> None:
    """Refuse what the store cannot answer, before anything is read."""
    refuse_studies(store.url, store.meta, studies)
    check_labels(store, label_column)


def run(plan: Predicts, shards: Sequence[int], report: Callable[[int], None]) -> Outcomes:
    """Evaluate shards as tasks; ``report`` gets the number of shards done so far."""
    total: Outcomes | None = None
    for done, outcomes in enumerate(each(count_shard, shards, plan)):
        total = outcomes if total is None else add(total, outcomes)
        report(done + 1)
    assert total is not None  # reductions, which come first, refuse a store without shards
    return total


def count_shard(plan: Predicts, shard: int) -> Outcomes:
    """Outcomes of one shard's images."""
    predicted, labels = plan.predict(shard)
    return count(predicted, labels.classes, len(plan.classes.names), labels.groups)


def refuse_none(found: Outcomes, where: str | None) -> None:
    """A condition that no image meets."""
    if not found.images:
        raise SubsetError(
            f"`where` {where!r} matches no image that is ok in the finished shards: check the "
            "values in the image table"
        )


def study_table(
    found: Outcomes, classes: Classes, made: Sequence[Step | NamedStep]
) -> pd.DataFrame:
    """Accuracies with intervals, one row an ablation and a cell; the baseline's study is "none".

    See ``accuracy_table`` for the columns after ``study``, ``series`` and ``at``.
    """
    table = accuracy_table(found, [step.name for step in made], classes.names)
    where = {s.name: (s.study, s.series, s.at) for s in made} | {"none": ("none", "", "")}
    places = pd.DataFrame(
        [where[name] for name in table["ablation"]], columns=["study", "series", "at"]
    )
    return pd.concat([places, table], axis=1)
