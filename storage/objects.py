"""Object stores: their file systems, how often they are asked again, and errors with a name.

Requests are repeated in one place, which is the client's own: botocore's for S3 (the usual
``AWS_MAX_ATTEMPTS``, ``AWS_RETRY_MODE`` and profile settings hold), gcsfs' for Google.
Credentials and endpoints come from where those clients look for them, never from a URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.spec import AbstractFileSystem
from zarr.abc.store import ByteRequest, OffsetByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore

from .errors import StoreError

S3 = ("s3", "s3a")
ATTEMPTS = 8  # about half a minute of pauses that double, where the user has set nothing
# s3fs wraps botocore's attempts twice more, each of which would multiply them by its own 5. Once
# again is kept for bodies that break off, which botocore does not see.
S3FS_ATTEMPTS = 2
RETRY_SETTINGS = ("AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS", "AWS_PROFILE", "AWS_CONFIG_FILE")
MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_SIGNED = re.compile(
    r"[?&](x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|awsaccesskeyid"
    r"|signature|sig|access_token)=",
    re.IGNORECASE,
)


class ObjectError(StoreError):
    """An object store still refused, failed or hung after all attempts."""


def refuse_credentials(url: str) -> None:
    """Raise ``StoreError`` if a URL carries credentials: URLs are printed and kept."""
    scheme, there, rest = url.partition("://")
    if not there:
        return
    host = rest.split("/", 1)[0]
    if scheme in (*S3, "gs", "gcs"):  # no bucket has these characters; a secret may have a slash
        secret = ("@" in host or ":" in host) and not host.startswith("arn:")
    else:
        secret = bool(re.match(r"[^@]*:[^@]*@", host))
    if secret or _SIGNED.search(url):
        raise StoreError(
            f"a {scheme}:// URL with credentials in it is refused, since URLs are printed and kept "
            "with the results. Give the plain URL, and the credentials in the environment "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), in ~/.aws, or by the machine's role."
        )


def object_store(url: str, **options: Any) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of an object-store URL, set up as all of Facet uses it, and the path.

    Parameters
    ----------
    url : str
    options
        Further ones for the file system.
    """
    refuse_credentials(url)
    scheme = urlsplit(url).scheme
    # A listing remembered from before another writer's put would hide finished shards.
    options = {"use_listings_cache": False, **options}
    if scheme in S3:
        options["config_kwargs"] = _s3_config()
    if "::" in url.partition("://")[0]:
        fs, path = fsspec.core.url_to_fs(url, **options)
    else:  # not by the call above, which takes "::" in a name for a chain of file systems
        kind = fsspec.get_filesystem_class(scheme)
        fs = kind(**{**kind._get_kwargs_from_urls(url), **options})
        path = fs._strip_protocol(url)
    if scheme in S3:
        fs.retries = S3FS_ATTEMPTS
    return fs, path


def _s3_config() -> dict[str, Any]:
    """The user's ``config_kwargs`` of fsspec, with retries where neither they nor AWS's settings
    say how many."""
    config: dict[str, Any] = {}
    for scheme in S3:
        config |= fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})
    return {"retries": dict(_retries(*map(os.environ.get, RETRY_SETTINGS))), **config}


@lru_cache
def _retries(*environment: str | None) -> dict[str, Any]:
    """What the environment, and the profile that it names, leave open."""
    import botocore.session  # half a second that local stores are spared

    session = botocore.session.Session()
    retries: dict[str, Any] = {}
    if session.get_config_variable("max_attempts") is None:
        retries["total_max_attempts"] = ATTEMPTS
    mode = dict(zip(RETRY_SETTINGS, environment, strict=True))["AWS_RETRY_MODE"]
    if mode is None and session.get_config_variable("retry_mode") == "legacy":
        retries["mode"] = "standard"  # legacy is what botocore says where nobody has chosen
    return retries


@contextmanager
def naming(url: str, done: str, *, missing: bool = False) -> Iterator[None]:
    """Turn whatever an object store's client raises into an ``ObjectError`` that names the object.

    Parameters
    ----------
    url : str
        The object. Local files keep their own errors.
    done : str
        What was to be done with it, as in "cannot be read".
    missing : bool
        Whether a missing object (or bucket) is an error too, and not an answer.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # every client has its own base class
        if urlsplit(url).scheme in ("", "file") or (isinstance(error, MISSING) and not missing):
            raise
        raise ObjectError(
            f"{url} cannot be {done}, after all attempts: {type(error).__name__}: {error}. "
            "Finished shards and results are kept: mend what is wrong, or wait until the object "
            "store answers, then run the same command again."
        ) from error


def is_pattern(path: str) -> bool:
    """Whether fsspec, asked to remove a path, would remove all that it matches."""
    return any(c in path for c in "*?[")


class ObjectStore(FsspecStore):
    """zarr's store over fsspec, whose errors name the object.

    Pickled as a URL: settings and credentials are those of the machine that unpickles it.
    """

    @classmethod
    def at(cls, url: str, read_only: bool) -> ObjectStore:
        """The store at a URL."""
        fs, path = object_store(url, asynchronous=True)
        if not fs.async_impl:
            fs = AsyncFileSystemWrapper(fs, asynchronous=True)
        return cls(fs, read_only=read_only, path=path)

    def __reduce__(self) -> tuple[Callable[..., ObjectStore], tuple[str, bool]]:
        return ObjectStore.at, (self._url(""), self.read_only)

    def _url(self, key: str) -> str:
        return self.fs.unstrip_protocol(f"{self.path}/{key}".rstrip("/"))

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        with naming(self._url(key), "read"):
            # s3fs asks for the size first unless a range is named.
            return await super().get(key, prototype, byte_range or OffsetByteRequest(0))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        with naming(self._url(""), "read"):
            return await super().get_partial_values(prototype, key_ranges)

    async def exists(self, key: str) -> bool:
        with naming(self._url(key), "looked up"):
            return await super().exists(key)

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        with naming(self._url(key), "written", missing=True):
            await super().set(key, value, byte_range)

    # fsspec takes names that are to be removed for patterns; files it removes as they are named.
    async def delete(self, key: str) -> None:
        self._check_writable()
        with naming(self._url(key), "removed"), suppress(FileNotFoundError):
            await self.fs._rm_file(f"{self.path}/{key}")

    async def delete_dir(self, prefix: str) -> None:
        with naming(self._url(prefix), "removed"):
            if not is_pattern(self.path):
                await super().delete_dir(prefix)
                return
            self._check_writable()
            for path in await self.fs._find(f"{self.path}/{prefix}".rstrip("/")):
                await self.fs._rm_file(path)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        with naming(self._url(prefix), "listed"):
            async for name in super().list_dir(prefix):
                yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        with naming(self._url(prefix), "listed"):
            async for name in super().list_prefix(prefix):
                yield name
