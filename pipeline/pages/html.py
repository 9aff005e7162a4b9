"""The page that shows what was found: one file, of sections, with all that it shows inside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from .fragments import render


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
