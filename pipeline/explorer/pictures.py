"""Small pictures of images, and images as the model saw them; cut once, and kept on disk."""

from __future__ import annotations

import io
import itertools
import tempfile
import textwrap
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image, ImageDraw, ImageFont

from pipeline.explorer.memory import Memory
from pipeline.heatmaps.seen import GREY, resize_of
from pipeline.images.again import load_again
from pipeline.images.decode import decode
from pipeline.images.errors import BadImage, SourceUnavailable
from storage.metadata import Metadata

if TYPE_CHECKING:
    from pipeline.explorer.library import Opened

Kind = Literal["thumbnail", "seen"]
# Pixels of a small picture's longer side, at most.
SIDE = 192
ROOM = 256 << 20  # bytes on disk
BLOCK = 4096  # a file takes as many at the least
# A picture that is decoded may take a quarter of a gigabyte.
AT_ONCE = 8


@dataclass(frozen=True)
class Picture:
    """A picture as a file.

    Attributes
    ----------
    data : bytes
        JPEG of small pictures, PNG of what the model saw.
    unreadable : str or None
        Why the image is not to be had as it was; the picture is grey then, and says so.
    """

    data: bytes
    unreadable: str | None = None


class _NotKept(Exception):
    """A picture that is to be made anew the next time."""

    def __init__(self, picture: Picture) -> None:
        super().__init__()
        self.picture = picture


class _File:
    """A picture on disk, which goes when nothing refers to it any more."""

    def __init__(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        self.path, self.nbytes = path, -(-len(data) // BLOCK) * BLOCK
        weakref.finalize(self, path.unlink, missing_ok=True)


class Pictures:
    """Pictures that were asked for, those of the latest kept; safe for several threads.

    Parameters
    ----------
    room : int
        Bytes of disk for what is kept, in a temporary folder that goes with the server.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="facet-pictures-")
        self._names = itertools.count()
        self._kept = Memory(room)
        self._decoding = threading.BoundedSemaphore(AT_ONCE)

    def of_image(self, here: Opened, index: int, kind: Kind) -> Picture:
        """An image of a store, from its own place; grey where it is another now, or gone.

        Parameters
        ----------
        here : Opened
        index : int
            Its number, which the store has.
        kind : {"thumbnail", "seen"}
            At most ``SIDE`` pixels wide and high; or resized and cropped as the model saw it.
        """
        load = lambda: load_again(here.store, index)  # noqa: E731
        key = here.url, here.meta.image_list_digest, index, kind
        return self._get(key, load, here.meta, kind)

    def of_file(self, key: object, data: bytes, meta: Metadata, kind: Kind) -> Picture:
        """A picture file; ``key`` tells it from all others, ``meta`` is that of the model."""
        return self._get((key, meta.architecture_digest, kind), lambda: decode(data), meta, kind)

    def _get(
        self, key: object, load: Callable[[], Image.Image], meta: Metadata, kind: Kind
    ) -> Picture:
        def make() -> _File:
            with self._decoding:
                try:
                    data = encoded(shown(load(), meta, kind), kind)
                except (BadImage, SourceUnavailable) as error:
                    raise _NotKept(Picture(grey(str(error), meta, kind), str(error))) from error
            try:
                return _File(Path(self._folder.name, str(next(self._names))), data)
            except OSError as error:  # no room on disk
                raise _NotKept(Picture(data)) from error

        try:
            file = self._kept.get(key, make)  # as long as it is referred to, others leave it there
            return Picture(file.path.read_bytes())
        except _NotKept as error:
            return error.picture


def shown(image: Image.Image, meta: Metadata, kind: Kind) -> Image.Image:
    """A picture at the size in which it is shown."""
    if kind == "seen":
        return Image.fromarray(resize_of(meta)(image))
    image.thumbnail((SIDE, SIDE))
    return image


def encoded(image: Image.Image, kind: Kind) -> bytes:
    """A picture as a file; colours are kept pixel by pixel, which small shapes need."""
    buffer = io.BytesIO()
    if kind == "seen":
        image.save(buffer, format="png")
    else:
        image.save(buffer, format="jpeg", quality=88, subsampling=0)
    return buffer.getvalue()


def grey(words: str, meta: Metadata, kind: Kind) -> bytes:
    """A grey picture with words on it."""
    height, width = meta.preprocessing["size"] if kind == "seen" else (SIDE, SIDE)
    image = Image.new("RGB", (width, height), (GREY, GREY, GREY))
    lines = textwrap.wrap(
        words, max(8, width // 7), max_lines=max(1, height // 15), placeholder="…"
    )
    draw = ImageDraw.Draw(image)
    draw.multiline_text(
        (5, 4), "\n".join(lines), fill=(40, 40, 40), font=ImageFont.load_default(12)
    )
    return encoded(image, kind)
