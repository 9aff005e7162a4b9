"""All images of a store as points: what one head writes, along its first principal components."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.head_rows import head_rows
from pipeline.explorer.library import Opened
from pipeline.explorer.passes import PASS
from storage.reductions import find_reductions

# Principal components along which points are kept: two are drawn, and one more is looked at.
COMPONENTS = 3
# Of the points, those far out are not what a map is first seen at: this share on either side.
MARGIN = 0.0005


@dataclass(frozen=True)
class Box:
    """A rectangle of the plane of two components, in units of the published scale."""

    x0: float
    x1: float
    y0: float
    y1: float


@dataclass(frozen=True, eq=False)
class Cloud:
    """Images along a head's first principal components.

    Attributes
    ----------
    along_pn : (P, images of the store) float32
        Their scores, the mean of all taken off; NaN of images that are not ok or were not read.
    shares : tuple of float
        Of the head's variance, what each component has.
    images, of : int
        How many images it shows; how many are finished and ok.
    indexed : bool
        Whether they come from the head's index.
    """

    along_pn: NDArray[np.float32]
    shares: tuple[float, ...]
    images: int
    of: int
    indexed: bool

    def best(self, component: int, top: int, lowest: bool = False) -> NDArray[np.int64]:
        """Images that are highest, or lowest, along a component; the first of the store first."""
        along_n = self.along_pn[component]
        seen = np.flatnonzero(~np.isnan(along_n))
        values = along_n[seen] if lowest else -along_n[seen]
        if top < len(values):
            near = np.partition(values, top - 1)[top - 1]
            kept = np.flatnonzero(values <= near)
            seen, values = seen[kept], values[kept]
        return seen[np.lexsort((seen, values))][:top]

    def inside(self, box: Box) -> NDArray[np.int64]:
        """The images in a rectangle of the plane, rising."""
        x, y = self.along_pn[:2]
        return np.flatnonzero((x >= box.x0) & (x <= box.x1) & (y >= box.y0) & (y <= box.y1))

    @cached_property
    def whole(self) -> Box:
        """The square that holds nearly all points: those furthest out are few, and a map that has
        to show them shows nothing else. Both axes have one scale, so that distances are true."""
        ends = []
        for along_n in self.along_pn[:2]:
            seen = along_n[~np.isnan(along_n)]
            if not len(seen):
                return Box(-1.0, 1.0, -1.0, 1.0)
            cut = int(MARGIN * len(seen))
            last = len(seen) - 1 - cut
            seen = np.partition(seen, (cut, last))
            ends.append((float(seen[cut]), float(seen[last])))
        half = max(high - low for low, high in ends) * 0.525 or 1.0
        x, y = ((low + high) / 2 for low, high in ends)
        return Box(x - half, x + half, y - half, y + half)


def cloud(here: Opened, layer: int, head: int) -> Cloud | None:
    """The points of a head, made once; None where its principal components are not known.

    Raises
    ------
    NotHere
        If there is no such head.
    """
    found: Cloud | None = here.cached(("cloud", layer, head), lambda: project(here, layer, head))
    return found


def project(here: Opened, layer: int, head: int) -> Cloud | None:
    """See `cloud`: one pass over what the head wrote.

    With y the coordinates of an image and p a component in the joint space, the score is
    ⟨y − mean, Q p⟩, where Q takes the joint space to the coordinates.
    """
    rows = head_rows(here, layer, head)
    reductions = find_reductions(here.url, here.meta, None)
    if reductions is None or "heads_pca" not in reductions.data:
        return None
    count = min(COMPONENTS, reductions.data.sizes["head_component"])
    pca = reductions.head_pca(layer, head, count)
    axes_rp = rows.coordinates.texts_re @ pca["components"].values.T.astype(np.float32)
    total = float(reductions.array("heads_pca_variance").values[layer, head].sum())
    mean_e = reductions.head_mean(layer, head).values
    middle_p = (pca["components"].values @ mean_e).astype(np.float32)
    along_pn = np.full((count, here.meta.images), np.nan, np.float32)
    with PASS:
        for start, values in rows.read():
            along_pn[:, start : start + len(values)] = (values @ axes_rp - middle_p).T
    shares = tuple(float(v) / total if total else 0.0 for v in pca["variance"].values)
    images = int((~np.isnan(along_pn[0])).sum())
    return Cloud(along_pn, shares, images, reductions.count("heads"), rows.facts is not None)
