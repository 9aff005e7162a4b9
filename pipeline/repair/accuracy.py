"""What edits bring to each group of held-out images, and to the worst of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.cluster.tasks import each
from pipeline.stats.accuracy import Outcomes, accuracy_table, add, count, predicted_classes
from pipeline.texts.classes import Classes
from storage.store import open_store

from .groups import Asked, Group, members
from .scores import Scorer

# Images are drawn again so many times, for intervals of 95%.
RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class ShardEdits:
    """All that a task needs to classify its shard's held-out images with every edit.

    Attributes
    ----------
    url : str
    asked : Asked
    scorer : Scorer
    gains_es : (E, S) float64
    """

    url: str
    asked: Asked
    scorer: Scorer
    gains_es: np.ndarray


def shard_outcomes(plan: ShardEdits, shard: int) -> Outcomes:
    """Outcomes of one shard's held-out images; groups are called as `_called` does."""
    store = open_store(plan.url)
    mine = members(store, shard, plan.asked, "held-out")
    predicted = [np.zeros((1 + len(plan.gains_es), 0), np.int64)]
    for parts in plan.scorer.parts(store, shard, mine.chosen):
        logits = plan.scorer.edited(parts, plan.gains_es)
        predicted.append(np.stack([predicted_classes(of) for of in logits]))
    groups = [_called(group) for group in mine.groups]
    classes = len(plan.asked.classes.names)
    return count(np.concatenate(predicted, 1), mine.classes, classes, groups)


def classify(plan: ShardEdits, shards: Sequence[int], report: Callable[[int], None]) -> Outcomes:
    """Outcomes of all shards, as tasks; ``report`` gets the number of shards done so far."""
    total = None
    for done, outcomes in enumerate(each(shard_outcomes, shards, plan)):
        total = outcomes if total is None else add(total, outcomes)
        report(done + 1)
    assert total is not None  # groups, which come first, refuse a store without images
    return total


def _called(group: Group) -> str:
    return f"{group[0]} {group[1]}"


def table(
    found: Outcomes,
    edits: Sequence[str],
    classes: Classes,
    names: Mapping[Group, str],
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracies with 95% intervals, as ``tables.REPAIRS`` has them.

    Parameters
    ----------
    found : Outcomes
        Row 0 is the model as it is.
    edits : sequence of str
        Names of the other rows.
    classes : Classes
    names : dict of Group to str
        Of all groups with held-out images.
    """
    whole = accuracy_table(found, edits, classes.names, RESAMPLES, seed).rename(
        columns={"ablation": "edit"}
    )
    groups = {_called(group): group for group in names}
    of_group = whole["scope"] == "group"
    at = [
        groups[name] if is_group else None
        for name, is_group in zip(whole["name"], of_group, strict=True)
    ]
    whole["class"] = ["" if g is None else classes.names[g[0]] for g in at]
    whole["value"] = ["" if g is None else g[1] for g in at]
    whole.loc[of_group, "name"] = [names[groups[name]] for name in whole.loc[of_group, "name"]]
    return pd.concat([whole, _worst(found, whole, edits, seed)], ignore_index=True)


def _worst(found: Outcomes, whole: pd.DataFrame, edits: Sequence[str], seed: int) -> pd.DataFrame:
    """The group that each edit leaves worst. Its interval is that of the least accuracy of all
    groups, whichever that is, when the images of every group are drawn again; the change is from
    the least before, so that another group may be the worst before and after."""
    rng = np.random.default_rng(seed)
    counts = np.stack([found.groups[name] for name in sorted(found.groups)], 1)  # (edits, G, 4)
    size_g = counts[0].sum(1)
    rows = []
    groups = whole[whole["scope"] == "group"]
    before = groups.loc[groups["edit"] == "none", "accuracy"].min()
    for edit, of_edit in zip(["none", *edits], counts, strict=True):
        own = groups[groups["edit"] == edit]
        worst = own.iloc[int(own["accuracy"].argmin())]
        drawn = rng.multinomial(size_g, of_edit / size_g[:, None], size=(RESAMPLES, len(size_g)))
        after_r = (drawn @ [0, 1, 0, 1] / size_g).min(1)
        change_r = after_r - (drawn @ [0, 0, 1, 1] / size_g).min(1)
        low, high = np.quantile(after_r, [0.025, 0.975])
        change_low, change_high = np.quantile(change_r, [0.025, 0.975])
        rows.append(
            {
                **worst.to_dict(), "scope": "worst", "low": low, "high": high,
                "change": worst["accuracy"] - before,
                "change_low": change_low, "change_high": change_high,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
