"""Masks of objects: where they come from, and on the pixels of a model's input.

=====================  =================================================================
``microworld``         the embedded world's own, drawn with the picture
a folder               mask pictures by the key of their picture, whatever the suffix of
                       either: ``n01440764/x.JPEG`` has ``n01440764/x.png``
=====================  =================================================================

A mask is one of the **upright** picture: where EXIF has a picture turned, its mask is of the
turned one, or says the same of itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pipeline.microworld.draw import picture
from storage.objects import is_local, object_store
from storage.urls import absolute

from .addresses import Addresses
from .decode import decode_values, read_bytes, to_image
from .errors import BadImage, SourceError
from .files import below, inside, kind_of, with_retries
from .mask_values import BACKGROUND, FOREGROUND, IGNORED, mask_of
from .micro import PREFIX, parse
from .resize import Resize
from .rows import is_image_name

MICROWORLD = "microworld"
NAMED = 3  # pictures without a mask that are named
Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class MaskSource:
    """Where masks are looked for.

    Attributes
    ----------
    kind : {"microworld", "folder"}
    url : str
        The folder; empty of the microworld.
    """

    kind: str
    url: str = ""


def parse_masks(text: str) -> MaskSource:
    """The source of masks that a text names.

    Raises
    ------
    SourceError
        If nothing is there, or nothing that masks are read from.
    """
    if text == MICROWORLD:
        return MaskSource("microworld")
    if text.startswith(PREFIX):
        raise SourceError(f"masks {text!r}: write {MICROWORLD} alone, the pictures say which")
    if not text.strip():
        raise SourceError(f"The source of masks is empty: name {MICROWORLD} or a folder.")
    url = absolute(text)
    kind = kind_of(url)
    if kind is None:
        raise SourceError(
            f"masks {text!r}: there is no such folder. Name {MICROWORLD}, or a folder of mask "
            "pictures that are called as the keys of their pictures."
        )
    if kind != "directory":
        raise SourceError(f"masks {text!r} is a file: name the folder that mask pictures are in")
    return MaskSource("folder", url)


# -- which pictures have one ------------------------------------------------------------------


@dataclass(frozen=True)
class Coverage:
    """How many pictures have a mask, as far as names tell.

    Attributes
    ----------
    images, lacking : int
        All of them, and those without.
    named : list of str
        The keys of the first without.
    """

    images: int
    lacking: int
    named: list[str]


def check_masks(rows: pa.Table, source: MaskSource) -> Coverage:
    """Which pictures have a mask; none is opened.

    Parameters
    ----------
    rows : pyarrow.Table
        Of the image table.

    Raises
    ------
    SourceError
        If none has.
    """
    has = _known(source)
    lacking = [row["key"] for row in rows.select(["key", "uri"]).to_pylist() if not has(row)]
    if len(lacking) == len(rows):
        none = f"none of the {len(rows):,} pictures"
        if source.kind == "microworld":
            raise SourceError(f"{none} is of the embedded world: name a folder of their masks")
        first = f", as {stem(lacking[0])}.png" if lacking else ""
        raise SourceError(
            f"{none} has a mask in {source.url}: masks are called as the keys of their "
            f"pictures, whatever their suffixes{first}"
        )
    return Coverage(len(rows), len(lacking), lacking[:NAMED])


def _known(source: MaskSource) -> Callable[[dict[str, Any]], bool]:
    """Tells whether the picture of a row has a mask."""
    if source.kind == "microworld":
        return lambda row: row["uri"].startswith(PREFIX)
    names = with_retries(lambda: _all_names(source.url), source.url)
    stems = {stem(name) for name in names if is_image_name(name)}
    return lambda row: stem(row["key"]) in stems


def _all_names(url: str) -> list[str]:
    """Paths of all files below a folder."""
    if is_local(url):
        walked = os.walk(url, followlinks=True)
        return [below(url, f"{folder}/{n}") for folder, _, names in walked for n in names]
    fs, root = object_store(url)
    return [below(root.rstrip("/"), path) for path in fs.find(root)]


def stem(key: str) -> str:
    """A key, or the path of a mask, without the suffix of a picture."""
    return key.rpartition(".")[0] if is_image_name(key) else key


# -- reading ----------------------------------------------------------------------------------


class MaskReader:
    """Reads masks as they are; what it has listed of a local folder is kept for the next one."""

    def __init__(self, source: MaskSource) -> None:
        self._source = source
        self._addresses = Addresses()
        self._listed: dict[str, list[str]] = {}

    def read(self, row: dict[str, Any]) -> Mask:
        """The mask of the picture of a row, (height, width).

        Raises
        ------
        BadImage
            It has none, or one that cannot be read.
        SourceUnavailable
            The storage is at fault, still so after several attempts.
        """
        if self._source.kind == "microworld":
            if not row["uri"].startswith(PREFIX) or row["offset"] is None:
                raise BadImage("no mask", "the picture is not of the embedded world")
            _, seed, split = parse(row["uri"])
            return picture(seed, split, row["offset"])[1].astype(np.uint8)
        return mask_of(decode_values(self._addresses.read(self._file(stem(row["key"])))))

    def _file(self, name: str) -> str:
        """The one mask picture whose path without its suffix is ``name``."""
        place = inside(self._source.url, name)
        folder, _, own = place.rpartition("/")
        found = [n for n in self._names(folder, own) if is_image_name(n) and stem(n) == own]
        if not found or ".." in name.split("/"):
            raise BadImage("no mask", f"{place}.*")
        if len(found) > 1:
            raise BadImage("several masks", f"{folder}: {', '.join(sorted(found))}")
        return f"{folder}/{found[0]}"

    def _names(self, folder: str, own: str) -> list[str]:
        """Names in a folder, at least those that begin with ``own``."""
        if not is_local(folder):
            fs, path = object_store(folder)
            found = with_retries(lambda: fs.find(path, prefix=f"{own}."), folder)
            return [below(path.rstrip("/"), name) for name in found]
        if folder not in self._listed:
            try:
                self._listed[folder] = with_retries(lambda: os.listdir(folder), folder)
            except FileNotFoundError:
                self._listed[folder] = []
        return self._listed[folder]


@dataclass(frozen=True)
class LoadedMasks:
    """Masks of n pictures on the pixels of a model's input, and what became of each.

    Attributes
    ----------
    masks : dict of str to (n, height, width) uint8
        By protocol: 0 background, 1 foreground, 255 ignored. All ignored where there is an error.
    error : list of str or None
        Why a picture has no mask, in words: ``kind: detail``.
    """

    masks: dict[str, Mask]
    error: list[str | None]

    def lacking(self, protocol: str) -> list[str | None]:
        """What a mask has no pixel of: ``foreground``, ``background``, or None where it has both.

        That is no error: an object may fill its picture, or lie outside of its middle. None, too,
        where there is one.
        """
        masks = self.masks[protocol]
        has = {
            "foreground": (masks == FOREGROUND).any((1, 2)),
            "background": (masks == BACKGROUND).any((1, 2)),
        }
        return [
            None if error else next((what for what, any_n in has.items() if not any_n[i]), None)
            for i, error in enumerate(self.error)
        ]


def _stretched(image: Image.Image, resize: Resize) -> Mask:
    size = (resize.width, resize.height)
    return np.asarray(image.resize(size, Image.Resampling.NEAREST))


# ``aligned`` has a mask go the way of its picture. ``published`` (clip_prs' compute_segmentations)
# stretches the whole mask to the input's size, whatever was cropped off the picture.
PROTOCOLS: dict[str, Callable[[Image.Image, Resize], Mask]] = {
    "aligned": lambda image, resize: resize.mask(image, padding=IGNORED),
    "published": _stretched,
}


def load_masks(
    rows: pa.Table,
    source: MaskSource,
    resize: Resize,
    protocols: Sequence[str],
    sizes: Sequence[tuple[int, int]] | None = None,
) -> LoadedMasks:
    """Read the masks of a run of pictures and bring them to the model's input.

    Parameters
    ----------
    rows : pyarrow.Table
        Of the image table.
    source : MaskSource
    resize : Resize
        The picture's own.
    protocols : sequence of str
        Keys of ``PROTOCOLS``.
    sizes : sequence of (int, int), optional
        Width and height of each upright picture, 0 of one that cannot be had. Where they are not
        known, the pictures are read.

    Raises
    ------
    SourceUnavailable
        If the storage does not answer: that is no mask's fault.
    """
    shape = (len(rows), resize.height, resize.width)
    masks = {protocol: np.full(shape, IGNORED, np.uint8) for protocol in protocols}
    error: list[str | None] = [None] * len(rows)
    reader = MaskReader(source)
    for i, row in enumerate(rows.select(["key", "uri", "offset", "length"]).to_pylist()):
        try:
            size = to_image(row, read_bytes(row)).size if sizes is None else sizes[i]
            if not all(size):
                raise BadImage("no mask", "its picture cannot be had")
            mask = reader.read(row)
            _refuse_size(mask, size)
        except BadImage as bad:
            error[i] = str(bad)
            continue
        image = Image.fromarray(mask)
        for protocol, loaded in masks.items():
            loaded[i] = PROTOCOLS[protocol](image, resize)
    return LoadedMasks(masks, error)


def _refuse_size(mask: Mask, size: tuple[int, int]) -> None:
    height, width = mask.shape
    if (width, height) != size:
        turned = ", which is upright" if (height, width) == size else ""
        raise BadImage(
            "a mask of another size than its picture",
            f"{width} x {height}, the picture {size[0]} x {size[1]}{turned}",
        )
