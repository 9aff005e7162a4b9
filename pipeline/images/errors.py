"""What can go wrong with images, in three kinds that callers treat differently."""

from storage.errors import FacetError


class SourceError(FacetError):
    """The SOURCE names nothing that can be listed: the user has to change it."""


class BadImage(ValueError):
    """One image cannot be had. Its message is the reason, in one line, for the ledger."""


class SourceUnavailable(FacetError, OSError):
    """Storage did not answer after several attempts. It says nothing about the images."""
