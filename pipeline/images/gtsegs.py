"""ImageNet-Segmentation's file as a source: ``gtsegs:gtsegs_ijcv.mat``, pictures and masks in one.

A MATLAB 7.3 file is HDF5. Here it holds a structure ``value`` of as many elements as pictures,
whose fields are references to arrays that MATLAB stores column by column, so with their axes
turned round:

=======  ================================================================================
``img``  uint8 (3, width, height): the picture
``gt``   cells: the picture's masks, of which the first counts, (width, height): 0 and 1
``id``   UTF-16: the picture's name, ``n02084071_1234``, which begins with its synset
=======  ================================================================================

(Guillaumin, Küttel and Ferrari, *ImageNet Auto-Annotation with Segmentation Propagation*,
IJCV 2014.) Keys are the names, labels their synsets; ``offset`` is the picture's place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.objects import is_local
from storage.urls import absolute

from .errors import BadImage, SourceError
from .files import open_file, refuse_larger
from .mask_values import mask_of_grey
from .rows import ListingReport, Piece, clean, image_table

PREFIX = "gtsegs:"
FIELDS = ("img", "gt", "id")
SYNSET = re.compile(r"(n\d{8})_")
T = TypeVar("T")


def gtsegs_pieces(source: str) -> list[Piece]:
    """The file, which is one piece.

    Raises
    ------
    SourceError
        If it is not there, or not of that layout.
    """
    url = place(source)
    with opened(url):
        return [Piece("gtsegs", PREFIX + url, "")]


def place(source: str) -> str:
    """The path of the file that a source names."""
    name = source.removeprefix(PREFIX)
    if not name.strip():
        raise SourceError(f"{source}: name the file, as in {PREFIX}gtsegs_ijcv.mat")
    url = absolute(name)
    if not is_local(url):
        raise SourceError(f"{source}: copy the file to a disk that every node sees, and name that")
    return url


def list_gtsegs(piece: Piece) -> tuple[pa.Table, ListingReport]:
    """Rows by place; no picture is read."""
    report, rows, metadata = ListingReport(), [], []
    with opened(piece.url.removeprefix(PREFIX)) as file:
        for place, name in enumerate(file.names()):
            synset = SYNSET.match(name)
            rows.append(
                {
                    "key": name,
                    "uri": piece.url,
                    "offset": place,
                    "length": None,
                    "label": synset and synset[1],
                    "caption": None,
                }
            )
            metadata.append({"mask": "gtsegs" if file.has_mask(place) else None})
    return image_table(rows, metadata, report), report


@contextmanager
def opened(url: str) -> Iterator[SegmentationFile]:
    """The file, its layout looked at.

    Raises
    ------
    SourceError
        If it cannot be read, or is not of that layout.
    """
    try:
        file = SegmentationFile(url)
    except FileNotFoundError as error:
        raise SourceError(f"{url} does not exist. Check the spelling.") from error
    except BadImage as error:
        raise SourceError(
            f"{url} is no file as ImageNet-Segmentation's gtsegs_ijcv.mat (MATLAB 7.3, a structure "
            f"'value' with {', '.join(FIELDS)}): {error}"
        ) from error
    except OSError as error:
        raise SourceError(f"{url} cannot be read: {error}") from error
    try:
        yield file
    except BadImage as error:
        raise SourceError(f"{url}: {error}. Fetch the file again.") from error
    finally:
        file.close()


class SegmentationFile:
    """Pictures and masks of one file, which stays open.

    Raises
    ------
    BadImage
        If it is not HDF5, is cut, or lacks a field. As do all methods where it is damaged.
    SourceError
        If h5py is not installed.
    """

    def __init__(self, url: str) -> None:
        h5py = _h5py()
        self._url = url
        open_file(url)[0].close()  # the system's own words where it cannot be
        self._file = self._told(lambda: h5py.File(url, "r", locking=False))
        try:
            self._refs = self._told(lambda: {name: self._field(h5py, name) for name in FIELDS})
            counts = {name: len(refs) for name, refs in self._refs.items()}
            if len(set(counts.values())) > 1:
                raise BadImage("fields of different lengths", f"{counts}")
        except BadImage:
            self._file.close()
            raise

    def _field(self, h5py: ModuleType, name: str) -> NDArray[np.object_]:
        """References to what a field holds, element by element."""
        field = self._file.get(f"value/{name}")
        if not isinstance(field, h5py.Dataset) or not h5py.check_ref_dtype(field.dtype):
            raise BadImage(f"no references at value/{name}")
        return np.asarray(field).ravel()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def names(self) -> list[str]:
        """Every picture's name, in order."""
        return self._told(lambda: [_text(self._file[ref]) for ref in self._refs["id"]])

    def places(self) -> dict[str, int]:
        """The place of every picture by its name; of two alike, the first."""
        return {name: i for i, name in reversed(list(enumerate(self.names())))}

    def has_mask(self, place: int) -> bool:
        """Whether a picture has a mask."""
        return self._told(lambda: self._mask(place)) is not None

    def picture(self, place: int) -> bytes:
        """A picture as an encoded one, binary PPM."""
        self._refuse_place(place)

        def read() -> bytes:
            data = self._file[self._refs["img"][place]]
            if data.dtype != np.uint8 or data.ndim != 3 or data.shape[0] != 3:
                raise BadImage("no colours of 8 bits", f"{data.dtype} {data.shape}")
            refuse_larger(data.size, self._url)
            pixels = np.asarray(data).transpose(2, 1, 0)
            return b"P6 %d %d 255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()

        return self._told(read)

    def mask(self, place: int) -> NDArray[np.uint8]:
        """A picture's mask, (height, width), as ``mask_values`` has it."""
        self._refuse_place(place)

        def read() -> NDArray[np.uint8]:
            data = self._mask(place)
            if data is None:
                raise BadImage("no mask", f"element {place} of {self._url} has none")
            if data.dtype.kind not in "ub" or data.ndim != 2:
                raise BadImage("a mask that is no matrix", f"{data.dtype} {data.shape}")
            refuse_larger(data.nbytes, self._url)
            return mask_of_grey(np.asarray(data).T)

        return self._told(read)

    def _mask(self, place: int) -> Any:
        """The first of a picture's masks; None if it has none."""
        cells = self._file[self._refs["gt"][place]]
        if "MATLAB_empty" in cells.attrs or not cells.size:
            return None
        data = self._file[np.asarray(cells).ravel()[0]]
        return None if "MATLAB_empty" in data.attrs else data

    def _refuse_place(self, place: int) -> None:
        if not 0 <= place < (n := len(self._refs["img"])):
            raise BadImage("no such element", f"{place}, {self._url} has {n}")

    def _told(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except (BadImage, MemoryError):
            raise
        except Exception as error:  # damaged bytes raise nearly anything inside HDF5
            if isinstance(error, OSError) and (error.errno or "errno = " in str(error)):
                raise  # the disk is at fault
            said = " ".join(str(error).split()) or type(error).__name__
            raise BadImage("damaged MATLAB file", f"{self._url}, {said}") from error


def _text(characters: Any) -> str:
    """MATLAB's text: numbers of 16 bits."""
    return clean(np.asarray(characters).astype("<u2").tobytes().decode("utf-16-le").strip())


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise SourceError(
            f"{PREFIX} needs a package that is not installed: pip install 'facet-interp[mat]', "
            "here and on every node"
        ) from error
    return h5py
