"""A run of ablation studies: of contributions, of neurons, of neurons' effects, in one table."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cluster import machines, pace
from pipeline.heads import ablation
from pipeline.heads import studies as direct
from pipeline.heads.ablation import Head
from pipeline.heads.choices import DirectStudy, Study
from pipeline.heads.edits import Edit
from pipeline.heads.studies import NamedStep, Step
from pipeline.stats.accuracy import ChanceWarning, Outcomes, join
from pipeline.subsets import check_where
from pipeline.telling import SILENT, Teller, several
from pipeline.texts.classes import Classes
from storage import neurons
from storage.reductions import Reductions
from storage.store import Store

from . import comparison
from .ablation import Classify, NeuronStudy, steps
from .results import second_order_result


@dataclass(frozen=True, eq=False)
class Question:
    """What is ablated, and of which images it is told what that costs.

    Attributes
    ----------
    studies : tuple of Study
    classes : Classes
    label_column : str
        Column of the image table that says what an image shows.
    where, reference : str or None
        Which images are classified, and which the means are over.
    chosen : tuple of (layer, head)
        Of the study of chosen heads.
    counts : tuple of int
        How many texts a head keeps, of the study of TextSpan.
    mlp_layers : tuple of int
        Of the studies of neurons.
    edits : tuple of Edit
        Of the study of edits.
    """

    studies: tuple[Study, ...]
    classes: Classes
    label_column: str
    where: str | None
    reference: str | None
    chosen: tuple[Head, ...]
    counts: tuple[int, ...]
    mlp_layers: tuple[int, ...]
    edits: tuple[Edit, ...] = ()

    @property
    def direct(self) -> list[DirectStudy]:
        """The studies of contributions to the output."""
        return [study for study in self.studies if study != "neurons" and study != "effects"]

    @property
    def components(self) -> tuple[str, ...]:
        """What the means are needed of; those of embeddings tell how many images there are."""
        needed = ("heads", "mlps") if self.direct else ()
        return (*needed, *(["tokens"] if "class-token" in self.studies else []), "embedding")

    def runs_model(self, store: Store) -> bool:
        """Whether images are passed through the model again: for effects, and for neurons of
        which the store does not keep coefficients.
        """
        shards = store.done_shards()
        return "effects" in self.studies or (
            "neurons" in self.studies
            and any(shards - neurons.done(store.url, at, "coefficients") for at in self.mlp_layers)
        )

    def check(self, store: Store) -> None:
        """Refuse what cannot work before anything is read."""
        direct.check(store, self.direct, self.label_column)
        if "neurons" in self.studies:
            second_order_result(store, self.mlp_layers)
        check_where(store, self.where)
        check_where(store, self.reference, "reference")


@dataclass(frozen=True, eq=False)
class Studied:
    """What was found.

    Attributes
    ----------
    accuracy : DataFrame
        As ``heads.tables.ABLATIONS`` has it.
    explained : DataFrame or None
        As ``tables.EFFECTS`` has it, of the comparison of effects.
    images, ablations : int
        How many were classified, and in how many ways.
    warnings : list of str
        What makes the figures doubtful.
    """

    accuracy: pd.DataFrame
    explained: pd.DataFrame | None
    images: int
    ablations: int
    warnings: list[str]


def studied(
    ask: Question,
    store: Store,
    readout: NDArray[Any],
    reductions: Reductions,
    spans: Mapping[str, Mapping[Head, np.ndarray]],
    of_neurons: NeuronStudy | None,
    teller: Teller = SILENT,
) -> Studied:
    """Classify with every ablation.

    Parameters
    ----------
    ask : Question
    store : Store
    readout : (C, E) float
        Unit embeddings of the classes.
    reductions : Reductions
        Of the reference images.
    spans : mapping of series to directions of heads
        Of the study of TextSpan; see ``heads.ablation.spans``.
    of_neurons : NeuronStudy or None
        What the studies of neurons work with.
    teller : Teller
    """
    made: list[Step | NamedStep] = []
    parts: list[Outcomes] = []
    explained = None
    if ask.direct:
        size = ablation.ModelSize(store.meta.layers, store.meta.heads)
        of_direct = direct.steps(
            size, ask.direct, spans=spans, counts=ask.counts, chosen=ask.chosen,
            token_layers=store.meta.token_layers,
        )  # fmt: skip
        made += [*of_direct, *direct.edit_steps(ask.edits)]
        parts.append(_direct(ask, store, readout, reductions, of_direct, teller))
    if of_neurons is not None and "neurons" in ask.studies:
        made += steps(ask.mlp_layers)
        parts.append(_neurons(ask, of_neurons, readout))
    if of_neurons is not None and "effects" in ask.studies:
        made += comparison.steps(ask.mlp_layers)
        found, explained = comparison.compare(
            of_neurons, ask.mlp_layers, ask.where, ask.reference, ask.label_column, ask.classes,
            readout,
        )  # fmt: skip
        parts.append(found)
    whole = join(parts)
    direct.refuse_none(whole, ask.where)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", ChanceWarning)
        accuracy = direct.study_table(whole, ask.classes, made)
    said = sorted({str(warning.message) for warning in raised})
    return Studied(accuracy, explained, whole.images, len(made), said)


def _direct(
    ask: Question,
    store: Store,
    readout: NDArray[Any],
    reductions: Reductions,
    made: list[Step],
    teller: Teller,
) -> Outcomes:
    """What becomes of images when contributions are ablated."""
    plan = direct.ShardStudy(
        url=store.url,
        where=ask.where,
        label_column=ask.label_column,
        classes=ask.classes,
        readout=ablation.Readout(direct.maps_of(store), readout),
        means=ablation.reduced_means(reductions),
        ablations=[step.ablation for step in made],
        edits=ask.edits,
    )
    shards = sorted(store.done_shards())
    ways = len(made) + len(ask.edits)
    products = 2 * len(shards) * store.meta.shard_size * ways * readout.size
    seconds = pace.of_shards(store.meta, len(shards)) + pace.of_products(products)
    machines.settle(
        seconds, f"{several(len(shards), 'shard')}, {several(ways, 'ablation')}", teller.say
    )
    with teller.bar("shards", len(shards)) as move:
        return direct.run(plan, shards, move)


def _neurons(ask: Question, study: NeuronStudy, readout: NDArray[Any]) -> Outcomes:
    """What becomes of images without the second-order effects of neurons."""
    return study.predict(
        second_order_result(study.store, ask.mlp_layers),
        ask.mlp_layers,
        lambda layers: Classify(ask.where, ask.label_column, ask.classes, readout, layers),
        ask.reference,
    )
