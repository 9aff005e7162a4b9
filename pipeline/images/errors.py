"""What can go wrong with images, in three kinds that callers treat differently."""

from __future__ import annotations

from storage.errors import FacetError

REASON_LENGTH = 200


class SourceError(FacetError):
    """The SOURCE names nothing that can be listed: the user has to change it."""


class BadImage(ValueError):
    """One image cannot be had.

    Parameters
    ----------
    kind : str
        What is wrong, in a few words without a colon and without anything of this one image:
        images that are bad in the same way are counted together by it.
    detail : str
        Where, or with what.

    ``str`` gives the reason that the ledger keeps: ``kind: detail``, one printable line of at
    most ``REASON_LENGTH`` characters.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)

    @property
    def kind(self) -> str:
        return str(self.args[0])

    def __str__(self) -> str:
        return shortened(": ".join(part for part in self.args if part), REASON_LENGTH)


class SourceUnavailable(FacetError, OSError):
    """Storage did not answer after several attempts. It says nothing about the images."""


def shortened(text: str, length: int) -> str:
    """``text`` on one printable line; what is too long loses its middle."""
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if len(line) <= length:
        return line
    end = length // 4
    return f"{line[: length - end - 1]}…{line[-end:]}"
