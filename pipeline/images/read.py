"""The bytes of an image, wherever the image list says that they are."""

from __future__ import annotations

import errno
import os
from typing import IO

import pyarrow as pa

from . import micro
from .errors import BadImage
from .files import READ_AHEAD, is_local, open_file, read_whole, with_retries
from .parquet import ImageColumn


class Reader:
    """Reads images; keeps the last tar or Parquet file open for the next one.

    Parameters
    ----------
    read_ahead : int
        Bytes to fetch beyond what was asked for from an object store's tar; 0 for images
        read singly.
    """

    def __init__(self, read_ahead: int = READ_AHEAD) -> None:
        self._read_ahead = read_ahead
        self._uri = ""
        self._file: IO[bytes] | None = None
        self._size = 0
        self._column: ImageColumn | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open."""
        for opened in (self._file, self._column):
            if opened is not None:
                opened.close()
        self._uri, self._file, self._column = "", None, None

    def read(self, uri: str, offset: int | None, length: int | None) -> bytes:
        """The encoded image; of the microworld, its pixels (64 x 64 x 3 bytes).

        Raises
        ------
        BadImage
            The image itself is at fault: gone, cut short, not readable by this user.
        SourceUnavailable
            The storage is at fault, still so after several attempts.
        """
        if uri.startswith(micro.PREFIX):
            if offset is None:
                raise BadImage(f"{uri}: the row lacks its picture's index (offset)")
            return micro.pixel_bytes(uri, offset)
        return with_retries(lambda: self._read(uri, offset, length), uri)

    def _read(self, uri: str, offset: int | None, length: int | None) -> bytes:
        try:
            if offset is None:
                return read_whole(uri)
            if length is None:
                return self._cell(uri, offset)
            return self._range(uri, offset, length)
        except BadImage:
            raise
        except Exception as error:
            self.close()  # the next attempt opens anew
            reason = _fault_of_the_image(uri, error)
            if reason is None:
                raise
            raise BadImage(reason) from error

    def _range(self, uri: str, offset: int, length: int) -> bytes:
        if self._uri != uri or self._file is None:
            self.close()
            self._file, self._size = open_file(uri, self._read_ahead)
            self._uri = uri
        # Asked first: a damaged header may claim more bytes than memory holds.
        data = b""
        if offset + length <= self._size:
            self._file.seek(offset)
            data = self._file.read(length)
        if len(data) < length:
            there = max(0, self._size - offset)
            raise BadImage(f"{uri} is cut: it ends {there} bytes into this image of {length}")
        return data

    def _cell(self, uri: str, row: int) -> bytes:
        url, _, column = uri.rpartition("#")
        if self._uri != uri or self._column is None:
            self.close()
            self._column = ImageColumn(url, column)
            self._uri = uri
        value = self._column.value(row)
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if not value:
            raise BadImage(f"row {row} of {url} has nothing in column {column!r}")
        if isinstance(value, bytes):
            return value
        if is_local(value) and not os.path.isabs(value):
            value = f"{url.rpartition('/')[0]}/{value}"
        return read_whole(value)


def _fault_of_the_image(uri: str, error: Exception) -> str | None:
    """Why the image is bad, or None if the error says something about the storage."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        name = error.filename or uri
        return f"{name} does not exist: deleted since it was listed, or a link to nothing"
    if isinstance(error, pa.ArrowInvalid):
        return f"{uri} is damaged: {error}".splitlines()[0]
    if not is_local(uri):
        return None
    if isinstance(error, PermissionError):
        return f"no permission to read {error.filename or uri}"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return f"{error.filename or uri} is a link that leads back to itself"
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.EISDIR):
        return f"{error.filename or uri} cannot be opened: {error.strerror}"
    # Arrow's decoders raise OSError without a number; the system's own have one.
    if isinstance(error, OSError) and not error.errno:
        return f"{uri} is damaged: {error}".splitlines()[0]
    return None
