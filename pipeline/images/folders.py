"""Folders of image files.

The first folder of an image's path below the root is its label (as in ImageNet); images
that lie in the root itself have none. Keys are paths relative to the root. The order is
that of the root's own files, then sub-folder by sub-folder, by name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from storage.objects import is_local, object_store

from .errors import SourceError
from .files import below, inside, with_retries
from .rows import ListingReport, Piece, clean, image_table, is_hidden, is_image_name

ListedFile = tuple[str, int | None]  # path relative to the piece's root, bytes if known
NAMES_PER_PIECE = 10_000


def folder_pieces(root: str) -> list[Piece]:
    """The root's own files, and one piece for each of its sub-folders."""
    if is_local(root):
        try:
            entries = sorted(os.scandir(root), key=lambda e: e.name)
        except OSError as error:
            raise SourceError(f"{root} cannot be listed: {error.strerror}") from error
        folders = [e.name for e in entries if not is_hidden(e.name) and _is_folder(e)]
        empty = not entries
    else:
        found = list(_ls_remote(root))
        names = {name for name, info in found if info["type"] == "directory"}
        folders, empty = sorted(n for n in names if not is_hidden(n)), not found
    if empty:
        raise SourceError(f"{root} is an empty folder: there is no image to list.")
    own = Piece("folder", root, "", root)
    return [own] + [Piece("folder", inside(root, name), f"{name}/", root) for name in folders]


def file_pieces(urls: list[str], root: str) -> list[Piece]:
    """Image files named one by one, keyed by their paths below ``root``."""
    names = [below(root, url) for url in urls]
    runs = [names[i : i + NAMES_PER_PIECE] for i in range(0, len(names), NAMES_PER_PIECE)]
    return [Piece("folder", root, f"{root}/{i}", root, tuple(r)) for i, r in enumerate(runs)]


def list_folder(piece: Piece) -> tuple[pa.Table, ListingReport]:
    """Rows of one folder; ``offset`` is null: the image is the whole file."""
    report = ListingReport()
    found: Iterator[ListedFile]
    deep = piece.url != piece.root
    if piece.names:
        found = ((name, None) for name in piece.names)
    elif is_local(piece.url):
        above = frozenset([os.path.realpath(piece.root)]) if deep else frozenset()
        found = _walk_local(piece.url, piece.root, deep, above, report)
    else:
        found = _walk_remote(piece) if deep else _files_remote(piece, report)
    rows = []
    for path, size in found:
        uri = inside(piece.root, path)
        if not _encodable(path):
            report.add("file name is not UTF-8", path)
        elif is_hidden(path):
            report.add("hidden file or folder", path)
        elif path.endswith("/") or not path:
            report.add("object whose name ends in /, as those that stand for folders", uri)
        elif path.lower().endswith((".tar", ".parquet")):
            report.add("tar or Parquet file in a folder (name such files, as in DIR/*.tar)", path)
        elif not is_image_name(path):
            report.add("not an image file", path)
        else:
            label = path.split("/")[0] if "/" in path else ""
            rows.append(
                {
                    "key": path,
                    "uri": uri,
                    "offset": None,
                    "length": size,
                    "label": label or None,  # object stores have folders without a name
                    "caption": None,
                }
            )
    return image_table(rows, [], report), report


def _walk_local(
    folder: str, root: str, deep: bool, above: frozenset[str], report: ListingReport
) -> Iterator[ListedFile]:
    """Files below ``folder`` in order. Links to folders are followed, except back up."""
    real = os.path.realpath(folder)
    if real in above:
        report.add("link to a folder that it lies in", os.path.relpath(folder, root))
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        report.add(f"folder cannot be read ({error.strerror})", os.path.relpath(folder, root))
        return
    for entry in entries:
        path = entry.path[len(root.rstrip("/")) + 1 :]
        try:
            status = entry.stat()
        except OSError:
            yield path, None  # a broken link: reading it will tell why
            continue
        if stat.S_ISDIR(status.st_mode):
            if is_hidden(entry.name):
                report.add("hidden file or folder", clean(path))
            elif deep:
                yield from _walk_local(entry.path, root, deep, above | {real}, report)
        elif stat.S_ISREG(status.st_mode):
            yield path, status.st_size
        else:
            report.add("not a regular file", clean(path))


def _ls_remote(root: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What lies directly below a prefix; the same name may be an object and a folder."""
    fs, path = object_store(root)
    fs.invalidate_cache()  # a Ray worker may have listed it before
    for info in with_retries(lambda: fs.ls(path, detail=True), root):
        name = below(path.rstrip("/"), info["name"])
        yield name.rstrip("/") if info["type"] == "directory" else name, info


def _files_remote(piece: Piece, report: ListingReport) -> Iterator[ListedFile]:
    """Objects directly below the root."""
    for name, info in sorted(_ls_remote(piece.url), key=lambda found: found[0]):
        if info["type"] == "file":
            yield name, info["size"]
        elif is_hidden(name):
            report.add("hidden file or folder", name)


def _walk_remote(piece: Piece) -> Iterator[ListedFile]:
    """Objects below a folder, however deep."""
    fs, root = object_store(piece.root)
    fs.invalidate_cache()
    root, name = root.rstrip("/"), below(piece.root, piece.url)
    if name:
        found = with_retries(lambda: fs.find(inside(root, name), detail=True), piece.url)
    else:  # a folder without a name, which no path but only a prefix can say
        found = with_retries(lambda: fs.find(root, prefix="/", detail=True), piece.url)
    start = inside(root, f"{name}/")
    files = {
        below(root, path): info["size"]
        for path, info in found.items()
        if info["type"] == "file" and path.startswith(start)
    }
    yield from sorted(files.items(), key=lambda item: item[0].split("/"))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _encodable(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
