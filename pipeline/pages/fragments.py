"""Pieces of a page that are HTML rather than drawn: bars with texts, matrices."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
# A cell that begins so is a figure.
FIGURE = re.compile(r"[+−–-]?[\d.,]+\S{0,2}( |$)")
# Letters of a cell that are not broken into lines; of a row that has room beside a plot.
UNBROKEN, BESIDE = 24, 60


def text(cell: object) -> str:
    """What a reader sees of a cell."""
    return Markup(cell).striptags() if isinstance(cell, Markup) else str(cell)


def is_narrow(rows: Sequence[Sequence[object]]) -> bool:
    """Whether a table has room beside a plot."""
    widths = [max(len(text(cell)) for cell in column) + 2 for column in zip(*rows, strict=True)]
    return sum(widths) <= BESIDE


def figures(rows: Sequence[Sequence[object]]) -> list[bool]:
    """Which columns stand under each other's last digits: a quarter of them are figures."""
    columns = ([bool(FIGURE.match(text(cell))) for cell in of] for of in zip(*rows, strict=True))
    return [4 * sum(column) >= len(column) for column in columns]


TEMPLATES.filters["figures"] = figures
TEMPLATES.tests |= {
    "long": lambda cell: len(text(cell)) > UNBROKEN,
    "narrow": is_narrow,
}


def render(template: str, **values: object) -> Markup:
    """A template of this wing, filled in; everything given is escaped unless it is markup."""
    return Markup(TEMPLATES.get_template(template).render(values))


@dataclass(frozen=True)
class Bar:
    """A text with a number.

    Attributes
    ----------
    text, said : str
        ``said`` is the number as it is written.
    value : float
        Negative ones have the other colour.
    """

    text: str
    said: str
    value: float


def bars(shown: Sequence[Bar], top: float | None = None) -> Markup:
    """A list of texts, each over a bar as long as its number.

    Parameters
    ----------
    top : float, optional
        The number whose bar is the longest there may be; that of the list unless given.
    """
    top = top or max((abs(bar.value) for bar in shown), default=0.0) or 1.0
    return render("bars.html", bars=[(b, min(abs(b.value) / top, 1.0)) for b in shown])


def matrix(
    values: NDArray[np.floating],
    rows: Sequence[str],
    columns: Sequence[str],
    said: Callable[[float], str],
    *,
    corner: str,
    unit: str,
    top: float | None = None,
    unsure: NDArray[np.bool_] | None = None,
) -> Markup:
    """A table with coloured cells, and the scale of its colours.

    Parameters
    ----------
    values : (rows, columns)
        Negative ones have the other colour; NaN has none.
    said : callable
        A number as it is written.
    corner, unit : str
        What rows and columns are, and what numbers are.
    top : float, optional
        The number with the strongest colour; the largest unless given.
    unsure : (rows, columns) bool, optional
        Cells that are hatched, as their interval includes 0.
    """
    strength = np.abs(np.nan_to_num(values))
    top = top or float(strength.max()) or 1.0
    hatched = np.zeros(values.shape, bool) if unsure is None else unsure
    cells = [
        [
            (said(value) if np.isfinite(value) else "", value < 0, f"{of_top:.0%}", dim)
            for value, of_top, dim in zip(*of_row, strict=True)
        ]
        for of_row in zip(values, np.minimum(strength / top, 1.0), hatched, strict=True)
    ]
    ends = [said(-top) if (values < 0).any() else "0", said(top)]
    return render(
        "matrix.html", rows=list(zip(rows, cells, strict=True)), columns=columns, corner=corner,
        unit=unit, ends=ends, signed=bool((values < 0).any()), unsure=bool(hatched.any()),
    )  # fmt: skip
