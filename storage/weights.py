"""Where the weights file of a store's model was found last: no part of the store's identity."""

from __future__ import annotations

import json
from pathlib import Path

from . import urls

PLACE = "weights.json"


def remember(url: str, file: str | Path) -> None:
    """Note the file, by its absolute path; it was read and holds the store's weights."""
    path = str(Path(file).expanduser().absolute())
    if remembered(url) != path:
        urls.put_bytes(urls.join(url, PLACE), json.dumps({"file": path}).encode())


def remembered(url: str) -> str | None:
    """The path that was noted last; None where none was."""
    place = urls.join(url, PLACE)
    return str(json.loads(urls.read_bytes(place))["file"]) if urls.exists(place) else None
