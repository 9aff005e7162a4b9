"""Files on a local disk or an object store, behind one small set of functions.

URLs are those of `storage.urls.absolute`. Local paths never pass through fsspec, so that any
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
from fsspec.asyn import sync

from storage.objects import is_local, object_store
from storage.urls import absolute

from .errors import BadImage, SourceError, SourceUnavailable

T = TypeVar("T")
GLOB_CHARACTERS = "*?["
ATTEMPTS = 4
REMOTE_ATTEMPTS = 2  # on top of those of the object store's own client
# Answers and programming errors, for which asking again cannot help. SourceError and
# BadImage are ValueErrors.
FINAL = (ValueError, TypeError, LookupError, AttributeError, MemoryError)
FIRST_WAIT_S = 0.5  # then doubled: 3.5 s in all
WEB_CONNECT_SECONDS, WEB_SECONDS = 5, 30
LARGEST = 2**30  # bytes: what the most pixels that are decoded take, uncompressed
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


def kind_of(url: str) -> str | None:
    """``"directory"``, ``"file"`` (anything else that can be opened), or None if missing."""
    if is_local(url):
        try:
            return "directory" if stat.S_ISDIR(os.stat(url).st_mode) else "file"
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SourceError(f"{url} cannot be read: {error.strerror}") from error
    fs, path = object_store(url)

    def ask() -> str | None:
        try:
            return "directory" if fs.info(path)["type"] == "directory" else "file"
        except FileNotFoundError:
            return None

    return with_retries(ask, url)


def has_wildcard(name: str) -> bool:
    """Whether a name is a pattern, where it does not exist as it stands."""
    return any(c in name for c in GLOB_CHARACTERS)


def holds_files(url: str) -> bool:
    """Whether objects lie below a name that is an object itself."""
    if is_local(url):
        return False
    fs, path = object_store(url)
    return bool(with_retries(lambda: fs.isdir(path), url))


def standing(source: str) -> int:
    """How many characters of a source, up to a slash or its end, are a name that exists as it is.

    Only names with wildcards or braces in them are looked up.
    """
    length, bucket = 0, 0 if is_local(source) else 3
    for i, part in enumerate(source.split("/")):
        stop = length + len(part)
        if has_wildcard(part) or "{" in part or "}" in part:
            if i < bucket:
                return 0
            kind = _kind_or_none(absolute(source[:stop]))
            if kind is None or (kind == "file" and stop < len(source)):
                return length
        length = min(stop + 1, len(source))
    return length


def _kind_or_none(url: str) -> str | None:
    # Who may not list a bucket is refused, where there is no such object; a long list in braces
    # is no name that could be asked for.
    try:
        return kind_of(url)
    except (SourceError, SourceUnavailable):
        return None


def glob(head: str, pattern: str) -> dict[str, bool]:
    """URLs below a folder that match, and whether each is a folder.

    Wildcards in ``head`` are characters of the folder's name.
    """
    whole = inside(local_glob.escape(head), pattern)
    if is_local(whole):
        return {name: os.path.isdir(name) for name in local_glob.glob(whole, recursive=True)}
    fs, path = object_store(whole)
    matches = with_retries(lambda: fs.glob(path, detail=True), whole)
    start = object_store(head)[1].rstrip("/")
    return {
        inside(head, below(start, name)): info["type"] == "directory"
        for name, info in matches.items()
    }


def inside(folder: str, path: str) -> str:
    """``path`` below a folder; an object's path may begin with a slash of its own."""
    return f"{'' if folder == '/' else folder}/{path}"


def below(folder: str, url: str) -> str:
    """The path of ``url`` below a folder that it lies in: what ``inside`` joined."""
    return url[len(inside(folder, "")) :]


def read_whole(url: str) -> bytes:
    """All bytes of a file."""
    if is_local(url):
        file, size = open_file(url)
        with file:
            refuse_larger(size, url)
            return file.read()
    fs, path = object_store(url)
    return fs.cat_file(path)


def read_web(url: str) -> bytes:
    """What a web address gives, or an error, within ``WEB_SECONDS``."""
    import aiohttp  # a quarter of a second that local images are spared

    limits = aiohttp.ClientTimeout(total=WEB_SECONDS, sock_connect=WEB_CONNECT_SECONDS)
    # Not by its URL: fsspec takes "::" in one for a chain of file systems.
    web = fsspec.filesystem("http", client_kwargs={"timeout": limits}, use_listings_cache=False)
    data: bytes = sync(web.loop, _get, web, url)
    return data


async def _get(web: Any, url: str) -> bytes:
    session = await web.set_session()
    async with session.get(web.encode_url(url)) as answer:
        answer.raise_for_status()
        data = bytearray()
        async for some in answer.content.iter_any():
            data += some
            refuse_larger(len(data), url)
        return bytes(data)


def refuse_larger(size: int, name: str) -> None:
    """Raise ``BadImage`` for what would fill the memory of a worker, and so end the job."""
    if size > LARGEST:
        raise BadImage("a file too large for a picture", f"{name}, over {LARGEST:,} bytes")


def read_ranges(url: str, ranges: list[tuple[int, int]]) -> list[bytes]:
    """The bytes ``start … stop-1`` of every range of a file, asked for at once."""
    if is_local(url):
        file, _ = open_file(url)
        with file:
            return [os.pread(file.fileno(), stop - start, start) for start, stop in ranges]
    fs, path = object_store(url)
    starts, stops = zip(*ranges, strict=True)
    paths = [path] * len(ranges)
    found: list[bytes] = fs.cat_ranges(paths, list(starts), list(stops), on_error="raise")
    return found


def open_file(url: str, read_ahead: int = READ_AHEAD) -> tuple[IO[bytes], int]:
    """The file, open for reading, and its size in bytes."""
    file: Any
    if is_local(url):
        # Opening a pipe or a device could wait for ever.
        if not stat.S_ISREG(os.stat(url).st_mode):
            raise BadImage("not a regular file", url)
        file = open(url, "rb")  # noqa: SIM115
        return file, os.fstat(file.fileno()).st_size
    fs, path = object_store(url)
    file = fs.open(path, "rb", block_size=read_ahead, cache_type="readahead")
    return file, int(file.size)
