"""The page that shows what was found: one file, of sections, with all that it shows inside."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from humanize import naturalsize
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pipeline.heads.shares import Shares
from pipeline.images.again import load_again
from pipeline.images.errors import BadImage, SourceUnavailable
from storage.store import Store

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True
)


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
        Data URLs, or SVG.
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
    return TEMPLATES.get_template("page.html").render(
        title=title, lead=lead, sections=sections, notes=notes
    )


def data_url(image: Image.Image | Figure) -> str:
    """A picture or a plot as a PNG inside the page."""
    buffer = io.BytesIO()
    if isinstance(image, Figure):
        image.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    else:
        image.save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


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
            plot=data_url(share_plot(found)),
        ),
        section(
            "How exact",
            "Distance between the sum of all contributions and the model's own output, relative "
            f"to that output. As computed ({store.meta.precision}): median "
            f"{np.nanmedian(residual):.1e}, largest {np.nanmax(residual):.1e}. As stored "
            f"({store.meta.store_dtype}): median {np.nanmedian(rounding):.1e}, largest "
            f"{np.nanmax(rounding):.1e}.",
            plot=data_url(residual_plot(residual, rounding)),
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


def share_plot(found: Shares) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    top = float(np.abs(found.heads).max()) or 1.0
    image = left.imshow(found.heads, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto")
    left.set(xlabel="head", ylabel="layer", title="attention heads")
    left.set_xticks(range(found.heads.shape[1]))
    left.set_yticks(range(found.heads.shape[0]))
    if found.heads.size <= 64:
        for (layer, head), value in np.ndenumerate(found.heads):
            colour = "white" if abs(value) > 0.6 * top else "black"
            left.text(head, layer, f"{value:.1%}", ha="center", va="center", color=colour, size=9)
    figure.colorbar(image, ax=left, format="{x:.0%}")
    names = ["start", *(f"MLP {layer}" for layer in range(len(found.mlps) - 1))]
    right.barh(names, found.mlps, color="#4a6fa5")
    right.axvline(0, color="black", lw=0.8)
    right.invert_yaxis()
    right.xaxis.set_major_formatter("{x:.0%}")
    right.set_title("start and MLPs")
    return figure


def residual_plot(residual: NDArray, rounding: NDArray) -> Figure:
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axis = figure.subplots()
    for values, name in ((residual, "as computed"), (rounding, "as stored")):
        kept = values[np.isfinite(values) & (values > 0)]
        if len(kept):
            bins = np.geomspace(kept.min() / 1.1, kept.max() * 1.1, 40)
            axis.hist(kept, bins=bins.tolist(), label=name, alpha=0.8)
    axis.set(xscale="log", xlabel="relative distance to the model's own output", ylabel="images")
    axis.legend()
    return figure
