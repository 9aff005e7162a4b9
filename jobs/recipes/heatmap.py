"""The recipe of ``facet heatmap``: maps of one picture, from what is stored or one pass."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from jobs.console import TELLER, console
from jobs.heatmap import Asked, HeatmapConfig
from jobs.scaffold import found_or_made, save, show_done
from jobs.settings import command
from jobs.steps import embedded, opened
from pipeline.heads.choices import Head
from pipeline.heads.edits import edits_digest
from pipeline.heatmaps.found import HEATMAPS, PICTURE, HeatMaps, of_texts, read
from pipeline.heatmaps.joint import of_heads, span_texts
from pipeline.heatmaps.seen import Seen, see_file, see_image
from pipeline.heatmaps.split import is_stored, shares_of, split_of, stored_split
from pipeline.pages import tables
from pipeline.texts.classes import texts_digest
from storage import urls
from storage.errors import FacetError
from storage.results import Result
from storage.store import Store

JOB = "heatmap"


@dataclass(frozen=True, eq=False)
class HeatmapRun:
    """What was found."""

    result: Result
    found: HeatMaps


def run(config: HeatmapConfig, asked: Asked) -> HeatmapRun:
    """Draw the maps, or find those that were drawn before; print their figures."""
    started = time.monotonic()
    store = opened(config.store)
    if asked.image is None:
        seen = see_file(store.meta, config.picture or "", asked.data)
    else:
        seen = see_image(store, asked.image)
    stored = (
        is_stored(store.meta, asked.layers)
        and seen.finished
        and not asked.heads
        and config.convention == "centred"
        and asked.edit is None
    )
    if seen.unreadable is not None and not stored:
        raise FacetError(
            f"`image` {config.image} is not to be had as it was ({seen.unreadable}), and the store "
            "does not keep what is asked for: the model would have to see it"
        )
    span, own = None, None
    if asked.pool is not None:
        span, own = span_texts(store, asked.pool, asked.heads)
    identity = {
        "store": store.meta.digest(),
        "picture": [seen.name, hashlib.sha256(seen.pixels.tobytes()).hexdigest()],
        "stored": stored,
        "texts": list(asked.texts),
        "against": asked.against,
        "layers": list(asked.layers),
        "heads": [list(at) for at in asked.heads],
        "convention": config.convention,
        "textspan": None if span is None else span.name,
        "less": None if asked.less is None else texts_digest(asked.less.texts),
    }
    if asked.edit is not None:
        identity["edit"] = edits_digest([asked.edit])

    def draw() -> Result:
        urls.check_writable(store.url)
        maps, table = find(config, asked, store, seen, stored, own)
        found = HeatMaps(
            picture=seen.name,
            image=seen.image,
            unreadable=seen.unreadable,
            layers=list(asked.layers),
            heads=["{}.{}".format(*at) for at in asked.heads],
            convention=config.convention,
            less=None if asked.less is None else asked.less.source,
            stored=stored,
            maps=maps,
            table=table,
            pixels=seen.pixels,
            edit=None if asked.edit is None else asked.edit.name,
        )
        return keep(config, store, found, identity)

    result = found_or_made(store.url, JOB, identity, draw)
    found = read(result)
    console.print(tables.heatmaps(found))
    facts = {
        "picture": found.picture,
        "maps": f"{len(found.maps)}, of {found.maps.shape[1]} × {found.maps.shape[2]} patches",
        "from": "what the store keeps" if found.stored else "one pass of the model",
        "page": urls.join(result.url, PAGE),
    }
    if found.unreadable is not None:
        facts["drawn grey"] = f"the picture is not to be had as it was: {found.unreadable}"
    following = command("report", store=config.store)
    show_done(facts, time.monotonic() - started, result, following)
    return HeatmapRun(result, found)


PAGE = "heatmap.html"


def find(
    config: HeatmapConfig,
    asked: Asked,
    store: Store,
    seen: Seen,
    stored: bool,
    own: Mapping[Head, Sequence[str]] | None,
) -> tuple[NDArray[np.float64], pd.DataFrame]:
    """Maps and their figures; the model is loaded for what is neither stored nor kept."""
    from pipeline.texts.encoding import TextEncoder

    encoder = TextEncoder(store, config.pretrained)
    if own is None:
        texts, against = list(asked.texts), asked.against
        given = texts if against is None else [*texts, against]
        encoder.refuse_long(given)
        vectors = embedded(encoder, "texts of a heat map", given).embeddings
    else:
        assert asked.pool is not None
        texts = list(dict.fromkeys(text for of_head in own.values() for text in of_head))
        at = {text: row for row, text in enumerate(asked.pool.texts)}
        rows = embedded(encoder, asked.pool.source, asked.pool.texts).embeddings
        vectors = rows[[at[text] for text in texts]]
    if asked.less is not None:
        classes = embedded(encoder, asked.less.source, asked.less.texts).embeddings
        vectors = np.vstack([vectors, classes.mean(0, keepdims=True)])
    if stored:
        assert seen.image is not None
        return of_texts(stored_split(store, seen.image, vectors), texts, asked.against or "")
    model = encoder.model("sees the picture", TELLER)
    shares = shares_of(model, seen.pixels, vectors, asked.layers, config.convention, asked.edit)
    if own is None:
        split = split_of(shares, asked.layers, asked.heads or None)
        return of_texts(split, texts, asked.against or "")
    splits = {at: split_of(shares, asked.layers, [at]) for at in asked.heads}
    return of_heads(splits, texts, own)


def keep(config: HeatmapConfig, store: Store, found: HeatMaps, identity: dict[str, Any]) -> Result:
    """Keep arrays, table, pictures and their page."""
    # What was found before is shown without torch.
    from pipeline.models.arithmetic import TF32
    from pipeline.pages.heatmaps import heatmap_page, overlays

    facts = found.facts() | ({} if found.stored else {"tf32": TF32})
    pictures = {PICTURE: Image.fromarray(found.pixels)}
    pictures |= {f"map-{i:02d}.png": image for i, image in enumerate(overlays(found))}
    files = {name: png(image) for name, image in pictures.items()}
    return save(
        store.url, JOB, config, facts,
        identity=identity,
        tables={"maps": found.table},
        schemas=HEATMAPS,
        arrays={"maps": found.arrays()},
        files={**files, PAGE: heatmap_page(found, store.meta).encode()},
    )  # fmt: skip


def png(image: Image.Image) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
