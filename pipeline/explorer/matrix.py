"""A store's heads and MLPs by layer, coloured by what is known of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.colours import CATEGORIES, OTHER
from pipeline.explorer.library import NotHere, Opened
from pipeline.explorer.properties import all_names, parts_of
from pipeline.heads.parts import keeps_parts
from pipeline.heads.roles import head_variances
from pipeline.heads.shares import Shares, shares
from pipeline.labels.found import JOB
from storage.reductions import Reductions, find_reductions
from storage.results import Result

COLOURS = ("share", "variance", "label")
PROPERTY = "property:"
# Images whose shares are averaged, about.
READ = 1000
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Matrix:
    """Heads by layer, and the MLPs.

    Attributes
    ----------
    colour, title, said : str
        What it is coloured by; its name; what a number is, and what is left out.
    unit : str
    scale : float
        What numbers are multiplied by where they are written.
    heads : (layer, head) float64 or None
        NaN of heads of which nothing is known; None where that is so of all.
    mlps : (layer,) float64 or None
    start : float or None
        Of what stands before layer 0.
    labels : tuple of tuple of str or None
        Labels of the heads; empty unless it is coloured by them.
    colours : dict of str to str
        Of labels, the most frequent first; those beyond the scale share one colour.
    lacking, command : str
        What is not there, and the command that finds it.
    """

    colour: str
    title: str
    said: str
    unit: str = ""
    scale: float = 1.0
    heads: Values | None = None
    mlps: Values | None = None
    start: float | None = None
    labels: tuple[tuple[str | None, ...], ...] = ()
    colours: dict[str, str] | None = None
    lacking: str = ""
    command: str = ""

    @property
    def top(self) -> float:
        """The size that has the strongest colour."""
        known = [v for v in (self.heads, self.mlps, self.start) if v is not None]
        return max((float(np.nanmax(np.abs(v), initial=0.0)) for v in known), default=0.0)

    def text(self, value: float) -> str:
        """A number as it is written; nothing of what is not known."""
        return f"{self.scale * value:.1f}".replace("-", "−") if np.isfinite(value) else ""


def choices(here: Opened) -> tuple[str, ...]:
    """What heads can be coloured by."""
    labels = here.latest(JOB)
    known = () if labels is None else all_names(here, labels)
    return (*COLOURS, *(PROPERTY + name for name in known))


def matrix(here: Opened, colour: str) -> Matrix:
    """Heads and MLPs coloured by their share of the embedding, variance, label, or a property.

    Parameters
    ----------
    here : Opened
    colour : str
        ``share``, ``variance``, ``label`` or ``property:NAME``.

    Raises
    ------
    NotHere
        If there is no such colour.
    """
    if colour not in (known := choices(here)):
        raise NotHere(f"no colour {colour[:60]!r}: choose one of {', '.join(known)}")
    if colour == "share":
        return _by_share(here)
    if colour == "variance":
        return _by_variance(here)
    labels = here.latest(JOB)
    if labels is None:
        lacking = "No head is labelled yet."
        return Matrix("label", "Labels", "", lacking=lacking, command=here.hint(JOB))
    return _by_label(here, labels) if colour == "label" else _by_property(here, labels, colour)


def shares_of(here: Opened) -> Shares | None:
    """Shares of the embedding that parts wrote; None of a store without heads or MLPs."""
    meta = here.meta
    if not keeps_parts(meta) or not here.store.done_shards():
        return None
    return here.cached("shares", lambda: shares(here.store, READ))


def _by_share(here: Opened) -> Matrix:
    found = shares_of(here)
    title = "Share of the embedding"
    if found is None:
        return Matrix("share", title, "", lacking="The store has no heads and MLPs to compare.")
    said = (
        "Per cent of the embedding that each part wrote, its contribution projected on the "
        f"embedding: means over {found.images:,} images, spread evenly. With the start and the "
        f"constants ({100 * found.constants:.1f}%) they sum to 100%; negative ones point away."
    )
    return Matrix(
        "share", title, said, "%", 100.0, found.heads, found.mlps[1:], float(found.mlps[0])
    )


def _by_variance(here: Opened) -> Matrix:
    title = "Variance"
    found = find_reductions(here.url, here.meta, None)
    if found is None or "heads_pca_variance" not in found.data:
        lacking = "The variances of heads are not reduced yet."
        return Matrix("variance", title, "", lacking=lacking, command=here.hint("reduce"))
    heads = here.cached("head variances", lambda: head_variances(found))
    mlps = None
    if "mlps_covariance" in found.data:
        mlps = here.cached("mlp variances", lambda: mlp_variances(here, found))
    said = (
        "How much what each part writes differs between images, whatever the text: the trace of "
        "its covariance in the joint space, in thousandths of the squared length of an embedding, "
        f"over {found.count():,} images."
    )
    start = None if mlps is None else float(mlps[0])
    return Matrix(
        "variance", title, said, "‰", 1000.0, heads, None if mlps is None else mlps[1:], start
    )


def mlp_variances(here: Opened, found: Reductions) -> Values:
    """Trace of every block's covariance in the joint space, (block,): ``tr(C · map mapᵀ)``."""
    maps = here.store.model()["mlp_map"].values.astype(float)
    products = maps @ maps.T
    covariance = found.array("mlps_covariance")
    blocks = range(here.meta.layers + 1)
    return np.array([(covariance.isel(block=b).values * products).sum() for b in blocks])


def _by_label(here: Opened, labels: Result) -> Matrix:
    table = here.cached(("rows of labels", labels.url), lambda: labels.table("labels").to_pylist())
    shape = (here.meta.layers, here.meta.heads)
    explained, names = np.full(shape, np.nan), np.full(shape, None, object)
    for row in table:
        explained[row["layer"], row["head"]] = row["explained"]
        names[row["layer"], row["head"]] = row["label"]
    given = [name for name in names.ravel() if name is not None]
    often = sorted(set(given), key=lambda name: (-given.count(name), name))
    colours = {name: (*CATEGORIES, OTHER)[min(i, len(CATEGORIES))] for i, name in enumerate(often)}
    said = (
        f"What each head is about, as {labels.provenance['judge']} judges by its texts, and the "
        "per cent of its variance that these texts explain. MLPs have no labels."
    )
    rows = tuple(map(tuple, names.tolist()))
    return Matrix("label", "Labels", said, "%", 100.0, explained, labels=rows, colours=colours)


def _by_property(here: Opened, labels: Result, colour: str) -> Matrix:
    name = colour.removeprefix(PROPERTY)
    values = np.full((here.meta.layers, here.meta.heads), np.nan)
    for layer, head, of, part in parts_of(here, labels):
        if of == name:
            values[layer, head] = part
    said = (
        f"Per cent of each head's variance that the first texts of the property {name!r} explain. "
        "MLPs were not held to properties."
    )
    return Matrix(colour, f"Property: {name}", said, "%", 100.0, values)
