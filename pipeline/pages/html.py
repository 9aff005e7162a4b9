"""The page that shows what was found: one file, of sections, with all that it shows inside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from humanize import naturalsize
from markupsafe import Markup
from PIL import Image

from pipeline.heads.shares import Shares
from pipeline.images.again import load_again
from pipeline.images.errors import BadImage, SourceUnavailable
from storage.store import Store

from .figures import residual_figure, share_figures
from .fragments import render
from .pictures import data_url


@dataclass(frozen=True)
class Made:
    """How a result came to be.

    Attributes
    ----------
    command : str
        As it was typed.
    when : str
        Empty where it is not known.
    """

    command: str
    when: str = ""


@dataclass(frozen=True)
class Section:
    """One section of a page. All texts are escaped but those that ``link`` makes.

    Attributes
    ----------
    title, name : str
        ``name`` is its address in the page.
    found : str
        The sentence on top: what was found, and how sure it is.
    notes : sequence of str
        What warns of taking it for more.
    text : str
        How picture and table are read.
    plots : sequence of str
        HTML, as the functions of ``figures`` make it.
    pictures : sequence of (str, str)
        Data URLs with what stands below.
    header : sequence of str
    rows : sequence of sequences
    links : sequence of str
        Other sections about the same, as ``link`` makes them.
    made : Made or None
    """

    title: str
    name: str
    found: str = ""
    notes: Sequence[str] = ()
    text: str = ""
    plots: Sequence[str] = ()
    pictures: Sequence[tuple[str, str]] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()
    links: Sequence[str] = ()
    made: Made | None = None


def section(
    title: str,
    text: str = "",
    *,
    name: str = "",
    plot: str | Sequence[str] = (),
    **parts: Any,
) -> Section:
    """A section; its address is made of its title unless it is given."""
    plots = [plot] if isinstance(plot, str) else plot
    return Section(title, name or slug(title), text=text, plots=[p for p in plots if p], **parts)


def slug(title: str) -> str:
    """A title as an address: letters, digits and hyphens."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def link(text: str, url: str) -> str:
    """A link, for a table's cell or a section's links; ``#name`` leads to another section."""
    return Markup('<a href="{}">{}</a>').format(url, text)


def anchor(text: str, name: str) -> str:
    """A cell of a table that links may lead to."""
    return Markup('<span id="{}">{}</span>').format(name, text)


def page(title: str, lead: str, sections: Sequence[Section], notes: Sequence[str] = ()) -> str:
    """The whole page as HTML: lead, notes, contents list, sections."""
    return str(render("page.html", title=title, lead=lead, sections=sections, notes=notes))


def as_file(title: str, figure: str) -> bytes:
    """One figure as a page of its own, as results keep it."""
    return page(title, "", [section("", plot=[figure])]).encode()


def extraction_sections(store: Store, found: Shares, pictures: int = 24) -> list[Section]:
    """What an extraction shows: pictures, who wrote how much, how exact it is, the store."""
    table = store.images(0, min(pictures, store.meta.images))
    shown = [
        (data_url(thumbnail(store, row["index"])), row["caption"] or row["label"] or row["key"])
        for row in table.to_pylist()
    ]
    data = store.contributions()
    residual, rounding = data["residual"].values, data["rounding"].values
    tree = [(n, f, naturalsize(b)) for n, (f, b) in sorted(store.size().items())]
    return [
        section("Images", f"The first of {store.meta.images:,}.", pictures=shown),
        section(
            "Which layers and heads wrote the embedding",
            "Share of the embedding that each component wrote, mean over "
            f"{found.images:,} images. All shares, with {found.constants:.1%} for the constants, "
            f"sum to {found.heads.sum() + found.mlps.sum() + found.constants:.6f}.",
            plot=share_figures(found),
        ),
        section(
            "How exact",
            "Distance between the sum of all contributions and the model's own output, relative "
            f"to that output. As computed ({store.meta.precision}): median "
            f"{np.nanmedian(residual):.1e}, largest {np.nanmax(residual):.1e}. As stored "
            f"({store.meta.store_dtype}): median {np.nanmedian(rounding):.1e}, largest "
            f"{np.nanmax(rounding):.1e}.",
            plot=residual_figure(residual, rounding),
        ),
        section("The store", store.url, header=("part", "files", "size"), rows=tree),
    ]


def thumbnail(store: Store, index: int) -> Image.Image:
    """An image, at most 128 pixels wide; grey where it cannot be read or is another now."""
    try:
        image = load_again(store, index)
    except (BadImage, SourceUnavailable):
        return Image.new("RGB", (64, 64), "lightgrey")
    image.thumbnail((128, 128))
    return image
