"""Addresses of single images: a path, an object's URL or a web address to the bytes behind it.

Whatever an address is answered is the fault of its own image. Only an object store that
answers nothing, or does not know who asks, is no image's fault.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import tenacity

from storage.errors import StoreError
from storage.objects import WEB, NoClient, is_local, refuse_absent, refuse_credentials

from . import files
from .errors import BadImage, SourceUnavailable, shortened
from .files import read_web, read_whole, with_retries

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
LONGEST = 4096  # characters: neither file systems nor web servers take more
# Pictures written out in a table: base64 of JPEG, PNG, GIF, WebP and TIFF begins so.
WRITTEN_OUT = ("data:", "/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "SUkqA", "TU0AK")
SHOWN_DATA = 24  # characters of what is no address
WEB_ATTEMPTS = 2
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # statuses that may be others in a moment
# Error codes of S3 that are about who asks, not about what is asked for.
UNKNOWN_USER = (
    "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired",
)  # fmt: skip
SILENCE = ("unknown host", "no answer in time", "no connection")
IN_A_ROW = 3  # images, one after the other, that one host or bucket did not give


class Addresses:
    """Reads what addresses name.

    A web host that has not answered ``IN_A_ROW`` times is not waited for any longer. One of
    these is made for each run of images: a host may be back at the next.
    """

    def __init__(self) -> None:
        self._failed: Counter[str] = Counter()  # failures in a row, by host or bucket

    def read(self, address: str) -> bytes:
        """The encoded image behind an address.

        Raises
        ------
        BadImage
            Nothing is there, or what is asked answers with an error or, on the web, not at all.
        SourceUnavailable
            An object store does not answer, refuses its user, or fails for ``IN_A_ROW`` images
            one after the other; a disk fails; what reads such addresses is not installed.
        """
        scheme, host = _parts(address)
        try:
            refuse_absent(scheme)
        except NoClient as error:
            raise SourceUnavailable(str(error)) from error
        if scheme in WEB:
            return self._web(address, host)
        try:
            data = with_retries(lambda: _whole(address), address)
        except BadImage as bad:
            self._failed[host] = self._failed[host] + 1 if bad.kind.startswith("HTTP 5") else 0
            if self._failed[host] < IN_A_ROW:
                raise
            raise SourceUnavailable(
                f"{scheme}://{host} failed for {IN_A_ROW} images one after the other: {bad}"
            ) from bad
        self._failed[host] = 0
        return data

    def _web(self, address: str, host: str) -> bytes:
        if self._failed[host] >= IN_A_ROW:
            raise BadImage("a host that does not answer", shown(address))
        policy = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            stop=tenacity.stop_after_attempt(WEB_ATTEMPTS),
            wait=tenacity.wait_fixed(files.FIRST_WAIT_S),
            reraise=True,
        )
        try:
            data = policy(lambda: read_web(address))
        except MemoryError:
            raise
        except Exception as error:
            kind = _web_kind(error)
            self._failed[host] = self._failed[host] + 1 if kind in SILENCE else 0
            raise BadImage(kind, shown(address)) from error
        self._failed[host] = 0
        return data


def address_in(value: str, folder: str) -> str:
    """The address that a table's text means; paths are relative to the table's folder.

    Raises
    ------
    BadImage
        If the text is no address, or one that may not be followed.
    """
    if (
        len(value) > LONGEST
        or value.startswith(WRITTEN_OUT)
        or not all(c.isprintable() for c in value.strip())
    ):
        raise BadImage(
            "neither a path nor an address",
            f"{len(value):,} characters, {shortened(value[:SHOWN_DATA], SHOWN_DATA)}…",
        )
    scheme, there, rest = value.strip().partition("://")
    if not there:
        return value if os.path.isabs(value) else f"{folder}/{value}"
    scheme = scheme.lower()
    return rest if scheme == "file" else f"{scheme}://{rest}"


def presentable(values: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """A column of addresses as a store may keep it: without credentials, and without pictures."""
    odd = pc.or_kleene(
        pc.greater(pc.utf8_length(values), LONGEST), pc.match_substring_regex(values, "://.*[@?&]")
    )
    if not pc.any(odd).as_py():
        return values
    return pa.array([v and _presentable(v) for v in values.to_pylist()], pa.string())


def _presentable(value: str) -> str:
    if len(value) > LONGEST:
        return shortened(value[:SHOWN_DATA], SHOWN_DATA) + "…"
    try:
        refuse_credentials(value)
    except StoreError:
        return shown(value)
    return value


def shown(address: str) -> str:
    """An address as it may be printed: what a secret can hide in is cut out."""
    if is_local(address):
        return address
    scheme, _, rest = address.partition("://")
    plain, *secret = re.split(r"[?#]", rest, maxsplit=1)
    host, slash, path = plain.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}{'?…' if secret else ''}"


def _parts(address: str) -> tuple[str, str]:
    """Scheme and host (or bucket) of an address that may be asked; both empty for a path."""
    if is_local(address):
        return "", ""
    try:
        refuse_credentials(address)
        parts = urlsplit(address)
        host = parts.hostname
    except StoreError as error:
        raise BadImage("an address with credentials in it", shown(address)) from error
    except ValueError as error:
        raise BadImage("an address that is malformed", shown(address)) from error
    if not host:
        raise BadImage("an address without a host", shown(address))
    return parts.scheme, parts.netloc


def _whole(address: str) -> bytes:
    try:
        return read_whole(address)
    except BadImage:
        raise
    except NoClient as error:
        raise BadImage("an address of an unknown scheme", shown(address)) from error
    except Exception as error:
        bad = fault_of_the_image(address, error) or _answer(address, error)
        if bad is None:
            raise
        raise bad from error


def fault_of_the_image(uri: str, error: Exception) -> BadImage | None:
    """Why the image is bad, or None if the error says something about the storage."""
    gone = status_of(error)[0] in (0, 404, 410)
    if isinstance(error, FileNotFoundError | NotADirectoryError) and gone:
        name = shown(error.filename or uri)
        why = "deleted since it was listed, or a link to nothing"
        return BadImage("does not exist", f"{name} ({why})")
    if isinstance(error, pa.ArrowInvalid):
        return BadImage("damaged Parquet file", f"{uri}, {str(error).splitlines()[0]}")
    if not is_local(uri):
        return None
    name = getattr(error, "filename", None) or uri
    if isinstance(error, PermissionError):
        return BadImage("no permission to read", name)
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return BadImage("a link that leads back to itself", name)
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.EISDIR):
        return BadImage("cannot be opened", f"{name}, {error.strerror}")
    # Arrow's decoders raise OSError without a number; the system's own have one.
    if isinstance(error, OSError) and not error.errno:
        return BadImage("damaged Parquet file", f"{uri}, {str(error).splitlines()[0]}")
    return None


def _answer(address: str, error: Exception) -> BadImage | None:
    """What an object store said of one object, or None if it did not say anything of it."""
    status, code = status_of(error)
    if status == 401 or code in UNKNOWN_USER:
        return None
    if status:
        return BadImage(f"HTTP {status}", f"{shown(address)}, {code}" if code else shown(address))
    if isinstance(error, PermissionError):
        return BadImage("no permission to read", shown(address))
    if urlsplit(address).scheme in OBJECT_STORES or is_local(address):
        return None
    return BadImage("an address that cannot be read", f"{shown(address)}, {type(error).__name__}")


def status_of(error: BaseException | None) -> tuple[int, str]:
    """The HTTP status behind an error and the server's own code for it; 0 where there is none."""
    while error is not None:
        response: Any = getattr(error, "response", None)  # botocore
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return int(status), str(response.get("Error", {}).get("Code", ""))
        status = getattr(error, "status", None) or getattr(error, "code", None)  # aiohttp, gcsfs
        if isinstance(status, int | str) and str(status).isdigit():
            return int(status), ""
        error = error.__cause__ or error.__context__
    return 0, ""


def _web_kind(error: Exception) -> str:
    if isinstance(error, BadImage):
        return error.kind
    if status := _web_status(error):
        return f"HTTP {status}"
    if isinstance(getattr(error, "os_error", None), socket.gaierror):
        return "unknown host"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return "an address that is malformed"
    from aiohttp import ClientConnectionError

    if isinstance(error, OSError | ClientConnectionError):
        return "no connection"
    return "an answer that cannot be read"  # it breaks off, is packed wrongly, leads in a circle


def _web_status(error: BaseException) -> int:
    """What a web server answered, or 0; aiohttp has a status for bodies that break off, too."""
    return int(getattr(error, "status", 0))


def _may_pass(error: BaseException) -> bool:
    """Whether asking again may help. A host that took its time would take it again."""
    if isinstance(error, MemoryError | TimeoutError):
        return False
    if status := _web_status(error):
        return status in AGAIN
    return isinstance(error, OSError) or not isinstance(error, ValueError)
