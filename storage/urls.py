"""Local paths and object-store URLs behind one small set of calls (fsspec underneath)."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from .errors import StoreError
from .objects import (
    MISSING,
    ObjectError,
    is_local,
    is_pattern,
    naming,
    object_store,
    refuse_credentials,
    refuse_unknown,
    remedy,
)

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store as ZarrStore


def absolute(url: str) -> str:
    """The same place, named so that every worker finds it, in whatever folder it runs.

    Raises
    ------
    StoreError
        If credentials are in it, or nothing reads URLs of its kind.
    """
    refuse_credentials(url)
    refuse_unknown(url)
    if not is_local(url):
        return url.rstrip("/")
    path = os.path.join(os.getcwd(), os.path.expanduser(url.removeprefix("file://") or "/"))
    tidy = os.path.normpath(path)
    # What ".." means after a link is known to the system alone.
    if ".." in path and os.path.realpath(tidy) != os.path.realpath(path):
        return path
    return tidy


def join(url: str, *parts: str) -> str:
    return "/".join([url.rstrip("/"), *parts])


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of a URL and the path inside it."""
    if not is_local(url):
        return object_store(url)
    return LocalFileSystem(), absolute(url)


def exists(url: str) -> bool:
    """Whether an object is there; an error is never taken for a no."""
    fs, path = filesystem(url)
    with naming(url, "looked up"):
        try:
            fs.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def read_bytes(url: str) -> bytes:
    if is_local(url):
        return Path(absolute(url)).read_bytes()
    fs, path = filesystem(url)
    with naming(url, "read"):
        # Some object stores are asked for the size first unless a range is named.
        return fs.cat_file(path, start=0)


def read_each(urls: Sequence[str]) -> list[bytes | None]:
    """Many objects of one place, at once where that is quicker; None for those that are not there.

    Parameters
    ----------
    urls : sequence of str
        At least one.
    """
    fs, _ = filesystem(urls[0])
    paths = [fs._strip_protocol(url) for url in urls]
    with naming(urls[0], "read"):
        found = fs.cat_ranges(paths, [0] * len(paths), [None] * len(paths), on_error="return")
        for content in found:
            if isinstance(content, Exception) and not isinstance(content, MISSING):
                raise content
    return [None if isinstance(content, Exception) else content for content in found]


def read_tails(urls: Sequence[str], size: int) -> list[bytes]:
    """The last ``size`` bytes of many objects of one place, many at once where that is quicker."""
    if is_local(urls[0]):
        return [_read_tail(url.removeprefix("file://"), size) for url in urls]
    fs, _ = filesystem(urls[0])
    paths = [fs._strip_protocol(url) for url in urls]
    with naming(urls[0], "read"):
        ends = fs.cat_ranges(paths, [-size] * len(paths), [None] * len(paths), on_error="return")
        # Some servers refuse to give more of an end than there is; what else is wrong is so again.
        return [
            fs.cat_file(path, start=0) if isinstance(end, Exception) else end
            for path, end in zip(paths, ends, strict=True)
        ]


def _read_tail(path: str, size: int) -> bytes:
    # The system's own calls: a hundred thousand are read whenever a large store is gone on with.
    file = os.open(path, os.O_RDONLY)
    try:
        there = os.fstat(file).st_size
        return os.pread(file, min(size, there), max(0, there - size))
    finally:
        os.close(file)


def put_bytes(url: str, data: bytes) -> None:
    """Write an object whole or not at all: rename on a file system, one put on an object store."""
    if is_local(url):
        target = Path(absolute(url))
        _put_file(target, data, target.parent, lasting=True)
        return
    fs, path = filesystem(url)
    with naming(url, "written", missing=True):
        fs.pipe_file(path, data)


def put_chunk(folder: str, key: str, data: bytes) -> None:
    """Write a local file below a folder whole or not at all; a loss of power may undo it.

    While it is unfinished it is directly in the folder: what killed writers leave is found there by
    one listing.
    """
    root = Path(absolute(folder))
    _put_file(root / key, data, root, lasting=False)


