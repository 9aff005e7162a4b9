"""Where weights come from, told before any are fetched."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HubFile:
    """A file of a repository of Hugging Face's hub, or of its cache on this machine."""

    repo: str
    """``organisation/name``."""
    names: tuple[str, ...]
    """Of the file; where there are several, the first that is there is meant."""
    revision: str | None = None
    """A branch, tag or commit; None for the newest."""
