"""The map of a head, and what lies in a region of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.explorer.cloud import Box, Cloud, cloud
from pipeline.explorer.colouring import legend
from pipeline.explorer.columns import names, said
from pipeline.explorer.head_rows import refuse_head
from pipeline.explorer.library import Opened
from pipeline.explorer.pools import pool_of
from pipeline.explorer.region import Commons, RegionTexts, commons, region_texts
from pipeline.explorer.spaces import judged_labels
from pipeline.heads.names import head_name
from pipeline.subsets import spread
from storage.errors import FacetError

# Images of a region that are shown.
PICTURES = 24


@dataclass(frozen=True)
class Shown:
    """An image with what stands below it.

    Attributes
    ----------
    index : int
    said : str
        Its label, or its number.
    score : float or None
        Along a component, on the published scale.
    """

    index: int
    said: str
    score: float | None


@dataclass(frozen=True)
class MapFacts:
    """What a map of images shows.

    Attributes
    ----------
    images, of : int
        How many images it has, and how many are finished and ok.
    indexed : bool
    whole : Box
        Of nearly all points.
    shares : tuple of float
        Of the head's variance, across and upwards.
    """

    images: int
    of: int
    indexed: bool
    whole: Box
    shares: tuple[float, ...]


def map_facts(points: Cloud) -> MapFacts:
    """What a map of these points shows."""
    return MapFacts(points.images, points.of, points.indexed, points.whole, points.shares)


@dataclass(frozen=True)
class Region:
    """A region of a map.

    Attributes
    ----------
    box : Box
    images : int
        That lie in it.
    pictures : tuple of Shown
        Some of them, spread evenly over the store.
    commons : Commons
    texts : RegionTexts or None
        None where no pool was embedded.
    pool : str
        What the texts are of.
    """

    box: Box
    images: int
    pictures: tuple[Shown, ...]
    commons: Commons
    texts: RegionTexts | None
    pool: str


@dataclass(frozen=True)
class MapView:
    """The map of a head.

    Attributes
    ----------
    layer, head : int
    name : str
    label : str or None
        What the head is about.
    map : MapFacts or None
        None where its principal components are not known.
    colour : str
        The column by which points are coloured; empty where it is by their number.
    columns : tuple of str
        Those that may be chosen.
    legend : tuple of (str, str)
        Colours, as SVG has them, and what has them.
    region : Region or None
        What was chosen.
    missing : dict of str to str
    """

    layer: int
    head: int
    name: str
    label: str | None
    map: MapFacts | None
    colour: str
    columns: tuple[str, ...]
    legend: tuple[tuple[str, str], ...]
    region: Region | None
    missing: dict[str, str]


def map_view(
    here: Opened, layer: int, head: int, edges: Sequence[float | None], colour: str
) -> MapView:
    """The map of a head, and what lies in a region of it.

    Parameters
    ----------
    edges : four of float or None
        x0, x1, y0, y1 of a region; all of them, or none.
    colour : str
        A column; empty for none.

    Raises
    ------
    NotHere
        If there is no such head or column.
    FacetError
        If the edges are no box.
    """
    refuse_head(here, layer, head)
    points = cloud(here, layer, head)
    box = box_of(edges)
    label = judged_labels(here).get((layer, head))
    name, columns = head_name(layer, head), names(here)
    if points is None:
        missing = {"reduce": here.hint("reduce")}
        return MapView(layer, head, name, label, None, colour, columns, (), None, missing)
    found = None if box is None else region(here, layer, head, points, box)
    missing = {}
    if points.images < points.of:
        missing["index"] = here.hint("index")
    if found is not None and found.texts is None:
        missing["textspan"] = here.hint("textspan")
    return MapView(
        layer, head, name, label, map_facts(points), colour, columns,
        legend(here, colour) if colour else (), found, missing,
    )  # fmt: skip


def region(here: Opened, layer: int, head: int, points: Cloud, box: Box) -> Region:
    """What lies in a region of a map."""
    images = points.inside(box)
    described = here.latest("textspan")
    pool = None if described is None else pool_of(here, described)
    texts = None
    if pool is not None and len(images):
        texts = region_texts(here, layer, head, images, pool)
    some = spread(images.tolist(), PICTURES)
    pictures = tuple(Shown(image, said(here, image), None) for image in some)
    common = commons(here, points, images)
    return Region(box, len(images), pictures, common, texts, "" if pool is None else pool.source)


def box_of(edges: Sequence[float | None]) -> Box | None:
    """The box that an address names; None where it names none.

    Raises
    ------
    FacetError
        If it is none.
    """
    given = [float(edge) for edge in edges if edge is not None]
    if not given:
        return None
    if (
        len(given) < 4
        or not np.isfinite(given).all()
        or given[0] >= given[1]
        or given[2] >= given[3]
    ):
        raise FacetError("a region of the map is x0 < x1 and y0 < y1: give all four, as numbers")
    return Box(*given)
