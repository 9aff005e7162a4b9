"""Two models over the same images: a table for the terminal, and a section of the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from rich.table import Table

from pipeline.between.answers import Alignment, Match
from pipeline.between.tables import ALIGNED
from pipeline.heads.names import head_name
from pipeline.telling import several

from .fragments import matrix
from .html import Made, Section, section
from .tables import keep_whole, titled

# Matches that are printed.
LISTED = 20
TITLE = "Heads of two models that are alike"


def matches_table(found: Alignment) -> Table:
    """For heads of `to`, the head of `from` that is most like it, and texts."""
    shown = found.matches[:LISTED]
    title = f"Heads of {found.target} and the most like them of {found.source}"
    if len(shown) < len(found.matches):
        title += f", {len(shown)} of {len(found.matches)}"
    figures = ["head", "most like", "CKA", "CCA"]
    described = any(match.texts for match in shown)
    texts = [f"texts (R² of the map: {found.facts['r2']:.2f})"] if described else []
    table = titled(title, *figures, *texts)
    keep_whole(table, *figures)
    for match in shown:
        table.add_row(*_cells(match)[: len(table.columns)])
    return table


def _cells(match: Match) -> tuple[str, str, str, str, str]:
    texts = " · ".join(f"{t.text} ({_figure(t.r2)})" for t in match.texts)
    like = head_name(match.from_layer, match.from_head) if match.from_layer >= 0 else "–"
    here = head_name(match.layer, match.head)
    return here, like, _figure(match.cka), _figure(match.cca), texts


def _figure(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


def told(found: Alignment) -> dict[str, str]:
    """Which images, and how far the map is to be trusted."""
    facts = found.facts
    images = f"{facts['images']:,}"
    if facts["same_list"]:
        images += ", one list"
    else:
        images += (
            f"; {facts['only_from']:,} are in the first alone, {facts['only_to']:,} in the other"
        )
    if facts["lost"]:
        images += f"; {facts['lost']:,} are bad or not finished in the first"
    return {
        "images": images,
        "embeddings": f"CKA {facts['embedding_cka']:.3f}",
        "map": f"R² {facts['r2']:.3f} on {facts['held_out']:,} held-out images; made of "
        f"{facts['fitted']:,}, strength {facts['strength']:g}",
    }


def flat_texts(found: Alignment) -> pd.DataFrame:
    """Texts of one model on the other's heads, as ``align/texts`` has them; else pairs."""
    if not any(match.texts for match in found.matches):
        return found.pairs
    rows = [
        {"layer": m.layer, "head": m.head, "rank": rank, **vars(text)}
        for m in sorted(found.matches, key=lambda m: (m.layer, m.head))
        for rank, text in enumerate(m.texts)
    ]
    return pd.DataFrame(rows, columns=ALIGNED["texts"].names)


def between_section(found: Alignment, name: str, warned: Sequence[str], made: Made) -> Section:
    """Which heads of two models are alike, and texts of one on the other's heads."""
    best, facts = found.matches[0], found.facts
    here, like, cka, cca, _ = _cells(best)
    return section(
        TITLE,
        "How like each head is to the most alike head of the other model (linear CKA: 1 is alike "
        "up to rotation and scale, 0 not at all; CCA: the mean canonical correlation). Texts went "
        "through the map between the embeddings; behind each stands the map's R² along it, on "
        "images that did not make the map.",
        name=name,
        found=f"Over {several(facts['images'], 'image')}, {found.source} against {found.target}: "
        f"{here} is most like {like} of the first (CKA {cka}, CCA {cca}). The map from "
        f"one embedding to the other foretells {facts['r2']:.0%} of its variance on "
        f"{facts['held_out']:,} images that did not make it.",
        notes=[*warned, *found.warnings],
        plot=[best_figure(found)],
        header=("head", "most like", "CKA", "CCA", "texts (R²)"),
        rows=[_cells(match) for match in found.matches[:LISTED]],
        made=made,
    )


def best_figure(found: Alignment) -> str:
    """CKA of every head of `to` with the head of `from` that is most like it."""
    layers = sorted({m.layer for m in found.matches})
    heads = 1 + max(m.head for m in found.matches)
    values = np.full((len(layers), heads), np.nan)
    for match in found.matches:
        values[layers.index(match.layer), match.head] = match.cka
    return matrix(
        values, [f"layer {i}" for i in layers], [f"head {i}" for i in range(heads)],
        "{:.2f}".format, corner="", unit="CKA with the most alike head", top=1.0,
    )  # fmt: skip
