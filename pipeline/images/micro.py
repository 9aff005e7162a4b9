"""The embedded world as a source: ``microworld:n=2000,seed=7,split=test``.

Listing samples scenes but renders no pixels. Defaults: ``n=1000,seed=0,split=test``.
"""

from __future__ import annotations

import difflib
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.microworld.captions import caption
from pipeline.microworld.draw import picture
from pipeline.microworld.world import SPLITS, generator, sample_scene

from .errors import SourceError
from .rows import ListingReport, Piece, image_table

PREFIX = "microworld:"
DEFAULTS = {"n": "1000", "seed": "0", "split": "test"}
PIECE = 8192
KEPT = (
    512  # pictures with their masks, 8 MiB: whoever wants both asks for one batch after the other
)


def parse(text: str) -> tuple[int, int, str]:
    """``(n, seed, split)`` of a microworld source or row."""
    given: dict[str, str] = {}
    for part in filter(None, text.removeprefix(PREFIX).split(",")):
        name, equals, value = (p.strip() for p in part.partition("="))
        if name not in DEFAULTS:
            near = difflib.get_close_matches(name, DEFAULTS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise SourceError(
                f"{text}: the microworld has no option {name!r}.{hint} "
                f"Options: n (pictures), seed, split ({', '.join(SPLITS)})."
            )
        if name in given or not equals:
            raise SourceError(f"{text}: write {name}=VALUE, once.")
        given[name] = value
    options = DEFAULTS | given
    if options["split"] not in SPLITS:
        near = difflib.get_close_matches(options["split"], SPLITS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SourceError(
            f"{text}: no split {options['split']!r}.{hint} Splits: {', '.join(SPLITS)}."
        )
    return _whole(text, options, "n", 1), _whole(text, options, "seed", 0), options["split"]


def _whole(text: str, options: dict[str, str], name: str, least: int) -> int:
    value = options[name]
    if not (value.isascii() and value.isdigit()) or int(value) < least:
        raise SourceError(f"{text}: {name} is {value!r}; it must be a whole number >= {least}.")
    return int(value)


def microworld_pieces(source: str) -> list[Piece]:
    """Ranges of at most ``PIECE`` pictures."""
    n, seed, split = parse(source)
    uri = f"{PREFIX}seed={seed},split={split}"
    return [
        Piece("microworld", uri, f"{uri}/{start}", start=start, stop=min(start + PIECE, n))
        for start in range(0, n, PIECE)
    ]


def list_microworld(piece: Piece) -> tuple[pa.Table, ListingReport]:
    """Rows with every attribute of the scene; ``offset`` is the picture's index."""
    _, seed, split = parse(piece.url)
    rows, metadata = [], []
    for index in range(piece.start, piece.stop):
        scene = sample_scene(generator(seed, split, index), split)
        # The trailing 1 keeps the caption's draws apart from the scene's own.
        words = caption(scene, np.random.default_rng([seed, SPLITS.index(split), index, 1]))
        rows.append(
            {
                "key": f"{split}-{seed}/{index:08d}",
                "uri": piece.url,
                "offset": index,
                "length": None,
                "label": scene.shape,
                "caption": words,
            }
        )
        group = f"{scene.shape}/{scene.background}"
        said = {"split": split, "group": group, "mask": "microworld"}
        metadata.append({**said, **scene.labels()})
    report = ListingReport()
    return image_table(rows, metadata, report), report


def pixel_bytes(uri: str, index: int) -> bytes:
    """The rendered picture: 64 x 64 x 3 bytes, row by row."""
    return _drawn(uri, index)[0]


def mask(uri: str, index: int) -> NDArray[np.uint8]:
    """Its objects: (64, 64), 0 and 1."""
    return _drawn(uri, index)[1]


@lru_cache(maxsize=KEPT)
def _drawn(uri: str, index: int) -> tuple[bytes, NDArray[np.uint8]]:
    _, seed, split = parse(uri)
    pixels, objects, _ = picture(seed, split, index)
    return pixels.tobytes(), objects.astype(np.uint8)
