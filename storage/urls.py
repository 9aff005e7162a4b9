"""Local paths and object-store URLs behind one small set of calls (fsspec underneath)."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import zarr
from fsspec.spec import AbstractFileSystem
from zarr.abc.store import Store as ZarrStore
from zarr.storage import FsspecStore, LocalStore

from .errors import StoreError


def is_local(url: str) -> bool:
    """Whether a URL names a place on this machine's file systems."""
    return urlsplit(url).scheme in ("", "file")


def absolute(url: str) -> str:
    """The same place, named so that every worker finds it."""
    return str(Path(url.removeprefix("file://")).expanduser().absolute()) if is_local(url) else url


def join(url: str, *parts: str) -> str:
    return "/".join([url.rstrip("/"), *parts])


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of a URL and the path inside it."""
    fs, path = fsspec.core.url_to_fs(absolute(url))
    # A listing remembered from before another writer's put would hide finished shards.
    fs.use_listings_cache = False
    fs.invalidate_cache()
    return fs, path


def exists(url: str) -> bool:
    fs, path = filesystem(url)
    return fs.exists(path)


def read_bytes(url: str) -> bytes:
    fs, path = filesystem(url)
    return fs.cat_file(path)


def put_bytes(url: str, data: bytes) -> None:
    """Write an object whole or not at all: rename on a file system, one put on an object store."""
    fs, path = filesystem(url)
    if not is_local(url):
        fs.pipe_file(path, data)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def list_names(url: str) -> list[str]:
    """Names directly under a URL, sorted; empty where nothing is there."""
    fs, path = filesystem(url)
    try:
        return sorted(p.rstrip("/").rsplit("/", 1)[-1] for p in fs.ls(path, detail=False))
    except FileNotFoundError:
        return []


def tree(url: str) -> dict[str, tuple[int, int]]:
    """Files and bytes under every entry directly below a URL, as ``{name: (files, bytes)}``."""
    fs, path = filesystem(url)
    root = path.rstrip("/")
    sizes: dict[str, tuple[int, int]] = {}
    for file, info in fs.find(root, detail=True).items():
        name = file[len(root) :].lstrip("/").split("/", 1)[0]
        files, total = sizes.get(name, (0, 0))
        sizes[name] = (files + 1, total + int(info["size"]))
    return sizes


def remove(url: str) -> None:
    """Remove whatever is under a URL; nothing there is fine."""
    fs, path = filesystem(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def sweep_partial(url: str) -> int:
    """Remove files that a killed writer left unfinished under a local URL; returns how many."""
    if not is_local(url):
        return 0  # an object store never shows an unfinished put
    left = [p for pattern in ("*.partial", ".*.tmp") for p in Path(absolute(url)).rglob(pattern)]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def zarr_store(url: str, *, read_only: bool) -> ZarrStore:
    """A zarr store over the URL."""
    if is_local(url):
        return LocalStore(absolute(url), read_only=read_only)
    return FsspecStore.from_url(url, read_only=read_only)


def open_group(url: str, *, mode: str) -> zarr.Group:
    """Open a zarr group; ``StoreError`` where there is none."""
    try:
        return zarr.open_group(zarr_store(url, read_only=mode == "r"), mode=mode)  # type: ignore[arg-type]
    except FileNotFoundError as error:
        raise StoreError(
            f"no zarr group at {url}; was the store made by `facet extract`?"
        ) from error


def free_bytes(url: str) -> int | None:
    """Free space where a local URL will be; None for object stores, which have no limit."""
    if not is_local(url):
        return None
    place = Path(absolute(url))
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def check_writable(url: str) -> None:
    """Raise ``StoreError`` unless a small object can be written under the URL and removed again."""
    probe = join(url, f".probe-{uuid.uuid4().hex}")
    try:
        put_bytes(probe, b"facet")
        remove(probe)
    except (OSError, ValueError, ImportError) as error:
        raise StoreError(
            f"cannot write to the store at {url}: {error}. "
            "Choose a --store where this user may write, or mend its permissions."
        ) from error
