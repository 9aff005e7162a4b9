"""A section of the page: two sets of images in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.heads.answers import Compared
from pipeline.telling import several

from .fragments import Bar, bars
from .html import Made, Section, section
from .tables import towards

# Parts that the section names.
LISTED = 20
TITLE = "Two sets of images, in words"


def two_sets_section(found: Compared, name: str, warned: Sequence[str], made: Made) -> Section:
    """Which parts tell two sets apart, and the texts along the differences."""
    whole, *others = found.parts
    shown = others[:LISTED]
    clear = [part for part in shown if not np.isnan(part.fisher)]
    shares = {"heads": "heads", "mlps": "start and MLPs", "else": "constants"}
    wrote = ", ".join(
        f"{who} {found.shares[n]:.0%}" for n, who in shares.items() if n in found.shares
    )
    best = shown[0]
    said = (
        f"The means of {several(found.images_a, 'image')} where {found.a} (a) and "
        f"{several(found.images_b, 'image')} where {found.b} (b) lie {whole.distance:.2f} of an "
        f"embedding's length apart (by chance {whole.chance:.2f}). Who wrote the difference: "
        f"{wrote}. {best.name.capitalize()} tells the sets apart most clearly, and wrote "
        f"{best.share:.0%} of it: {towards(best.texts)}."
    )
    rows = [
        (
            part.name,
            f"{part.distance:.3f}",
            f"{part.chance:.3f}",
            "–" if np.isnan(part.fisher) else f"{part.fisher:.2f}",
            f"{part.share:+.1%}",
            towards(part.texts),
        )
        for part in (whole, *shown)
    ]
    return section(
        TITLE,
        "Parts by how clearly they tell the sets apart: Fisher's ratio is the squared distance of "
        "the means over the variance inside the sets, along the line between the means. Texts are "
        "those that explain most of the difference, each towards one of the sets.",
        name=name,
        found=said,
        notes=[*warned, *found.warnings],
        plot=bars([Bar(p.name, f"{p.fisher:.1f}", p.fisher) for p in clear[:10]]),
        header=("part", "apart", "by chance", "Fisher", "share", "texts"),
        rows=rows,
        made=made,
    )
