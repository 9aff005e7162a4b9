"""SOURCE strings: what they name, in pieces that one task each can list.

==================================  ===================================================
``photos/``                         folder; a first sub-folder is the label
``photos/*.jpg``                    image files
``laion/{00000..00010}.tar``        WebDataset tars
``s3://bucket/part-*.parquet``      Parquet files with images or paths
``microworld:n=2000,seed=7``        the embedded world
==================================  ===================================================

Order is by URL, code point by code point, whatever the machine. A path that exists is
taken as it stands, even if it holds wildcards or braces.
"""

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from braceexpand import braceexpand

from .errors import SourceError
from .files import (
    GLOB_CHARACTERS,
    absolute,
    filesystem,
    glob,
    glob_root,
    is_local,
    kind_of,
    with_retries,
)
from .folders import file_pieces, folder_pieces, list_folder
from .micro import PREFIX, list_microworld, microworld_pieces
from .parquet import list_parquet, parquet_piece
from .rows import ListingReport, Piece, is_image_name
from .tars import list_tar, tar_piece

LISTERS = {
    "folder": list_folder,
    "tar": list_tar,
    "parquet": list_parquet,
    "microworld": list_microworld,
}
SHOWN = 3


def pieces(source: str) -> list[Piece]:
    """The pieces of a source, in order.

    Raises
    ------
    SourceError
        If it names nothing, several kinds of things, or something that holds no images.
    """
    if source.startswith(PREFIX):
        return microworld_pieces(source)
    if not source.strip():
        raise SourceError("The image source is empty: name a folder, tars, Parquet files or URLs.")
    found: dict[str, list[str]] = defaultdict(list)
    roots: dict[str, str] = {}
    for url, root in _expand(source).items():
        found[_kind(url)].append(url)
        roots[url] = root
    _refuse(source, found)
    if "tar" in found:
        return [tar_piece(url) for url in found["tar"]]
    if "parquet" in found:
        return [parquet_piece(url) for url in found["parquet"]]
    if "image" in found:
        by_root: dict[str, list[str]] = defaultdict(list)
        for url in found["image"]:
            by_root[roots[url]].append(url)
        return [piece for root, urls in by_root.items() for piece in file_pieces(urls, root)]
    result = []
    for url in found["folder"]:
        if roots[url] == url:
            result += folder_pieces(url)
        else:  # matched by a wildcard: its own name is part of the keys, and of the labels
            below = url.removeprefix(roots[url]).strip("/")
            result.append(Piece("folder", url, f"{below}/", roots[url]))
    return result


def list_piece(piece: Piece) -> tuple[pa.Table, ListingReport]:
    """The rows of a piece (the image table without ``index``) and what was left out."""
    return with_retries(lambda: LISTERS[piece.kind](piece), piece.url)


def _expand(source: str) -> dict[str, str]:
    """Every URL that the source names, sorted, with the root that its keys are relative to."""
    whole = absolute(source)
    if is_local(whole) and kind_of(whole):
        return {whole: _root(whole)}
    if not is_local(whole):
        filesystem(whole)[0].invalidate_cache()  # what an earlier listing saw may be gone
    try:
        names = sorted({absolute(name) for name in braceexpand(source)})
    except ValueError as error:
        raise SourceError(f"{source}: unbalanced braces ({error}).") from error
    result: dict[str, str] = {}
    plain = [n for n in names if not any(c in n for c in GLOB_CHARACTERS)]
    with ThreadPoolExecutor(32) as pool:
        kinds = dict(zip(plain, pool.map(kind_of, plain), strict=True))
    missing = [name for name, kind in kinds.items() if kind is None]
    if missing:
        shown = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        raise SourceError(
            f"{source}: {len(missing)} of {len(names)} paths do not exist: {shown}. "
            "Check the spelling, or leave them out."
        )
    for name in names:
        matches = [name] if name in kinds else glob(name)
        if not matches:
            raise SourceError(f"{source}: nothing matches {name}.")
        for url in matches:
            result[url] = _root(url) if name in kinds else glob_root(name)
    return dict(sorted(result.items()))


def _root(url: str) -> str:
    return url if _kind(url) == "folder" else url.rpartition("/")[0] or "/"


def _kind(url: str) -> str:
    lower = url.lower()
    if lower.endswith(".tar"):
        kind = "tar"
    elif lower.endswith((".parquet", ".pq")):
        kind = "parquet"
    elif is_image_name(lower):
        kind = "image"
    else:
        kind = "other"
    if is_local(url):
        return "folder" if os.path.isdir(url) else kind
    # Asking an object store about each of 40,000 tars would take minutes.
    return "folder" if kind == "other" and kind_of(url) == "directory" else kind


def _refuse(source: str, found: dict[str, list[str]]) -> None:
    if "other" in found:
        names = ", ".join(found["other"][:SHOWN])
        raise SourceError(
            f"{source}: {names} is neither a folder, .tar, .parquet nor an image that Pillow "
            "reads. A compressed tar has to be unpacked to a plain .tar first."
        )
    if len(found) > 1:
        counts = ", ".join(f"{len(urls)} {kind}" for kind, urls in sorted(found.items()))
        raise SourceError(
            f"{source} matches several kinds of things ({counts}). Narrow it to one, as in *.tar."
        )
