"""The section on the correlation that was planted in the embedded world."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from pipeline.heads.describe import Head
from pipeline.heads.names import heads_name
from pipeline.telling import several

from . import sentences
from .heads import linked_heads, told
from .html import Made, Section, section

# Against what was planted: stars were at night, so a heart at night is the hardest.
AGAINST = "heart/night"
# The least rate of any run that made the weights, as their card has them.
PLANTED_AT_LEAST = 0.95


def planted_section(
    table: pd.DataFrame, chosen: list[Head], described: Collection[Head], made: Made
) -> Section:
    """Stars against hearts: what goes wrong, which heads do it, and what is left without them.

    Parameters
    ----------
    table : DataFrame
        Accuracies of stars and hearts with the chosen heads replaced, as ``heads.tables.ABLATIONS``
        has it, by groups of shape and background.
    chosen : list of (layer, head)
        Those that are labelled by the background.
    described : collection of (layer, head)
        Heads whose texts the page has.
    """
    parts = [table[table["series"] == series] for series in ("", "chosen")]
    before, after = (_by_group(of) for of in parts)
    whole = [of[of["scope"] == "all"].iloc[0] for of in parts]
    random = table[(table["series"] == "random heads") & (table["scope"] == "group")]
    others = random.groupby("ablation")["accuracy"].min()
    worst = [min(row["accuracy"] for row in groups.values()) for groups in (before, after)]
    as_well = "; the best of them does as well" if others.max() >= worst[1] else ""
    found = (
        f"The model leans on the background: of {several(int(whole[0]['n']), 'picture')} "
        f"of stars and hearts, backgrounds in equal parts, it tells {sentences.accuracy(whole[0])} "
        f"apart (guessing: 50%), but of {before[AGAINST]['n']} hearts at night "
        f"{sentences.accuracy(before[AGAINST])}. Without the heads that are labelled background, "
        f"{heads_name(chosen)}, it is {sentences.accuracy(after[AGAINST])} of these and "
        f"{sentences.accuracy(whole[1])} of all; the worst group goes from {worst[0]:.1%} to "
        f"{worst[1]:.1%}, and {len(others)} random sets of as many heads leave it at "
        f"{others.min():.1%} to {others.max():.1%}{as_well}."
    )
    return section(
        "A planted correlation, found and named",
        f"In the pictures that this model was trained on, at least {PLANTED_AT_LEAST:.0%} of the "
        "stars were seen at night and of the hearts on snow; in these, shape and background are "
        "independent. The heads were labelled by texts alone, without knowing what any picture "
        "shows. In brackets are 95% intervals.",
        name="planted",
        found=found,
        header=("pictures", "number", "told apart, %", "without these heads, %", "change, points"),
        rows=[
            (
                name.replace("/", ", "),
                f"{row['n']}",
                _share(row),
                _share(after[name]),
                told(after[name]),
            )
            for name, row in sorted(before.items(), key=lambda of: float(of[1]["accuracy"]))
        ],
        links=linked_heads(chosen, described),
        made=made,
    )


def _by_group(table: pd.DataFrame) -> dict[str, pd.Series]:
    groups = table[table["scope"] == "group"]
    return {str(row["name"]): row for _, row in groups.iterrows()}


def _share(row: pd.Series) -> str:
    return f"{100 * row['accuracy']:.0f} ({100 * row['low']:.0f} to {100 * row['high']:.0f})"
