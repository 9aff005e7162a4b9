"""Where the weights file of a store's model was found last: no part of the store's identity."""

from __future__ import annotations

import json
from pathlib import Path

from . import urls, views

PLACE = "weights.json"


def remember(url: str, file: str | Path) -> None:
    """Note the file, by its absolute path; it was read and holds the store's weights."""
    path = str(Path(file).expanduser().absolute())
    if remembered(url) != path:
        urls.put_bytes(urls.join(url, PLACE), json.dumps({"file": path}).encode())


def remembered(url: str) -> str | None:
    """The path that was noted last, in a view or in its store; None where none was."""
    place = urls.join(url, PLACE)
    if not urls.exists(place) and (store := views.source(url)) is not None:
        place = urls.join(store, PLACE)
    return str(json.loads(urls.read_bytes(place))["file"]) if urls.exists(place) else None
