"""Masks of objects: where they come from, and on the pixels of a model's input.

=====================  =================================================================
``microworld``         the embedded world's own, drawn with the picture
a folder               mask pictures by the key of their picture, whatever the suffix of
                       either: ``n01440764/x.JPEG`` has ``n01440764/x.png``
``gtsegs:PATH``        ImageNet-Segmentation's file, by the name that a key ends in, without its
                       suffix
=====================  =================================================================

A mask is one of the **upright** picture: where EXIF has a picture turned, its mask is of the
turned one, or says the same of itself.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from storage.layout import ROWS_PER_IMAGE_PART
from storage.objects import is_local, object_store
from storage.tables import StoreTables
from storage.urls import absolute

from . import micro
from .addresses import Addresses
from .decode import decode_values
from .errors import BadImage, SourceError
from .files import below, inside, kind_of, with_retries
from .gtsegs import PREFIX as GTSEGS
from .gtsegs import SegmentationFile, opened, place
from .mask_values import IGNORED, mask_of
from .micro import PREFIX
from .resize import Resize
from .rows import is_image_name

MICROWORLD = "microworld"
Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class MaskSource:
    """Where masks are looked for.

    Attributes
    ----------
    kind : {"microworld", "folder", "gtsegs"}
    url : str
        The folder or file; empty of the microworld.
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
    if text.startswith(GTSEGS):
        url = place(text)
        with opened(url):
            return MaskSource("gtsegs", url)
    if not text.strip():
        raise SourceError(f"The source of masks is empty: name {MICROWORLD} or a folder.")
    url = absolute(text)
    kind = kind_of(url)
    if kind is None:
        raise SourceError(
            f"masks {text!r}: there is no such folder. Name {MICROWORLD}, {GTSEGS}PATH, or a "
            "folder of mask pictures that are called as the keys of their pictures."
        )
    if kind != "directory":
        raise SourceError(
            f"masks {text!r} is a file: name the folder that mask pictures are in, or {GTSEGS}PATH "
            "for the file of ImageNet-Segmentation"
        )
    return MaskSource("folder", url)


# -- which pictures have one ------------------------------------------------------------------


def check_masks(tables: StoreTables, source: MaskSource) -> None:
    """Refuse masks of which no picture of a store has one, as far as names tell.

    Pictures without a mask beside others with one are no mistake.
    """
    has, first = _known(source), ""
    for start in range(0, tables.meta.images, ROWS_PER_IMAGE_PART):
        rows = tables.images(start, min(start + ROWS_PER_IMAGE_PART, tables.meta.images))
        if any(map(has, rows.select(["key", "uri"]).to_pylist())):
            return
        first = first or rows["key"][0].as_py()
    none = f"none of the {tables.meta.images:,} pictures"
    if source.kind == "microworld":
        raise SourceError(f"{none} is of the embedded world: name a folder of their masks")
    called = (
        f"it knows pictures by the names that their keys end in, as {_name(first)}"
        if source.kind == "gtsegs"
        else f"masks are called as the keys of their pictures, as {stem(first)}.png"
    )
    raise SourceError(f"{none} has a mask in {source.url}: {called}")


def _known(source: MaskSource) -> Callable[[dict[str, Any]], bool]:
    """Tells whether the picture of a row has a mask."""
    if source.kind == "microworld":
        return lambda row: row["uri"].startswith(PREFIX)
    if source.kind == "gtsegs":
        with opened(source.url) as file:
            named = {name for name, i in file.places().items() if file.has_mask(i)}
        return lambda row: _name(row["key"]) in named
    names = with_retries(lambda: _all_names(source.url), source.url)
    stems = _by_stem(names)
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


def _name(key: str) -> str:
    """What a key ends in, without the suffix of a picture."""
    return stem(key).rpartition("/")[2]


# -- reading ----------------------------------------------------------------------------------


class MaskReader:
    """Reads masks as they are; what it has listed or opened is kept for the next one."""

    def __init__(self, source: MaskSource) -> None:
        self._source = source
        self._addresses = Addresses()
        self._listed: dict[str, dict[str, list[str]]] = {}
        self._file: SegmentationFile | None = None
        self._places: dict[str, int] = {}

    def __enter__(self) -> MaskReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

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
            return micro.mask(row["uri"], row["offset"])
        if self._source.kind == "gtsegs":
            return with_retries(lambda: self._element(row), self._source.url)
        return mask_of(decode_values(self._addresses.read(self._picture(stem(row["key"])))))

    def _element(self, row: dict[str, Any]) -> Mask:
        """The mask of a picture in the file that it came from, or that knows its name."""
        url = self._source.url
        if self._file is None:
            self._file = SegmentationFile(url)
        if row["uri"] == GTSEGS + url and row["offset"] is not None:
            return self._file.mask(row["offset"])
        self._places = self._places or self._file.places()
        name = _name(row["key"])
        if name not in self._places:
            raise BadImage("no mask", f"{url} has no picture {name}")
        return self._file.mask(self._places[name])

    def _picture(self, name: str) -> str:
        """The one mask picture whose path without its suffix is ``name``."""
        start = inside(self._source.url, name)
        folder, _, own = start.rpartition("/")
        found = self._names(folder, own)
        if not found or ".." in name.split("/"):
            raise BadImage("no mask", f"{start}.*")
        if len(found) > 1:
            raise BadImage("several masks", f"{folder}: {', '.join(sorted(found))}")
        return f"{folder}/{found[0]}"

    def _names(self, folder: str, own: str) -> list[str]:
        """Names of pictures in a folder that are ``own`` without their suffixes."""
        if not is_local(folder):
            fs, path = object_store(folder)
            found = with_retries(lambda: fs.find(path, prefix=f"{own}."), folder)
            return _by_stem(below(path.rstrip("/"), name) for name in found).get(own, [])
        if folder not in self._listed:
            names = with_retries(lambda: _local_names(folder), folder)
            self._listed[folder] = _by_stem(names)
        return self._listed[folder].get(own, [])


def _local_names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name in filter(is_image_name, names):
        found[stem(name)].append(name)
    return found


@dataclass(frozen=True)
class LoadedMasks:
    """Masks of n pictures on the pixels of a model's input, and what became of each.

    Attributes
    ----------
    masks : dict of str to (n, height, width) uint8
        By protocol: 0 background, 1 foreground, 255 ignored. All ignored where there is an error.
        One without any foreground, or without background, is none: an object may fill its picture,
        or lie outside of the crop.
    error : list of str or None
        Why a picture has no mask, in words: ``kind: detail``.
    """

    masks: dict[str, Mask]
    error: list[str | None]


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
    sizes: Sequence[tuple[int, int]],
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
    sizes : sequence of (int, int)
        Width and height of each upright picture, 0 of one that cannot be had.

    Raises
    ------
    SourceUnavailable
        If the storage does not answer: that is no mask's fault.
    """
    shape = (len(rows), resize.height, resize.width)
    masks = {protocol: np.full(shape, IGNORED, np.uint8) for protocol in protocols}
    error: list[str | None] = [None] * len(rows)
    with MaskReader(source) as reader:
        for i, row in enumerate(rows.select(["key", "uri", "offset"]).to_pylist()):
            try:
                if not all(sizes[i]):
                    raise BadImage("no mask", "its picture cannot be had")
                mask = reader.read(row)
                _refuse_size(mask, sizes[i])
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
