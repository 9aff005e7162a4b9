"""Text that others wrote, from bytes: one reading for pools, classes, captions and metadata.

UTF-8, or UTF-16 or UTF-32 where the text begins with their byte order mark. The mark is no part
of the text. Only ``\\n``, ``\\r\\n`` and ``\\r`` end a line: U+2028, U+0085, form feeds and the
like, at which Python's ``splitlines`` cuts too, are blanks within one.
"""

from __future__ import annotations

import codecs
import re

MARK = "\ufeff"
# The longer marks first: UTF-32's begins as UTF-16's does.
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# No decoder gives lone surrogates, so they can stand for the bytes that it could not decode.
_UNDECODABLE = re.compile("[\udc00-\udcff]")


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    bad = error.object[error.start : error.end]
    return "".join(chr(0xDC00 | byte) for byte in bad), error.end


codecs.register_error("facet-escape", _escape)


def decode_text(data: bytes) -> tuple[str, int]:
    """The text, and how many bytes could not be decoded: each is a U+FFFD in it."""
    encoding = next((name for mark, name in _ENCODINGS if data.startswith(mark)), "utf-8")
    text = data.decode(encoding, "facet-escape").removeprefix(MARK)
    return _UNDECODABLE.subn("\ufffd", text)


def lines(text: str) -> list[str]:
    """Its lines, without their ends, nor the marks of files that were joined to one."""
    if not text:
        return []
    found = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    return [line.removeprefix(MARK) for line in found]
