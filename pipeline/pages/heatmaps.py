"""Pictures of where in a picture texts come from, and what the maps leave out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from pipeline.heads.names import head_name, heads_name
from pipeline.heatmaps.found import HeatMaps
from pipeline.heatmaps.split import TERMS
from storage.metadata import Metadata

from . import notes, sentences
from .fragments import render
from .html import Made, Section, page, section
from .pictures import data_url, overlay

# Pixels of the longer side on a page, at most.
SIDE = 384
Row = dict[str, Any]


def overlays(found: HeatMaps) -> list[Image.Image]:
    """The picture under each map, at its own size; their colours have one scale."""
    image, top = Image.fromarray(found.pixels), found.strongest or 1.0
    return [overlay(image, map_rc / top) for map_rc in found.maps]


def heatmap_page(found: HeatMaps, meta: Metadata) -> str:
    """A page of its own; ``meta`` is that of the store whose model it is."""
    lead = f"As {meta.architecture} ({meta.weights}) sees it."
    return page(title(found), lead, [heatmap_section(found)], notes.random_weights(meta))


def heatmap_section(found: HeatMaps, name: str = "", made: Made | None = None) -> Section:
    """Picture and maps side by side, and a row of figures for each.

    Parameters
    ----------
    name : str
        Its address in a page of several sections; on a page of its own it has none, and no title.
    """
    rows = rows_of(found)
    columns = {"head": head_of} if found.own_texts else {}
    columns |= {"text": called, "map": _figure("shown")}
    columns |= {TERMS[term]: _figure(term) for term in terms_of(rows)}
    columns |= {"logit": _figure("logit"), "residual": lambda row: sentences.tiny(row["residual"])}
    return section(
        title(found) if name else "",
        how(found),
        name=name,
        found=sentence(rows[0]),
        notes=notes_of(found),
        plot=[heatmap_figure(found)],
        header=list(columns),
        rows=[[say(row) for say in columns.values()] for row in rows],
        made=made,
    )


def heatmap_figure(found: HeatMaps) -> Markup:
    """The picture, then each map over it, with what it shows and leaves out; their scale.

    Maps of heads' own texts stand head by head.
    """
    rows = rows_of(found)
    maps = [
        (data_url(sized(image)), heading(row), caption(row))
        for image, row in zip(overlays(found), rows, strict=True)
    ]
    seen = (data_url(sized(Image.fromarray(found.pixels))), found.picture, "as the model saw it")
    heads: dict[str, list[tuple[str, str, str]]] = {}
    if found.own_texts:
        for row, figure in zip(rows, maps, strict=True):
            heads.setdefault(head_of(row), []).append(figure)
    ends = signed(-found.strongest), signed(found.strongest)
    return render(
        "heatmap.html", figures=[seen] if heads else [seen, *maps], heads=list(heads.items()),
        ends=ends,
    )  # fmt: skip


def sized(image: Image.Image) -> Image.Image:
    """A picture, no larger than a page shows it."""
    image = image.copy()
    image.thumbnail((SIDE, SIDE))
    return image


def rows_of(found: HeatMaps) -> list[Row]:
    return [{str(name): v for name, v in row.items()} for row in found.table.to_dict("records")]


def terms_of(rows: Sequence[Row]) -> list[str]:
    """Terms that any of the maps leaves out: of all layers there are no others, say."""
    return [term for term in TERMS if any(row[term] != 0 for row in rows)]


# -- words ---------------------------------------------------------------------------------


def title(found: HeatMaps) -> str:
    return f"Where in {found.picture}"


def called(row: Row) -> str:
    """A map's text, and that which it is held against."""
    text = f"“{row['text']}”"
    return f"{text} rather than “{row['against']}”" if row["against"] else text


def head_of(row: Row) -> str:
    layer, head = row["head"].split(".")
    return head_name(int(layer), int(head))


def heading(row: Row) -> str:
    """What a map is of."""
    if not row["head"]:
        return called(row)
    return f"{row['extreme']}, {signed(row['coefficient'])}: {called(row)}"


def caption(row: Row) -> str:
    """What a map shows, and what it leaves out."""
    left = ", ".join(f"{TERMS[term]} {signed(row[term])}" for term in terms_of([row]))
    return f"shows {signed(row['shown'])} of {signed(row['logit'])}{part(row)}; leaves out {left}"


def part(row: Row) -> str:
    """The share that a map shows, where there is a logit that it could be of."""
    share = f" ({row['share']:.0%})".replace("-", "−")
    return "" if np.isnan(row["share"]) else share


def signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _figure(column: str) -> Any:
    return lambda row: signed(row[column])


def sentence(row: Row) -> str:
    """What the first map shows."""
    if row["head"]:
        return (
            f"Of the texts that describe it, {head_of(row)} wrote most of {called(row)}: "
            f"{signed(row['coefficient'])}."
        )
    return (
        f"Of {called(row)} the embedding has {signed(row['logit'])}; the patches of the map wrote "
        f"{signed(row['shown'])}{part(row)}."
    )


def how(found: HeatMaps) -> str:
    """Which maps they are, where they are from, and that they sum."""
    said = [
        f"A map is what {_writers(found)} wrote from each patch of the logit, the cosine of picture"
        " and text: blue for it, orange against it."
    ]
    if found.own_texts:
        said.append(
            "A head is shown by two of the texts that describe it: those of the largest and the "
            "smallest coefficient, the product of all that it wrote with a text, its mean not "
            "removed."
        )
    if found.less is not None:
        said.append(f"The mean map of the texts {found.less} was taken from each.")
    if found.edit is not None:
        said.append(
            f"The embedding is edited ({found.edit}): what each head and MLP wrote counts by its "
            "gain, and the means in its place are among the constants."
        )
    if found.convention != "centred":
        said.append("Means and biases are spread in equal shares over all heads and tokens.")
    said.append(
        "The maps are from what the store keeps."
        if found.stored
        else "They took one pass of the model."
    )
    if found.table["else"].any():
        said.append(
            "It does not keep both heads and MLPs: all else is what is left of the logit, and not "
            "told apart."
        )
    else:
        most = sentences.tiny(float(found.table["residual"].abs().max()))
        said.append(f"Map and all that it leaves out sum to the logit, to {most}: rounding.")
    return " ".join(said)


def _writers(found: HeatMaps) -> str:
    if found.own_texts:
        return "one head"
    if found.heads:
        return heads_name([(int(a), int(b)) for a, b in (h.split(".") for h in found.heads)])
    first, last = found.layers[0], found.layers[-1]
    if len(found.layers) > 2 and last - first + 1 == len(found.layers):
        return f"all heads of layers {first} to {last}"
    *some, last = found.layers
    listed = f"s {', '.join(map(str, some))} and" if some else ""
    return f"all heads of layer{listed} {last}"


def notes_of(found: HeatMaps) -> list[str]:
    """A picture that is not to be had."""
    if found.unreadable is None:
        return []
    return [f"The picture is not to be had as it was, and is grey: {found.unreadable}."]
