"""The ways from a file to pixels, each an identity of its own: a store is made in one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from storage.errors import StoreMismatch

from .decode import DECODING

Decode = Literal["exact", "fast", "gpu"]
WAYS: tuple[Decode, ...] = get_args(Decode)

# Part of a store's identity. All have the same rules; what differs is arithmetic.
DECODINGS: dict[Decode, str] = {
    "exact": DECODING,
    "fast": f"fast, {DECODING}; bicubic and bilinear resizing by torch's integers of 16 bits",
    "gpu": f"gpu, {DECODING}; plain JPEGs decoded by nvJPEG and resized on the card, others fast",
}

# Images that one core reads, decodes and resizes in a second while all others do, too; `gpu`:
# reads, and leaves the rest to the card. Photographs of ImageNet's size: benchmarks/README.md.
RATES: dict[Decode, float] = {"exact": 185.0, "fast": 320.0, "gpu": 2800.0}


def decode_of(preprocessing: Mapping[str, Any]) -> Decode:
    """The way that preprocessing settings were made with; ``exact`` of those from before others."""
    said = preprocessing.get("decoding", "")
    return next((way for way in WAYS if said.startswith(f"{way}, ")), "exact")


def refuse_other_decode(url: str, preprocessing: Mapping[str, Any], asked: Decode | None) -> None:
    """Refuse to go on with a store whose pictures were read in another way.

    Parameters
    ----------
    url : str
    preprocessing : mapping
        The store's.
    asked : Decode or None
        None: whatever the store has.

    Raises
    ------
    StoreMismatch
        Naming both.
    """
    has = decode_of(preprocessing)
    if asked not in (None, has):
        raise StoreMismatch(
            f"`decode` {asked}: the pictures of {url} were read with `decode` {has}, and one store "
            f"does not mix them: ask for {has}, or for another store"
        )
