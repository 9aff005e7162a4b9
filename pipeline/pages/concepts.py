"""Sections of the page: what is in pictures, in words, and what a subset has more of.

Also the same as tables on a terminal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from rich.console import Group
from rich.table import Table

from pipeline.concepts.answers import Concepts, said
from pipeline.concepts.choices import OF_NEURONS
from pipeline.concepts.over import FIRST
from pipeline.heads.names import head_name, neuron_name
from pipeline.telling import several
from storage.metadata import Metadata

from . import notes, sentences
from .fragments import Bar, bars, render
from .html import Made, Section, page, section
from .pictures import data_url, heat, small
from .tables import keep_whole, titled

# Concepts of a method, for and against; those that are listed of a subset; parts that are named.
TOP, AGAINST, LISTED, NAMED = 10, 3, 20, 3
# Concepts that are shown on the picture; of each method those of which it is told who said them.
MAPS, TOLD = 5, 5
# Below that, numbers have a digit more; digits that they have at most.
SMALL, DIGITS = 0.1, 6
Row = Mapping[Any, Any]


def concepts_page(found: Concepts, meta: Metadata) -> str:
    """A page of its own; ``meta`` is that of the store whose model it is."""
    lead = f"By {meta.architecture} ({meta.weights})."
    return page("Concepts", lead, concepts_sections(found), notes.random_weights(meta))


def concepts_sections(
    found: Concepts, name: str = "concepts", made: Made | None = None, warned: Sequence[str] = ()
) -> list[Section]:
    """A section a picture; what a subset has more of; how true all that is, where it is known.

    Parameters
    ----------
    name : str
        The first section's address.
    warned : sequence of str
        What warns of the subset's figures.
    """
    sections = [
        picture_section(found, picture, name if number == 0 else f"{name}-{number}", made)
        for number, picture in enumerate(found.names)
    ]
    if found.over is not None:
        sections.append(over_section(found, f"{name}-over" if sections else name, made, warned))
    if found.precision is not None:
        sections.append(precision_section(found.precision, f"{name}-truth"))
    return sections


# -- a picture -----------------------------------------------------------------------------


def picture_section(found: Concepts, picture: str, name: str, made: Made | None) -> Section:
    """The picture, its concepts by each method, where they come from, and who said them."""
    rows = []
    for of in found.methods(picture):
        for concept in first(found.of(picture, of["method"]), TOLD):
            who = found.who_said(picture, of["method"], concept["text"])
            if who:
                rows.append((concept["text"], said(of["method"]), named(who, of["method"])))
    return section(
        f"What is in {picture}",
        HOW,
        name=name,
        found=sentence(found, picture),
        plot=[_figure(found, picture)],
        header=("concept", "by", "who said it: coefficient (× a neuron's weight)"),
        rows=rows,
        made=made,
    )


HOW = (
    "Bars: the concept's score by each method, of each on its own scale; blue speaks for it, orange"
    " against. A neuron adds the coefficient of the text in its code, times how far its effect goes"
    " along its direction; a head the coefficient in the code of what it wrote."
)


def sentence(found: Concepts, picture: str) -> str:
    """The first concepts that each method names."""
    told = []
    for of in found.methods(picture):
        rows = [c for c in found.of(picture, of["method"]) if c["score"] > 0]
        names = ", ".join(f"“{c['text']}”" for c in rows[:NAMED])
        told.append(f"by {said(of['method'])}: {names or 'nothing'}")
    return f"First of all in {picture}, {'; '.join(told)}."


def _figure(found: Concepts, picture: str) -> Markup:
    pixels = found.pixels.get(picture)
    maps = [of for of in found.maps if of.picture == picture][:MAPS]
    fires = [of for of in found.fires if of.picture == picture]
    top = max((float(np.abs(of.map_rc).max()) for of in maps), default=0.0) or 1.0
    cards = [
        (
            said(of["method"]),
            about(of),
            bars([_bar(c) for c in first(found.of(picture, of["method"]))]),
        )
        for of in found.methods(picture)
    ]
    if pixels is None:
        return render("concepts.html", picture="", maps=[], cards=cards, fires=[])
    return render(
        "concepts.html",
        picture=data_url(small(pixels)),
        name=picture,
        top=f"{top:.2g}",
        maps=[
            (
                data_url(heat(pixels, of.map_rc / top)),
                of.text,
                f"{said(of.method)}: map {signed(float(of.map_rc.sum()))}, left out "
                f"{signed(of.outside)}",
            )
            for of in maps
        ],
        cards=cards,
        fires=[
            (
                data_url(heat(pixels, of.map_rc / (float(np.abs(of.map_rc).max()) or 1.0))),
                neuron_name(of.layer, of.neuron),
                f"largest {float(np.abs(of.map_rc).max()):.2f}",
            )
            for of in fires
        ],
    )  # fmt: skip


def first(concepts: Sequence[Row], top: int = TOP) -> list[Row]:
    """The first that are spoken for, and the first that are spoken against."""
    speak = [of for of in concepts if of["score"] > 0]
    return [*speak[:top], *[of for of in concepts if of["score"] < 0][:AGAINST]]


def about(row: Row) -> str:
    """How many spoke, and what the codes leave."""
    if row["method"] in OF_NEURONS:
        return f"{row['active']:,} of {several(row['parts'], 'neuron')} fire"
    left = "" if not np.isfinite(row["left"]) else f"; {row['left']:.0%} is left"
    parts = f"codes of {several(row['parts'], 'head')}" if row["method"] == "heads" else "one code"
    return parts + left


def _bar(concept: Row) -> Bar:
    return Bar(concept["text"], signed(concept["score"]), concept["score"])


def named(who: Sequence[Row], method: str) -> str:
    """``MLP layer 2, neuron 17 (+0.500 × +0.120), and 4 others``."""
    told = []
    for row in who[:NAMED]:
        at, given = (row["layer"], row["part"]), signed(row["coefficient"])
        if method in OF_NEURONS:
            told.append(f"{neuron_name(*at)} ({given} × {signed(row['weight'])})")
        else:
            told.append(f"{head_name(*at)} ({given})")
    if more := len(who) - NAMED:
        told += [f"and {several(more, 'other')}"] if more > 0 else []
    return ", ".join(told)


def signed(value: float) -> str:
    """``+0.426``, ``−0.0123``, ``+0.00023``: two digits at least that are not 0 before them."""
    digits = 3 if abs(value) >= SMALL else 4
    if 0 < abs(value) < SMALL:
        digits = min(max(digits, 1 - math.floor(math.log10(abs(value)))), DIGITS)
    return f"{value:+.{digits}f}".replace("-", "−")


# -- a subset ------------------------------------------------------------------------------


def over_section(
    found: Concepts, name: str, made: Made | None, warned: Sequence[str] = ()
) -> Section:
    """Texts of which a subset has more than all other images have, by each method."""
    assert found.over is not None
    rows = [
        (
            said(row["method"]), row["text"], signed(row["inside"]), signed(row["outside"]),
            _interval(row), f"{100 * row['share_inside']:.1f}", f"{100 * row['share_outside']:.1f}",
        )
        for row in _listed(found.over)
    ]  # fmt: skip
    return section(
        f"What images have more of where {found.where}",
        "Mean scores inside of the subset and outside, and their difference with the 95% interval "
        "that holds for all texts at once; shares of the images that have the text among their "
        f"first {FIRST}. The first {LISTED} of each method, the surest first.",
        name=name,
        found=over_sentence(found.over),
        notes=warned,
        header=(
            "by", "text", "inside", "outside", "difference (95%, all texts at once)",
            *AMONG,
        ),
        rows=rows,
        made=made,
    )  # fmt: skip


# Shares of the images that have a text among their first.
AMONG = (f"% inside with it in the first {FIRST}", "% outside")


def _listed(over: pd.DataFrame) -> Sequence[Row]:
    return over.sort_values("rank", kind="stable").groupby("method", sort=False).head(
        LISTED
    ).sort_values(["method", "rank"], kind="stable").to_dict("records")  # fmt: skip


def _interval(row: Row) -> str:
    ends = f"{signed(row['low_all'])} to {signed(row['high_all'])}"
    return f"{signed(row['difference'])} ({ends})"


def over_sentence(over: pd.DataFrame) -> str:
    """How many texts are surely over-represented, and the first of them."""
    told = []
    for method, rows in over.groupby("method", sort=False):
        sure = rows[rows["low_all"] > 0].sort_values("rank")
        first = ", ".join(f"“{text}”" for text in sure["text"][:NAMED])
        told.append(
            f"by {said(str(method))} {len(sure):,} of {several(len(rows), 'text')}"
            + (f", first {first}" if first else "")
        )
    return f"The subset surely has more of {'; '.join(told)}."


# -- the truth -----------------------------------------------------------------------------

# Told against those, on the same images.
ABOVE = "points above nearest texts, mean-removed"


def precision_section(precision: pd.DataFrame, name: str) -> Section:
    """How true concepts are of their images, where the truth is known."""
    whole = precision[precision["attribute"] == "all"]
    return section(
        "How true they are",
        "Of the attribute values that an image's first concepts name, the share that is true of it;"
        " mean over images, with the 95% interval. The last column, in percentage points: less what"
        " the nearest texts of the whole embedding, its mean removed, have on the same images.",
        name=name,
        header=("by", "of the first", "images", "precision, % (95%)", ABOVE),
        rows=[
            (said(row["series"]), str(row["at"]), f"{row['images']:,}", *_precise(row))
            for row in whole.to_dict("records")
        ],
    )


def _precise(row: Row) -> tuple[str, str]:
    known = np.isfinite(row["low"])
    ends = f" ({100 * row['low']:.1f} to {100 * row['high']:.1f})" if known else ""
    more = "–"
    if np.isfinite(row["more"]):
        more = sentences.points(row["more"])
        if np.isfinite(row["more_low"]):
            ends_of = (sentences.points(row[name]) for name in ("more_low", "more_high"))
            more += f" ({' to '.join(ends_of)})"
    return f"{100 * row['precision']:.1f}{ends}", more


# -- on a terminal -------------------------------------------------------------------------


def concepts_tables(found: Concepts, top: int = TOP) -> Group:
    """Concepts of each picture by method with who said them; a subset's; how true they are."""
    made: list[Table | str] = [_picture_table(found, picture, top) for picture in found.names]
    if found.names:
        made.append(READ)
    if found.over is not None:
        made.append(_over_table(found, top))
    if found.precision is not None:
        shown = precision_section(found.precision, "")
        table = titled(shown.title, *shown.header)
        keep_whole(table, *shown.header[1:4])
        for row in shown.rows:
            table.add_row(*map(str, row))
        made.append(table)
    return Group(*made)


