"""Two scales of colours that colour-blind people can read, and colours of categories.

One scale runs from none to most, one from minus over none to plus (``pages/pictures`` lays the same
two colours over pictures). A picture has a ground of its own and takes its colours from a table of
256; a shape on a page takes one colour, more or less opaque over the page, so that it reads on a
light page and on a dark one, and the page's own text reads on it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.pages.pictures import MINUS, PLUS

# Lightness rises from end to end, and hue goes from blue to yellow, which those who see no red or
# no green tell apart; whoever sees no blue has the lightness.
_NONE, _MOST, _NEITHER = (12, 22, 58), (255, 240, 170), (228, 228, 228)
# At full strength a page's text still has contrast 4.5 : 1 on either colour, light or dark.
OPAQUE = 0.55
# Okabe and Ito's colours of categories (2008), without black; what is beyond them is ``OTHER``.
# With text on them they are fainter: ``FAINT``.
CATEGORIES = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
OTHER = "#999999"
FAINT = 0.35


def _between(*colours: NDArray[np.float64] | tuple[int, ...]) -> NDArray[np.uint8]:
    """A table of 256 colours, the given ones evenly along it."""
    at = np.linspace(0, len(colours) - 1, 256)
    columns = zip(*colours, strict=True)
    return np.stack(
        [np.interp(at, np.arange(len(colours)), column) for column in columns], axis=1
    ).astype(np.uint8)


# (256, 3) uint8, red, green and blue: from none to most; from minus over none (127) to plus.
SEQUENTIAL = _between(_NONE, PLUS, _MOST)
DIVERGING = _between(MINUS, _NEITHER, PLUS)


class Tint(NamedTuple):
    """What a shape is filled with: SVG's ``fill`` and ``fill-opacity``."""

    fill: str
    opacity: float


def tint(value: float, top: float) -> Tint:
    """The colour of a number on a page: blue where it is positive, orange where negative.

    Parameters
    ----------
    value : float
        Nothing is to be seen of 0 and of what is not finite.
    top : float
        The size that has the strongest colour.
    """
    strength = min(abs(value) / top, 1.0) if np.isfinite(value) and top > 0 else 0.0
    return Tint(as_hex(PLUS if value > 0 else MINUS), round(OPAQUE * strength, 3))


def looked_up(values: NDArray[np.floating], top: float, signed: bool = False) -> NDArray[np.uint8]:
    """Colours of a picture's numbers, (…, 3) uint8.

    Parameters
    ----------
    values : array
        From 0 to ``top``, or from −``top`` if ``signed``; what is beyond has the last colour, and
        what is not a number that of 0.
    """
    share = np.nan_to_num(values / (top or 1.0))
    if signed:
        return DIVERGING[np.rint(127.5 + 127.5 * np.clip(share, -1, 1)).astype(np.uint8)]
    return SEQUENTIAL[np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)]


def as_hex(colour: NDArray[np.generic]) -> str:
    """A colour of a table as SVG has it, ``#rrggbb``."""
    return "#" + "".join(f"{int(part):02x}" for part in colour)
