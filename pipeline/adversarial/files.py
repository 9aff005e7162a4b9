"""Files that people write, as text."""

from __future__ import annotations

from pathlib import Path

from pipeline.images.lines import decode_text
from storage.errors import FacetError


def read_text(file: str, setting: str) -> str:
    """A file's text.

    Raises
    ------
    FacetError
        If it is none.
    """
    text, undecodable = decode_text(Path(file).read_bytes())
    if undecodable:
        raise FacetError(f"`{setting}` {file} is not UTF-8 text: convert it")
    return text
