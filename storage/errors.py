"""What can go wrong through no fault of the code, as exceptions whose message says what to do.

A message names a setting between backticks, as `batch_size`, and the work that would mend things by
the name of its results: how either is asked for is the business of whoever shows the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Remedy:
    """Work that would mend an error.

    Attributes
    ----------
    name : str
        As its results are called: ``second_order``.
    url : str
        Where it is to be done.
    settings : dict
        Those that matter; None is left out.
    again : bool
        Whether it was done before, and is to be done anew.
    """

    name: str
    url: str
    settings: dict[str, Any]
    again: bool

    @classmethod
    def first(cls, name: str, url: str, **settings: object) -> Remedy:
        """Work that has to be done before."""
        return cls(name, url, settings, again=False)

    @classmethod
    def anew(cls, name: str, url: str, **settings: object) -> Remedy:
        """Work whose results no longer fit."""
        return cls(name, url, settings, again=True)


class FacetError(ValueError):
    """Something the user can mend; the message says what was wrong, where, and what to do.

    Parameters
    ----------
    message : str
    remedy : Remedy, optional
        What would mend it.
    """

    def __init__(self, message: str, remedy: Remedy | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


class StoreError(FacetError):
    """A store is missing, unfinished, damaged or not the one that was asked for."""


class StoreMismatch(StoreError):
    """A store exists and was made with another configuration."""


class StoreDtypeError(StoreError):
    """A value does not fit the store's dtype."""


class NotFinite(FacetError):
    """A number is NaN or infinite where none may be."""
