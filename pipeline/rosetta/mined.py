"""Whether units were mined at a place; light, as it is asked before models are loaded."""

from __future__ import annotations

from storage import urls
from storage.errors import FacetError, Remedy
from storage.layout import SETUP


class NotMined(FacetError):
    """No units that a generator shares with another model were mined at a place."""

    def __init__(self, url: str) -> None:
        mining = {"generator": "microworld-generator", "models": "microworld-cnn"}
        super().__init__(
            f"no mining with a generator at {url}", Remedy.first("rosetta", url, **mining)
        )


def refuse_unmined(url: str) -> None:
    """Refuse a place where nothing was mined."""
    if not urls.exists(urls.join(url, SETUP)):
        raise NotMined(url)
