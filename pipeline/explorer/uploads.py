"""Pictures that visitors bring: held in memory alone, and not for ever."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from pipeline.explorer.errors import NotHere
from pipeline.images.decode import decode
from pipeline.images.errors import BadImage, shortened
from storage.errors import FacetError

# Of one picture's file; of all that are held. A picture's pixels are held while it is looked at
# alone.
FILE_BYTES = 32 << 20
HELD_BYTES = 256 << 20
HELD = 200
NAME_LENGTH = 80


class TooLarge(FacetError):
    """A file that is larger than any that is taken."""


@dataclass(frozen=True)
class Upload:
    """A picture that was brought.

    Attributes
    ----------
    id : str
        Nobody guesses it: whoever has it may see the picture.
    name : str
        Of its file, as the visitor's browser gave it; it is shown, and opens nothing.
    data : bytes
        The file.
    width, height : int
        Of the upright picture, pixels.
    """

    id: str
    name: str
    data: bytes = field(repr=False)
    width: int
    height: int


class Uploads:
    """The pictures that are held, those that were looked at last; safe for several threads.

    Parameters
    ----------
    most : int
        Pictures.
    most_bytes : int
        Of all their files.
    """

    def __init__(self, most: int = HELD, most_bytes: int = HELD_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._held = OrderedDict[str, Upload]()
        self._bytes = 0
        self._lock = threading.Lock()
        # The pixels of the largest picture are a quarter of a gigabyte: one after the other.
        self._decoding = threading.Lock()

    def add(self, name: str, data: bytes) -> Upload:
        """Hold a picture, once it is known that it is one; what was not looked at longest goes.

        Raises
        ------
        TooLarge
            If the file has more than ``FILE_BYTES``.
        FacetError
            If it holds no picture that can be read: by the limits that images of stores have.
        """
        name = shortened(name, NAME_LENGTH) or "a picture"
        if len(data) > FILE_BYTES:
            raise TooLarge(too_large())
        try:
            with self._decoding:
                width, height = decode(data).size
        except BadImage as error:
            raise FacetError(f"{name} cannot be read: {error}") from error
        upload = Upload(secrets.token_urlsafe(16), name, data, width, height)
        with self._lock:
            self._held[upload.id] = upload
            self._bytes += len(data)
            while len(self._held) > self._most or self._bytes > self._most_bytes:
                _, gone = self._held.popitem(last=False)
                self._bytes -= len(gone.data)
        return upload

    def get(self, id: str) -> Upload:
        """A picture that is held.

        Raises
        ------
        NotHere
            If there is none of that id, or it had to go.
        """
        with self._lock:
            if id not in self._held:
                raise NotHere(
                    "this picture is no longer held: pictures that are brought stay in memory "
                    "until the server ends or others need the room. Bring it again"
                )
            self._held.move_to_end(id)
            return self._held[id]


def too_large() -> str:
    """What is said of a file that is too large."""
    return f"a picture's file may have at most {FILE_BYTES >> 20} MiB: give a smaller one"
