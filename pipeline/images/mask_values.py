"""What the numbers of a mask picture say: background, foreground, or nothing.

A file's own numbers count, not their colours: of a palette the places in it.

==================  ==========================  ===========  ===========
a file of           holds                       is 0         is 1
==================  ==========================  ===========  ===========
grey, or one bit    0 and one other number      0            the other
grey                0, 1 and 255                0            1
a palette           0, 255 and others           0            the others
==================  ==========================  ===========  ===========

255 in the last two is ignored, as PASCAL VOC has it. Colours of three equal channels are grey.
Everything else could mean one thing or another, and is refused: further levels of grey (soft
edges, classes, a trimap), a palette's 255 without any number of an object, colours, transparency.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import BadImage

BACKGROUND, FOREGROUND, IGNORED = 0, 1, 255
SHOWN = 6  # numbers that a refusal names


def mask_of(image: Image.Image) -> NDArray[np.uint8]:
    """The mask of a mask picture.

    Parameters
    ----------
    image : Image
        As ``decode.decode_values`` gives it.

    Returns
    -------
    (height, width) uint8
        ``BACKGROUND``, ``FOREGROUND`` or ``IGNORED``.

    Raises
    ------
    BadImage
        If its numbers do not say which.
    """
    if image.mode == "P":
        return _of_palette(np.asarray(image))
    if image.mode in ("1", "L", "I") or image.mode.startswith("I;16"):
        return mask_of_grey(np.asarray(image))
    channels = np.asarray(image)
    if image.mode in ("LA", "RGBA"):
        if not (channels[..., -1] == 255).all():
            raise BadImage("a mask with transparency", "write 0, 1 and, for ignored, 255 as grey")
        channels = channels[..., :-1]
    elif image.mode != "RGB":
        raise BadImage("a mask of colours", f"mode {image.mode}; write 0, 1 and 255 as grey")
    if not (channels == channels[..., :1]).all():
        raise BadImage("a mask of colours", "write 0, 1 and 255 as grey, or classes as a palette")
    return mask_of_grey(channels[..., 0])


def mask_of_grey(values: NDArray) -> NDArray[np.uint8]:
    """The mask that whole numbers from 0, (height, width), are: as ``mask_of`` has grey."""
    found = _found(values)
    others = [v for v in found if v != 0]
    if len(others) <= 1:
        return (values != 0).astype(np.uint8)
    if others == [1, IGNORED]:
        return values.astype(np.uint8)
    raise BadImage(
        "a mask of several levels of grey",
        f"{_listed(found)}; write 0, 1 and, for ignored, 255, or classes as a palette",
    )


def _of_palette(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    found = _found(values)
    if IGNORED in found and not set(found) - {BACKGROUND, IGNORED}:
        raise BadImage(
            "a mask of a palette's 255 and no other object",
            "whether that is the object or ignored is not said; write it as grey",
        )
    mask = (values != 0).astype(np.uint8)
    mask[values == IGNORED] = IGNORED
    return mask


def _found(values: NDArray) -> list[int]:
    """Its numbers, each once, in order."""
    return np.flatnonzero(np.bincount(values.ravel().astype(np.int64))).tolist()


def _listed(found: list[int]) -> str:
    return ", ".join(map(str, found[:SHOWN])) + (", …" if len(found) > SHOWN else "")
