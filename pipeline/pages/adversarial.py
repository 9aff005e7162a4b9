"""Sections of the page: pictures that a model takes for what they do not show, and how they came.

Also the same as tables on a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from rich.console import Group
from rich.table import Table

from pipeline.adversarial.answers import SOURCES, Adversarial, SpeaksFor, said, shown
from pipeline.telling import several
from storage.metadata import Metadata

from . import notes, sentences
from .concepts import signed
from .fragments import Bar, bars, render
from .html import Made, Section, page, section
from .pictures import data_url, heat, small
from .tables import keep_whole, titled

# Cues of each source that are shown.
CUES = 12
# Letters of a word that is printed in bold where the whole cue does not stand in a description.
LETTERS = 4
Row = Mapping[Any, Any]


def adversarial_page(found: Adversarial, meta: Metadata) -> str:
    """A page of its own; ``meta`` is that of the store whose model was to be taken in."""
    lead = f"Pictures of {found.drawn}, judged by {meta.architecture} ({meta.weights})."
    return page(title(found), lead, adversarial_sections(found), notes.random_weights(meta))


def adversarial_sections(
    found: Adversarial, name: str = "adversarial", made: Made | None = None, few: bool = False
) -> list[Section]:
    """How often it was taken in, by which cues, and pictures with what speaks for the target.

    Parameters
    ----------
    name : str
        The first section's address.
    few : bool
        Whether cues and pictures go without their tables, as on a page of many results.
    """
    sections = [
        section(
            title(found),
            HOW,
            name=name,
            found=sentence(found),
            notes=warned(found),
            header=("cues from", *rates_header(found)),
            rows=rates_rows(found),
            made=made,
        ),
        pictures_section(found, f"{name}-pictures"),
        cues_section(found, f"{name}-cues"),
    ]
    return sections if few else [*sections, *_kept(found, name)]


HOW = (
    "Fooled: of 100 pictures of an experiment, how many the model takes for the target although "
    "the drawn class is there; mean and standard deviation over repeats. Share: of the pictures in "
    "which it is there, with the 95% interval, descriptions drawn anew as a whole, since pictures "
    "share them. The last column is the share of second-order effects less the row's, in "
    "percentage points."
)


def title(found: Adversarial) -> str:
    return f"{found.drawn}, taken for {found.target}"


def sentence(found: Adversarial) -> str:
    """Whether cues of second-order effects take the model in more often than others."""
    told = []
    for source in ("second-order", *(s for s in found.sources if s != "second-order")):
        if source in found.sources:
            told.append(f"{_share(found.of(source))} with {_cues_of(source)}")
    first = (
        f"Of the pictures in which the drawn class ({found.drawn}) is really there, the model takes"
        f" for the target ({found.target}): {'; '.join(told)}."
    )
    return " ".join([first, *_wins(found)])


def _cues_of(source: str) -> str:
    return "no cues" if source == "none" else f"cues of {said(source)}"


def _wins(found: Adversarial) -> list[str]:
    """Of each other source, whether second-order effects are surely ahead, behind, or neither."""
    kinds: dict[str, list[str]] = {"above": [], "below": [], "not told apart from": []}
    for row in records(found.table):
        if row["source"] == "second-order" or not np.isfinite(row["less"]):
            continue
        kind = "not told apart from"
        if row["less_low"] > 0:
            kind = "above"
        elif row["less_high"] < 0:
            kind = "below"
        kinds[kind].append(said(row["source"]))
    told = [f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names]
    return [f"By their 95% intervals, second-order effects are {'; '.join(told)}."] if told else []


def warned(found: Adversarial) -> list[str]:
    """Where nobody knows whether the drawn class is there, and pictures that came to nothing."""
    counts = found.judged["outcome"].value_counts()
    lost = {name: int(counts.get(name, 0)) for name in ("blank", "refused")}
    told = []
    if not len(found.judged):
        told.append("There are no pictures.")
    elif sum(lost.values()) == len(found.judged):
        told.append("Not one picture could be judged: all are blank or were refused.")
    if found.unknown:
        told.append(
            f"Nobody has looked whether the pictures really show {found.drawn} and not "
            f"{found.target}: all are taken to, so that figures are too high if some do not."
        )
    return told


def rates_header(found: Adversarial) -> list[str]:
    """The last column is there where there is anything to hold it against."""
    repeats = int(found.table["repeats"].max()) if len(found.table) else 0
    compared = ["points of second-order above it"] if found.table["less"].notna().any() else []
    return [f"fooled of 100 ({several(repeats, 'repeat')})", "share, % (95%)", *compared]


def rates_rows(found: Adversarial) -> list[tuple[str, ...]]:
    """``second-order effects``, ``41.3 ± 5.0``, ``52.1 (44.0 to 60.2)``, ``+30.1 (20.0 to 41.2)``;
    a row a source, as `rates_header` has them."""
    columns = len(rates_header(found))
    return [(said(row["source"]), *_rates(row)[:columns]) for row in records(found.table)]


def _rates(row: Row) -> list[str]:
    deviation = f" ± {row['deviation']:.1f}" if np.isfinite(row["deviation"]) else ""
    less = "–"
    if np.isfinite(row["less"]):
        less = (
            f"{sentences.points(row['less'])} ({sentences.points(row['less_low'])} to "
            f"{sentences.points(row['less_high'])})"
        )
    return [f"{row['fooled']:.1f}{deviation}", _share(row, ""), less]


def _share(row: Row | pd.Series, unit: str = "%") -> str:
    if not np.isfinite(row["share"]):
        return "–"
    share, low, high = (100 * row[name] for name in ("share", "low", "high"))
    return f"{share:.1f}{unit} ({low:.1f} to {high:.1f})"


# -- cues ----------------------------------------------------------------------------------


def cues_section(found: Adversarial, name: str) -> Section:
    """The first cues of every source."""
    cards = []
    for source in found.sources:
        rows = found.cues[(found.cues["source"] == source) & found.cues["used"]]
        rows = rows[rows["repeat"] == rows["repeat"].min()].sort_values("rank")[:CUES]
        if len(rows):
            cards.append((said(source), bars([_bar(row) for row in records(rows)])))
    dropped = int((~found.cues["used"]).sum())
    text = (
        "The first cues of each source, of its first repeat; bars are their weights, of each "
        "source on its own scale."
    )
    if dropped:
        text += f" {several(dropped, 'text')} were dropped, as too like the target."
    shown = render("cards.html", cards=cards, said="") if cards else ""
    return section("Cues", text, name=name, plot=shown)


def _bar(row: Row) -> Bar:
    known = np.isfinite(row["score"])
    figure = signed(row["score"]) if known else ""
    return Bar(row["text"], figure, row["score"] if known else 0.0)


# -- pictures ------------------------------------------------------------------------------


def pictures_section(found: Adversarial, name: str) -> Section:
    """The first pictures of every source, those that took the model in first."""
    maps = {one.file: one for one in found.maps}
    shown = {source: _first(found, source) for source in found.sources}
    listed = [row["file"] for rows in shown.values() for row in rows if row["file"] in maps]
    top = max((float(np.abs(maps[file].map_rc).max()) for file in listed), default=0.0)
    cases = [
        (_counted(found, source), [_tile(found, row, maps, top) for row in rows])
        for source, rows in shown.items()
    ]
    return section(
        "Pictures",
        "Those that took the model in, then others, the clearest first. Below each its "
        "description, with the cues in bold, what came of it, and by how much the cosine with the "
        "target is above that with the drawn class. Beside it, where there is one, what speaks for "
        f"{found.target} (blue) and for {found.drawn} (orange).",
        name=name,
        plot=[render("adversarial.html", cases=cases, top=f"{top:.4f}" if top else "")],
    )


def _first(found: Adversarial, source: str) -> Sequence[Row]:
    rows = shown(found.judged[found.judged["source"] == source])
    return records(rows.merge(found.pictures[["source", "file", "text"]], on=["source", "file"]))


def _counted(found: Adversarial, source: str) -> str:
    counts = found.outcomes().loc[source]
    return f"{said(source)}: " + ", ".join(f"{n} {what}" for what, n in counts.items() if n)


def _tile(
    found: Adversarial, row: Row, maps: Mapping[str, SpeaksFor], top: float
) -> tuple[str, str, str, Markup, str]:
    image = found.picture(row["file"]).convert("RGB")
    shown, map_url = small(np.asarray(image)), ""
    if (of := maps.get(row["file"])) is not None:
        shown, map_url = small(of.pixels), data_url(heat(of.pixels, of.map_rc / (top or 1.0)))
    described = in_bold(
        row["text"],
        found.cues_in(row["source"], row["repeat"], row["description"]),
        found.drawn,
    )
    return data_url(shown), map_url, row["text"], described, outcome(row)


def outcome(row: Row) -> str:
    """``fooled, +0.023``."""
    margin = row["margin"]
    return row["outcome"] + (
        "" if not np.isfinite(margin) else f", {margin:+.3f}".replace("-", "−")
    )


# Words of cues that say nothing.
PLAIN = frozenset(("image", "photo", "picture", "some", "thing", "things", "with"))


def in_bold(text: str, cues: Sequence[str], drawn: str = "") -> Markup:
    """A description with its cues in bold; of a cue that does not stand there, its words.

    Parameters
    ----------
    text : str
    cues : sequence of str
    drawn : str
        The drawn class, which is never in bold.
    """
    wanted: set[str] = set()
    for cue in cues:
        found = re.search(rf"\b{re.escape(cue)}\b", text, re.IGNORECASE)
        words = [w.lower() for w in re.findall(r"\w+", cue) if len(w) >= LETTERS]
        wanted |= {cue.lower()} if found else set(words) - PLAIN
    wanted -= {word for name in drawn.lower().split() for word in (name, f"{name}s")}
    if not wanted:
        return escape(text)
    longest = "|".join(re.escape(w) for w in sorted(wanted, key=len, reverse=True))
    parts = re.split(rf"\b({longest})\b", text, flags=re.IGNORECASE)
    pieces = (Markup("<b>{}</b>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))
    return Markup("").join(pieces)


# -- what was kept of every stage ----------------------------------------------------------


def _kept(found: Adversarial, name: str) -> list[Section]:
    """Outcomes by source, and what became of texts and descriptions."""
    outcomes = found.outcomes()
    dropped = found.cues[~found.cues["used"]]
    dropped = dropped.drop_duplicates(["source", "text"]).sort_values("rank", kind="stable")
    fate = found.descriptions.assign(
        fate=found.descriptions["why"].where(~found.descriptions["kept"], "kept")
    )
    counted = fate.groupby(["source", "fate"], sort=False, as_index=False).size()
    return [
        section(
            "What came of all pictures",
            name=f"{name}-outcomes",
            header=("cues from", *outcomes.columns),
            rows=[(said(str(source)), *counts) for source, counts in zip(
                outcomes.index, outcomes.to_numpy().tolist(), strict=True
            )],
        ),
        section(
            "Texts that are no cues",
            name=f"{name}-dropped",
            header=("text", "from", "similarity with the target", "why"),
            rows=[
                (r["text"], said(r["source"]), _known(r["similarity"]), r["why"])
                for r in records(dropped)
            ],
        ),
        section(
            "What became of descriptions",
            name=f"{name}-descriptions",
            header=("cues from", "descriptions", "what became of them"),
            rows=[(said(r["source"]), f"{r['size']:,}", r["fate"]) for r in records(counted)],
        ),
    ]  # fmt: skip


def _known(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "–"


def records(table: pd.DataFrame) -> Sequence[Row]:
    return table.to_dict("records")


# -- on a terminal -------------------------------------------------------------------------


def adversarial_table(found: Adversarial) -> Group:
    """How often the model was taken in, by source of cues; and the first cues of each."""
    made = titled(f"{found.drawn}, taken for {found.target}", "cues from", *rates_header(found))
    keep_whole(made, *rates_header(found)[:2])
    for row in rates_rows(found):
        made.add_row(*row)
    told = "; ".join(_counted(found, source) for source in found.sources)
    lines: list[Table | str] = [made, f"Of all pictures, with cues of: {told}."]
    if dropped := _dropped(found):
        lines.append(f"Descriptions that were dropped: {dropped}.")
    lines += warned(found)
    if len(found.cues):
        lines += ["", cues_table(found.cues)]
    return Group(*lines)


def _dropped(found: Adversarial) -> str:
    whys = found.descriptions.loc[~found.descriptions["kept"].astype(bool), "why"].value_counts()
    return ", ".join(f"{count:,} as “{why}”" for why, count in whys.items())


def descriptions_table(chosen: pd.DataFrame) -> Table:
    """Descriptions that are to be drawn, each once."""
    made = titled("To be drawn", "description", "with cues from")
    for text, of in chosen.groupby("text", sort=False):
        made.add_row(str(text), ", ".join(said(str(source)) for source in of["source"].unique()))
    return made


def cues_table(cues: pd.DataFrame) -> Table:
    """The first cues of every source, of its first repeat."""
    made = titled("Cues", "from", "the first", "dropped")
    for source in (name for name in SOURCES if name in set(cues["source"])):
        of = cues[cues["source"] == source]
        of = of[of["repeat"] == of["repeat"].min()].sort_values("rank")
        used = " · ".join(of.loc[of["used"], "text"][:CUES])
        made.add_row(said(source), used, str(int((~of["used"]).sum())))
    return made