def _put_file(target: Path, data: bytes, folder: Path, *, lasting: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def list_names(url: str) -> list[str]:
    """Names directly under a URL, sorted; empty where nothing is there."""
    if is_local(url):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return sorted(os.listdir(absolute(url)))
    fs, path = filesystem(url)
    with naming(url, "listed"):
        try:
            return sorted(p.rstrip("/").rsplit("/", 1)[-1] for p in fs.ls(path, detail=False))
        except FileNotFoundError:
            return []


def list_times(url: str) -> dict[str, float]:
    """When each file directly under a URL was last written, seconds since 1970, by name."""
    fs, path = filesystem(url)
    with naming(url, "listed"):
        try:
            found = fs.ls(path, detail=True)
        except FileNotFoundError:
            return {}
    return {
        info["name"].rstrip("/").rsplit("/", 1)[-1]: _seconds(info)
        for info in found
        if info["type"] == "file"
    }


def list_changes(url: str) -> list[tuple[str, float]]:
    """What is directly under a URL, folders too, with when each was last changed: of a folder,
    what is directly in it. Object stores know no time of a folder: 0."""
    fs, path = filesystem(url)
    with naming(url, "listed"):
        try:
            found = fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
    return sorted(
        (info["name"], _seconds(info) if info["type"] == "file" else info.get("mtime", 0.0))
        for info in found
    )


def _seconds(info: dict[str, Any]) -> float:
    """File systems of fsspec name the time of the last change differently."""
    when = next(info[name] for name in ("mtime", "LastModified", "updated") if name in info)
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    return when.timestamp() if isinstance(when, datetime) else float(when)


def tree(url: str) -> dict[str, tuple[int, int]]:
    """Files and bytes under every entry directly below a URL, as ``{name: (files, bytes)}``."""
    fs, path = filesystem(url)
    root = path.rstrip("/")
    sizes: dict[str, tuple[int, int]] = {}
    with naming(url, "listed"):
        found = fs.find(root, detail=True)
    for file, info in found.items():
        name = file[len(root) :].lstrip("/").split("/", 1)[0]
        files, total = sizes.get(name, (0, 0))
        sizes[name] = (files + 1, total + int(info["size"]))
    return sizes


def stamps(url: str) -> list[tuple[str, int, float]]:
    """Path, bytes and time of the last change of a file, or of every file below a folder."""
    fs, path = filesystem(url)
    with naming(url, "listed"):
        found = fs.find(path, detail=True)
    return sorted(
        (name.removeprefix(path), int(info["size"]), _seconds(info)) for name, info in found.items()
    )


def remove(url: str) -> None:
    """Remove whatever is under a URL; nothing there is fine."""
    fs, path = filesystem(url)
    with naming(url, "removed"), contextlib.suppress(FileNotFoundError):
        if is_local(url) or not is_pattern(path):
            fs.rm(path, recursive=True)
            return
        for name in fs.find(path):
            fs.rm_file(name)


def sweep_partial(url: str, skip: Collection[str] = ()) -> int:
    """Remove files that a killed writer left unfinished under a local URL; returns how many.

    Parameters
    ----------
    url : str
    skip : collection of str
        Folders directly under the URL that are not looked into.
    """
    if not is_local(url):
        return 0  # an object store never shows an unfinished put
    root, swept = absolute(url), 0
    for folder, folders, names in os.walk(root):
        if folder == root:
            folders[:] = [name for name in folders if name not in skip]
        swept += _sweep(folder, names)
    return swept


def sweep_shards(url: str, axes: int, done: Collection[int] = ()) -> int:
    """The same of an array's chunks whose shards are a file each, cut along the first axis alone.

    Such a file lies below its number and a 0 for every further axis; only there is looked, as a
    walk through a hundred thousand shards takes many times as long.

    Parameters
    ----------
    url : str
    axes : int
    done : collection of int
        Shards that are not looked for; what `put_chunk` leaves of them is found all the same.
    """
    if not is_local(url):
        return 0
    root = absolute(url)
    try:
        top = os.listdir(root)
    except FileNotFoundError:
        return 0
    swept = _sweep(root, top)
    for name in top if axes > 1 else ():
        if name.isdecimal() and int(name) in done:
            continue
        folder = f"{root}/{name}" + "/0" * (axes - 2)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            swept += _sweep(folder, os.listdir(folder))
    return swept


def _sweep(folder: str, names: list[str]) -> int:
    left = [
        name
        for name in names
        if name.endswith(".partial") or (name.startswith(".") and name.endswith(".tmp"))
    ]
    for name in left:
        Path(folder, name).unlink(missing_ok=True)
    return len(left)


def zarr_store(url: str, *, read_only: bool) -> ZarrStore:
    """A zarr store over the URL."""
    # zarr takes a third of a second to import, which whoever reads no array is spared.
    if is_local(url):
        from zarr.storage import LocalStore

        return LocalStore(absolute(url), read_only=read_only)
    from .zarr_objects import ObjectStore

    return ObjectStore.at(url, read_only=read_only)


def open_group(url: str, *, mode: str) -> zarr.Group:
    """Open a zarr group; ``StoreError`` where there is none."""
    import zarr

    try:
        store = zarr_store(url, read_only=mode == "r")
        # The version is said, or three objects of version 2 are looked for as well.
        return zarr.open_group(store, mode=mode, zarr_format=3)  # type: ignore[arg-type]
    except FileNotFoundError as error:
        raise StoreError(f"no zarr group at {url}; was a store made there?") from error


def free_bytes(url: str) -> int | None:
    """Free space where a local URL will be; None for object stores, which have no limit."""
    if not is_local(url):
        return None
    place = Path(absolute(url))
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def check_writable(url: str, setting: str = "store", also: str | None = None) -> None:
    """Refuse a place where nothing can be written, before any work is done for it.

    Parameters
    ----------
    url : str
    setting : str
        Which one named the place.
    also : str, optional
        What else would help, for the message.

    Raises
    ------
    StoreError
        Unless a small object could be written under the URL and removed again.
    """
    place = absolute(url)
    if place.startswith(("http://", "https://")):  # which would be asked to take what is put
        raise StoreError(
            f"{url} can only be read: give `{setting}` a local path, or an s3://… or gs://… URL"
        )
    if is_local(url):  # no folder is made for what may be refused next
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        if os.path.isfile(place):
            raise StoreError(f"{place} is a file: give `{setting}` a folder")
    probe = join(place, f".probe-{uuid.uuid4().hex}")
    try:
        put_bytes(probe, b"facet")
        remove(probe)
    except (OSError, ValueError, ObjectError) as error:
        if isinstance(error, StoreError) and not isinstance(error, ObjectError):
            raise
        why = error.__cause__ or error  # what to do about a probe is said here
        # The name of the probe would be the first that a reader sees.
        what = (error.strerror if isinstance(error, OSError) else None) or why
        raise StoreError(
            f"cannot write to {url}: {what}. "
            + (
                remedy(url, why)
                or f"Choose a `{setting}` where this user may write, or mend its permissions."
            )
            + (f" Or {also}." if also else "")
        ) from error