READ = (
    "Scores: of a neuron the text's coefficient in its code × how far its effect goes along its "
    "direction, of a head the coefficient in its code; + is spoken for, − against; of each method "
    "on its own scale. Left: of the embedding less its mean, what the codes do not hold.\n"
)


def _picture_table(found: Concepts, picture: str, top: int) -> Table:
    table = titled(f"Concepts of {picture}", "by", "concept", "score", "who said it")
    keep_whole(table, "score")
    for of in found.methods(picture):
        by = f"{said(of['method'])} ({about(of)})"
        for concept in first(found.of(picture, of["method"]), top):
            who = found.who_said(picture, of["method"], concept["text"])
            table.add_row(by, concept["text"], signed(concept["score"]), named(who, of["method"]))
            by = ""
    return table


def _over_table(found: Concepts, top: int) -> Table:
    assert found.over is not None
    columns = ["by", "text", "difference (95%, all texts at once)", *AMONG]
    table = titled(f"What images have more of where {found.where}", *columns)
    keep_whole(table, *columns[3:])
    before = ""
    for row in _listed(found.over):
        if row["rank"] < top:
            by = said(row["method"])
            table.add_row(
                "" if by == before else by, row["text"], _interval(row),
                f"{100 * row['share_inside']:.1f}", f"{100 * row['share_outside']:.1f}",
            )  # fmt: skip
            before = by
    return table
