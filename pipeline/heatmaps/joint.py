"""Heads and tokens together: which of a head's texts it writes most of for a picture, and where.

Gandelsman et al. 2024, Figure 6: of the texts that TextSpan found for a head, those with the
largest and the smallest coefficient, each with the head's own map over the patches. The coefficient
is ⟨c_head, text⟩, of the head's contribution as it is: its mean is not removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.heads.choices import Head
from pipeline.heads.names import head_name
from pipeline.texts import Pool
from pipeline.texts.classes import texts_digest
from storage.errors import Remedy, StoreError
from storage.results import Result, finished_results
from storage.store import Store

from .found import rows
from .split import Split

JOB = "textspan"
# What a picture has most and least of: in the order in which they are shown.
EXTREMES = ("largest", "smallest")


def span_texts(
    store: Store, pool: Pool, heads: Sequence[Head]
) -> tuple[Result, dict[Head, list[str]]]:
    """The texts that TextSpan found for heads, by the run of this pool that was asked for last.

    Raises
    ------
    StoreError
        If there is none, or it describes other heads.
    """
    runs = finished_results(store.url, JOB)
    known = texts_digest(pool.texts)
    of_pool = [run for run in runs if run.provenance.get("identity", {}).get("pool") == known]
    layers = ",".join(str(layer) for layer in sorted({layer for layer, _ in heads}))
    remedy = Remedy.first(JOB, store.url, pool=pool.source, layers=layers)
    if not of_pool:
        others = sorted({run.config["pool"] for run in runs})
        said = f"; there are of {', '.join(others)}" if others else ""
        raise StoreError(f"no heads in {store.url} are described by {pool.source}{said}", remedy)
    texts = texts_of(of_pool[-1])
    if lacking := [at for at in heads if at not in texts]:
        raise StoreError(
            f"{head_name(*lacking[0])} has no texts of {pool.source} in {store.url}", remedy
        )
    return of_pool[-1], {at: texts[at] for at in heads}


def texts_of(result: Result) -> dict[Head, list[str]]:
    """The texts of every head that a run of TextSpan described, in their order."""
    rows = result.table("descriptions").to_pandas().sort_values("rank")
    return {
        (int(layer), int(head)): of["text"].tolist()
        for (layer, head), of in rows.groupby(["layer", "head"])
    }


def of_heads(
    splits: Mapping[Head, Split], texts: Sequence[str], own: Mapping[Head, Sequence[str]]
) -> tuple[NDArray[np.float64], pd.DataFrame]:
    """The two maps of each head, one after the other, and their figures.

    Parameters
    ----------
    splits : mapping of (layer, head) to Split
        What each head alone wrote of the texts, then of what is taken from each, if anything is.
    texts : sequence of str
    own : mapping of (layer, head) to sequence of str
        Which of them TextSpan found for each head.
    """
    at = {text: row for row, text in enumerate(texts)}
    maps, tables = [], []
    for head, split in splits.items():
        rows_m = [at[text] for text in own[head]]
        coefficients_m = split.heads_m[rows_m]
        picked = [int(coefficients_m.argmax()), int(coefficients_m.argmin())]
        shown = split[[rows_m[i] for i in picked]]
        if len(split.logit_m) > len(texts):
            shown -= split[[-1] * len(picked)]
        maps.append(shown.patches_mrc)
        tables.append(
            rows(
                shown,
                [own[head][i] for i in picked],
                head="{}.{}".format(*head),
                extremes=EXTREMES,
                coefficients=coefficients_m[picked].tolist(),
            )
        )
    return np.concatenate(maps), pd.concat(tables, ignore_index=True)
