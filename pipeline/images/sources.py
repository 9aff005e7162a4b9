"""SOURCE strings: what they name, in pieces that one task each can list.

==================================  ===================================================
``photos/``                         folder; a first sub-folder is the label
``photos/*.jpg``                    image files
``laion/{00000..00010}.tar``        WebDataset tars
``s3://bucket/part-*.parquet``      Parquet files with images or paths
``photos/metadata.csv``            tables of image files
``waterbirds:FOLDER``               WILDS' Waterbirds, with its groups
``microworld:n=2000,seed=7``        the embedded world
``gtsegs:gtsegs_ijcv.mat``          ImageNet-Segmentation's file, with its masks
==================================  ===================================================

Order is by URL, code point by code point, whatever the machine. A path that exists, and a
folder on the way to it, is taken as it stands, even if it holds wildcards or braces.
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from braceexpand import braceexpand

from storage.objects import is_local, object_store
from storage.urls import absolute

from .csvs import PREFIX as WATERBIRDS
from .csvs import csv_piece, list_csv, list_waterbirds, waterbirds_pieces
from .errors import SourceError
from .files import (
    below,
    glob,
    has_wildcard,
    holds_files,
    inside,
    kind_of,
    standing,
    with_retries,
)
from .folders import file_pieces, folder_pieces, list_folder
from .gtsegs import PREFIX as GTSEGS
from .gtsegs import gtsegs_pieces, list_gtsegs
from .micro import PREFIX, list_microworld, microworld_pieces
from .parquet import list_parquet, parquet_piece
from .rows import ListingReport, Piece, is_image_name
from .tars import list_tar, tar_piece

LISTERS = {
    "folder": list_folder,
    "tar": list_tar,
    "parquet": list_parquet,
    "csv": list_csv,
    "waterbirds": list_waterbirds,
    "microworld": list_microworld,
    "gtsegs": list_gtsegs,
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
    if source.startswith(GTSEGS):
        return gtsegs_pieces(source)
    if source.startswith(WATERBIRDS):
        return waterbirds_pieces(source)
    if not source.strip():
        raise SourceError("The image source is empty: name a folder, tars, Parquet files or URLs.")
    found: dict[str, list[str]] = defaultdict(list)
    roots: dict[str, str] = {}
    for url, (root, is_folder) in _expand(source).items():
        found["folder" if is_folder else _kind(url)].append(url)
        roots[url] = root
    _refuse(source, found)
    if "tar" in found:
        return [tar_piece(url) for url in found["tar"]]
    if "parquet" in found:
        return [parquet_piece(url) for url in found["parquet"]]
    if "csv" in found:
        return [csv_piece(url) for url in found["csv"]]
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
            result.append(Piece("folder", url, f"{below(roots[url], url)}/", roots[url]))
    return result


def list_piece(piece: Piece) -> tuple[pa.Table, ListingReport]:
    """The rows of a piece (the image table without ``index``) and what was left out."""
    return with_retries(lambda: LISTERS[piece.kind](piece), piece.url)


def _expand(source: str) -> dict[str, tuple[str, bool]]:
    """Every URL that the source names, sorted: the root of its keys, and whether it is a folder."""
    if not is_local(absolute(source)):
        object_store(source)[0].invalidate_cache()  # what an earlier listing saw may be gone
    plain, patterns = _names(source.removeprefix("file://"))
    result: dict[str, tuple[str, bool]] = {}
    with ThreadPoolExecutor(32) as pool:
        kinds = dict(zip(plain, pool.map(kind_of, plain), strict=True))
    missing = [name for name, kind in kinds.items() if kind is None]
    if missing:
        shown = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        raise SourceError(
            f"{source}: {len(missing)} of {len(plain) + len(patterns)} paths do not exist: "
            f"{shown}. Check the spelling, or leave them out."
        )
    for name, kind in kinds.items():
        # A prefix of objects may be the name of an object, too.
        is_folder = kind == "directory" or (_kind(name) == "other" and holds_files(name))
        result[name] = (name if is_folder else name.rpartition("/")[0] or "/", is_folder)
    for folder, pattern in patterns:
        matches = glob(folder, pattern)
        if not matches:
            raise SourceError(f"{source}: nothing matches {inside(folder, pattern)}.")
        parts = pattern.split("/")
        first = next(i for i, part in enumerate(parts) if has_wildcard(part))
        root = inside(folder, "/".join(parts[:first])) if first else folder
        result |= {url: (root, is_folder) for url, is_folder in matches.items()}
    return dict(sorted(result.items()))


def _names(source: str) -> tuple[list[str], list[tuple[str, str]]]:
    """URLs, and patterns below folders: braces expanded, but not those of names that exist."""
    stands = standing(source)
    rest = source[stands:]
    try:
        expanded = list(braceexpand(rest)) if rest else [""]
    except ValueError as error:
        raise SourceError(f"{source}: unbalanced braces ({error}).") from error
    plain, patterns = [], []
    for end in expanded:
        name = source[:stands] + end
        cut = stands if end == rest else standing(name)
        if not has_wildcard(name[cut:]):
            plain.append(absolute(name))
        elif cut or is_local(name):
            patterns.append((absolute(name[:cut] or "."), name[cut:].rstrip("/")))
        else:
            raise SourceError(f"{name}: name the bucket; wildcards may stand after it.")
    return sorted(set(plain)), patterns


def _kind(url: str) -> str:
    """What the name of a file says that it is."""
    lower = url.lower()
    if lower.endswith(".tar"):
        return "tar"
    if lower.endswith((".parquet", ".pq")):
        return "parquet"
    if lower.endswith(".csv"):
        return "csv"
    return "image" if is_image_name(lower) else "other"


def _refuse(source: str, found: dict[str, list[str]]) -> None:
    if "other" in found:
        names = ", ".join(found["other"][:SHOWN])
        raise SourceError(
            f"{source}: {names} is neither a folder, .tar, .parquet, .csv nor an image that Pillow "
            "reads. A compressed tar has to be unpacked to a plain .tar first."
        )
    if len(found) > 1:
        counts = ", ".join(f"{len(urls)} {kind}" for kind, urls in sorted(found.items()))
        raise SourceError(
            f"{source} matches several kinds of things ({counts}). Narrow it to one, as in *.tar."
        )
