"""zarr over an object store; apart from the rest, as zarr takes a third of a second to import."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress

from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.abc.store import ByteRequest, OffsetByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore

from .objects import is_pattern, naming, object_store


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
