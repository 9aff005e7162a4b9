"""TIFF files written by hand, so that what their numbers mean is known."""

import struct
from collections.abc import Iterable, Sequence

import numpy as np

LONGS = (256, 257, 273, 278, 279)


def tiff(
    planes: bytes | Sequence[bytes],
    size: tuple[int, int],
    tags: dict[int, int | Sequence[int]],
    order: str = "<",
) -> bytes:
    """An uncompressed TIFF.

    Parameters
    ----------
    planes : bytes or sequence of bytes
        The pixels, one strip; or one strip a plane.
    size : (int, int)
        Width and height.
    tags : dict
        At least 258 (bits of each sample). 262 is the photometric interpretation, 277 the
        samples of a pixel.
    order : {"<", ">"}
    """
    strips = [planes] if isinstance(planes, bytes) else list(planes)
    starts = 8 + np.cumsum([0, *map(len, strips)])
    entries = {256: size[0], 257: size[1], 259: 1, 277: 1, 278: size[1], **tags}
    entries |= {273: [int(s) for s in starts[:-1]], 279: [len(s) for s in strips]}
    at = int(starts[-1]) + int(starts[-1]) % 2
    further_at = at + 2 + 12 * len(entries) + 4
    directory, further = struct.pack(order + "H", len(entries)), b""
    for tag, value in sorted(entries.items()):
        values = list(value) if isinstance(value, Iterable) else [value]
        kind, letter = (4, "I") if tag in LONGS else (3, "H")
        data = struct.pack(f"{order}{len(values)}{letter}", *values)
        directory += struct.pack(order + "HHI", tag, kind, len(values))
        if len(data) > 4:
            directory += struct.pack(order + "I", further_at + len(further))
            further += data + b"\0" * (len(data) % 2)
        else:
            directory += data.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    body = b"".join(strips)
    return head + body + b"\0" * (len(body) % 2) + directory + b"\0\0\0\0" + further


def packed(values: np.ndarray, bits: int) -> bytes:
    """Rows of numbers of fewer than 8, or of 10, 12 or 14 bits, each row filled up to a byte."""
    bytes_of_row = []
    for row in values:
        digits = ((row[..., None].astype(int) >> np.arange(bits)[::-1]) & 1).astype(np.uint8)
        bytes_of_row.append(np.packbits(digits.ravel()).tobytes())
    return b"".join(bytes_of_row)
