"""Plots as SVG inside a page: text that can be selected and found, in the colours of the page.

A plot is one panel, as wide as a telephone; the page's style sheet lays panels beside each other.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Readable on white and on black, and told apart by those who see no red or no green.
BLUE, ORANGE, GREEN, VIOLET, GREY = "#2f7fc8", "#d2691e", "#1a9a6c", "#a667c9", "#7d8796"
SERIES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "D"), (VIOLET, "^"), (GREY, "v"))
# Stands for the colour of the page's text until the SVG is written.
INK = "#010203"
WIDTH = 3.75  # inches: 360 pixels
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "facet",
    "text.parse_math": False,  # texts may hold dollars
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "lines.markersize": 4.5,
    "errorbar.capsize": 2.5,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}
NOTHING = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def plot(draw: Callable[[Axes], None], about: str, height: float = 2.4) -> Markup:
    """A panel as SVG.

    Parameters
    ----------
    draw : callable
        Draws on the axes that it is given.
    about : str
        What it shows, for those who cannot see it.
    height : float
        In inches; the width is ``WIDTH``.
    """
    with rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=NOTHING)
    return inline(buffer.getvalue(), about)


def inline(svg: str, about: str) -> Markup:
    """An SVG file of matplotlib's as an element of a page that may hold others.

    Its ids are those of its own content, so that no two plots share one; text has the page's
    fonts, and what is drawn in ``INK`` the colour of the page's text.
    """
    rest = svg.partition("<svg ")[2]
    box = re.search(r'viewBox="[^"]+"', rest)
    assert box is not None  # matplotlib writes one
    body = rest.partition(">")[2]
    own = "f" + hashlib.sha256(body.encode()).hexdigest()[:8]
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{own}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(url\(|href=")#', rf"\1#{own}-", body)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r" font-family: [^;]+;", "", body).replace("xlink:href", "href")
    body = re.sub(r"\n\s*", "\n", body).replace(INK, "currentColor")
    opening = Markup('<svg role="img" aria-label="{}" {}>').format(about, Markup(box[0]))
    return opening + Markup(body.strip())
