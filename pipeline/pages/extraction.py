"""Sections of the page: what an extraction shows, and what of its moments is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from humanize import naturalsize
from numpy.typing import NDArray
from PIL import Image

from pipeline.heads.names import head_name
from pipeline.heads.shares import SHARDS, Shares
from pipeline.images.again import load_again
from pipeline.images.errors import BadImage, SourceUnavailable
from pipeline.status import ExtractionStatus
from pipeline.subsets import spread
from pipeline.telling import several
from storage.layout import bytes_per_image
from storage.reductions import Reductions
from storage.store import Store

from . import notes, sentences
from .figures import residual_figure, share_figures
from .html import Made, Section, section
from .pictures import data_url

# Images of the store that the page shows, and heads that a table names.
PICTURES, LISTED = 24, 10
# Heads that a picture names so that they can be found in it.
READABLE = 64


def images_section(store: Store, found: ExtractionStatus, made: Made) -> Section:
    """A few images, spread evenly over the store, and what became of all."""
    meta = store.meta
    shown = spread(range(meta.images), PICTURES)
    some = "" if len(shown) == meta.images else f"{len(shown)} of them, spread evenly. "
    return section(
        "Images",
        f"{some}An image takes {naturalsize(bytes_per_image(meta))} before compression, all of "
        f"them {naturalsize(bytes_per_image(meta) * meta.images)}, in "
        f"{several(meta.shards, 'shard')}.",
        name="images",
        found=sentences.images(found),
        notes=notes.unfinished(found),
        pictures=[picture(store, index) for index in shown],
        made=made,
    )


def exactness_section(store: Store, found: ExtractionStatus) -> Section:
    """How far the parts are from the model's own output."""
    residual, rounding = distances(store)
    return section(
        "How exact the parts are",
        f"Distances of {len(residual):,} images, relative to the length of the model's output.",
        name="exactness",
        found=sentences.exactness(found, store.meta),
        plot=residual_figure(residual, rounding),
        header=("distance", "median", "largest of all images"),
        rows=[
            (
                "as computed",
                sentences.tiny(float(np.median(residual))),
                sentences.tiny(found.residual),
            ),
            (
                "as stored",
                sentences.tiny(float(np.median(rounding))),
                sentences.tiny(found.rounding),
            ),
        ],
    )


def distances(store: Store) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Residual and rounding of the images of some shards, spread evenly."""
    data = store.contributions()
    rows = [slice(*store.meta.rows(s)) for s in spread(sorted(store.done_shards()), SHARDS)]
    residual, rounding = (
        np.concatenate([data[name][at].values for at in rows]) for name in ("residual", "rounding")
    )
    ok = np.isfinite(residual)
    return residual[ok], rounding[ok]


def shares_section(found: Shares, images: int, reading: str) -> Section:
    """Which parts wrote the embedding of a model that is read so."""
    # A class token and a pool's queries begin as parameters, what is averaged as patches.
    same = reading in ("class-token", "attention-pool")
    most = LISTED if found.heads.size > READABLE else 0  # the picture is a table of its own
    order = np.argsort(-found.heads, axis=None)[:most]
    largest = [divmod(int(at), found.heads.shape[1]) for at in order]
    return section(
        "Which layers and heads wrote the embedding",
        "Share of the embedding that each part wrote, its contribution projected on the embedding: "
        "all shares sum to 100%, a negative one points away. The start is what stands before the "
        f"first layer{', the same for every image' if same else ', another of every image'}.",
        name="shares",
        found=sentences.written(found, images),
        plot=share_figures(found),
        header=("head", "wrote, % of the embedding"),
        rows=[(head_name(*at), f"{100 * found.heads[at]:.1f}") for at in largest],
    )


def moments_section(found: Sequence[Reductions]) -> Section:
    """Which subsets' means and covariances are kept."""
    rows = [
        (
            r.facts.where or "all images",
            ", ".join(sorted(r.facts.shards)),
            f"{max(r.count(name) for name in r.facts.shards if name != 'patches'):,}",
        )
        for r in found
    ]
    return section(
        "Means and covariances that are kept",
        "Of what each part wrote, on the published scale; further jobs start from them.",
        name="moments",
        found=f"Moments of {several(len(found), 'set')} of images are kept.",
        header=("images", "of what", "images counted"),
        rows=rows,
    )


def picture(store: Store, index: int, said: str = "") -> tuple[str, str]:
    """An image in the page, with what stands below: its caption, label or key, unless given."""
    row = store.images(index, index + 1).to_pylist()[0]
    return data_url(thumbnail(store, index)), said or row["caption"] or row["label"] or row["key"]


def thumbnail(store: Store, index: int) -> Image.Image:
    """An image, at most 128 pixels wide; grey where it cannot be read or is another now."""
    try:
        image = load_again(store, index)
    except (BadImage, SourceUnavailable):
        return Image.new("RGB", (64, 64), "lightgrey")
    image.thumbnail((128, 128))
    return image
