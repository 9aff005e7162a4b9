"""A section of the page: what an edit brings to the worst group of held-out images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.repair.answers import Repaired

from . import sentences
from .html import Made, Section, section

TITLE = "A spurious correlation mended"


def repair_section(found: Repaired, warned: Sequence[str], made: Made) -> Section:
    """Accuracy of each group as it is, repaired, and beside that."""
    return section(
        f"{TITLE}: {found.column}",
        "Groups are images that share a class and a value; all figures are of held-out images. "
        "In the published setting all MLPs and all but the last four attention layers are at "
        "their means, too. Random sets have as many heads, of these layers.",
        name=f"repair-{found.column}",
        found=said(found),
        notes=warned,
        header=("group", "images", *(f"{found.said(e)}, %" for e in found.shown)),
        rows=[
            _whole(found, "all", "all"),
            _whole(found, "worst", "the worst of each"),
            *(_row(of, found.shown) for of in found.by_group().to_dict("records")),
        ],
        made=made,
    )


def said(found: Repaired) -> str:
    """What the repair does to the worst group, and what random heads do."""
    before, after = found.of("worst", "none"), found.of("worst", "chosen")
    one = "head" if len(found.heads) == 1 else "heads"
    heads = f"{one} {', '.join(found.heads)}" if found.heads else "no head"
    told = (
        f"With {heads} taken away ({found.by}) the worst group has {sentences.accuracy(after)} "
        f"right, {sentences.change(after)}; before it had {before['accuracy']:.1%} "
        f"({before['name']})."
    )
    if found.best_random is None:
        return told
    best = sentences.accuracy(found.of("worst", found.best_random))
    return f"{told} The best of five random sets gives it {best}."


def _whole(found: Repaired, scope: str, name: str) -> tuple[str, ...]:
    figures = (found.of(scope, edit) for edit in found.shown)
    images = f"{found.of('all', 'none')['n']:,}" if scope == "all" else ""
    return (name, images, *(_with_interval(row) for row in figures))


def _with_interval(row: pd.Series) -> str:
    return f"{100 * row['accuracy']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def _row(of: Mapping[Hashable, Any], shown: Sequence[str]) -> tuple[str, ...]:
    return (of["name"], f"{of['n']:,}", *(f"{100 * of[edit]:.1f}" for edit in shown))
