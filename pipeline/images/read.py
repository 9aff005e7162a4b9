"""The bytes of an image, wherever the image list says that they are."""

from __future__ import annotations

from typing import IO

from . import gtsegs, micro
from .addresses import Addresses, address_in, fault_of_the_image
from .errors import BadImage
from .files import READ_AHEAD, open_file, refuse_larger, with_retries
from .parquet import ImageColumn


class ImageReader:
    """Reads images; keeps the last tar, Parquet or MATLAB file open for the next one.

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
        self._segmented: gtsegs.SegmentationFile | None = None
        self._addresses = Addresses()

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open."""
        for opened in (self._file, self._column, self._segmented):
            if opened is not None:
                opened.close()
        self._uri, self._file, self._column, self._segmented = "", None, None, None

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
                raise BadImage("the row lacks its picture's index (offset)", uri)
            return micro.pixel_bytes(uri, offset)
        if offset is None:
            refuse_larger(length or 0, uri)
            return self._addresses.read(uri)
        found = with_retries(lambda: self._inside(uri, offset, length), uri)
        return found if isinstance(found, bytes) else self._addresses.read(found)

    def _inside(self, uri: str, offset: int, length: int | None) -> bytes | str:
        """An image's bytes in a file of many, or the address that stands there."""
        try:
            if uri.startswith(gtsegs.PREFIX):
                return self._element(uri, offset)
            if length is None:
                return self._cell(uri, offset)
            return self._range(uri, offset, length)
        except BadImage:
            raise
        except Exception as error:
            self.close()  # the next attempt opens anew
            bad = fault_of_the_image(uri, error)
            if bad is None:
                raise
            raise bad from error

    def _range(self, uri: str, offset: int, length: int) -> bytes:
        if self._uri != uri or self._file is None:
            self.close()
            self._file, self._size = open_file(uri, self._read_ahead)
            self._uri = uri
        # Asked first: a damaged header may claim more bytes than memory holds.
        data = b""
        if offset + length <= self._size:
            refuse_larger(length, uri)
            self._file.seek(offset)
            data = self._file.read(length)
        if len(data) < length:
            there = max(0, self._size - offset)
            raise BadImage("cut tar", f"{uri} ends {there} bytes into this image of {length}")
        return data

    def _cell(self, uri: str, row: int) -> bytes | str:
        url, _, column = uri.rpartition("#")
        if self._uri != uri or self._column is None:
            self.close()
            self._column = ImageColumn(url, column)
            self._uri = uri
        value = self._column.value(row)
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if not value:
            raise BadImage("nothing in the image column", f"row {row} of {url}, {column!r}")
        if isinstance(value, bytes):
            return value
        return address_in(value, url.rpartition("/")[0])

    def _element(self, uri: str, place: int) -> bytes:
        if self._uri != uri or self._segmented is None:
            self.close()
            self._segmented = gtsegs.SegmentationFile(uri.removeprefix(gtsegs.PREFIX))
            self._uri = uri
        return self._segmented.picture(place)
