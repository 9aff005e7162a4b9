"""Files on a local disk or an object store, behind one small set of functions.

A URL without ``://`` is a local path. Local paths never pass through fsspec, so that any
name a file system allows (``a::b.jpg``, ``50%.png``) is only a name.
"""

from __future__ import annotations

import glob as local_glob
import os
import stat
from collections.abc import Callable
from typing import IO, Any, TypeVar

import fsspec
import tenacity

from storage.errors import FacetError
from storage.objects import object_store, refuse_credentials

from .errors import BadImage, SourceError, SourceUnavailable

T = TypeVar("T")
GLOB_CHARACTERS = "*?["
ATTEMPTS = 4
REMOTE_ATTEMPTS = 2  # on top of those of the object store's own client
# Answers and programming errors, for which asking again cannot help. SourceError and
# BadImage are ValueErrors.
FINAL = (ValueError, TypeError, LookupError, AttributeError, MemoryError)
FIRST_WAIT_S = 0.5  # then doubled: 3.5 s in all
READ_AHEAD = 4 * 2**20  # bytes fetched at once where an object is read from front to back


def with_retries(action: Callable[[], T], name: str) -> T:
    """What ``action`` returns, tried again with growing pauses where storage fails.

    Raises
    ------
    SourceUnavailable
        With ``name``, when the last attempt failed too.
    """
    attempts = ATTEMPTS if is_local(name) else REMOTE_ATTEMPTS
    policy = tenacity.Retrying(
        retry=tenacity.retry_if_not_exception_type(FINAL),
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_exponential(multiplier=FIRST_WAIT_S, max=8),
        reraise=True,
    )
    try:
        return policy(action)
    except FINAL:
        raise
    except Exception as error:  # each object store has its own base class
        raise SourceUnavailable(
            f"{name} cannot be read after {attempts} attempts: {type(error).__name__}: {error}"
        ) from error


def is_local(url: str) -> bool:
    """Whether ``url`` is a path on this machine's file systems."""
    return "://" not in url


def absolute(url: str) -> str:
    """The form kept in the image list: workers may run in another directory.

    Raises
    ------
    StoreError
        If the URL carries credentials.
    """
    refuse_credentials(url)
    url = url.removeprefix("file://") or "/"
    if is_local(url):
        return os.path.abspath(os.path.expanduser(url))
    return url.rstrip("/")


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The object store of ``url`` and the path within it."""
    try:
        return object_store(url)
    except FacetError:
        raise
    except (ValueError, ImportError) as error:
        raise SourceError(f"{url}: no object store of this kind: {error}") from error


def kind_of(url: str) -> str | None:
    """``"directory"``, ``"file"`` (anything else that can be opened), or None if missing."""
    if is_local(url):
        try:
            return "directory" if stat.S_ISDIR(os.stat(url).st_mode) else "file"
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SourceError(f"{url} cannot be read: {error.strerror}") from error
    fs, path = filesystem(url)

    def ask() -> str | None:
        try:
            return "directory" if fs.info(path)["type"] == "directory" else "file"
        except FileNotFoundError:
            return None

    return with_retries(ask, url)


def glob(pattern: str) -> list[str]:
    """URLs that match, sorted by code point, so that the order is every machine's."""
    if is_local(pattern):
        return sorted(local_glob.glob(pattern, recursive=True))
    fs, path = filesystem(pattern)
    return sorted(fs.unstrip_protocol(p) for p in with_retries(lambda: fs.glob(path), pattern))


def glob_root(pattern: str) -> str:
    """The leading folders of a pattern that hold no wildcard."""
    parts = pattern.split("/")
    first = next(i for i, part in enumerate(parts) if any(c in part for c in GLOB_CHARACTERS))
    return "/".join(parts[:first]) or "/"


def read_whole(url: str) -> bytes:
    """All bytes of a file."""
    if is_local(url):
        file, _ = open_file(url)
        with file:
            return file.read()
    fs, path = filesystem(url)
    return fs.cat_file(path)


def open_file(url: str, read_ahead: int = READ_AHEAD) -> tuple[IO[bytes], int]:
    """The file, open for reading, and its size in bytes."""
    file: Any
    if is_local(url):
        # Opening a pipe or a device could wait for ever.
        if not stat.S_ISREG(os.stat(url).st_mode):
            raise BadImage(f"{url} is not a regular file")
        file = open(url, "rb")  # noqa: SIM115
        return file, os.fstat(file.fileno()).st_size
    fs, path = filesystem(url)
    file = fs.open(path, "rb", block_size=read_ahead, cache_type="readahead")
    return file, int(file.size)
