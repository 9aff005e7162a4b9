"""Where the weights file of a store's model was found last: no part of the store's identity."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from . import urls, views

PLACE = "weights.json"


def remember(url: str, file: str | Path) -> None:
    """Note the file, by its absolute path; it was read and holds the store's weights."""
    path = Path(file).expanduser().absolute()
    noted, seen = _note(url), _seen(path)
    if noted.get("file") == str(path) and seen.items() <= noted.items():
        return
    if seen:
        seen["sha256"] = _sha256(path)
    urls.put_bytes(urls.join(url, PLACE), json.dumps({"file": str(path), **seen}).encode())


def remembered(url: str) -> str | None:
    """The path that was noted last, in a view or in its store; None where none was."""
    return _note(url).get("file")


def holds(url: str, file: str | Path) -> bool:
    """Whether a file is, to the byte, the one that was noted last: told without loading a model.

    The very file, of the size and the times that were noted, is not read.
    """
    path = Path(file).expanduser().absolute()
    noted, seen = _note(url), _seen(path)
    if "sha256" not in noted or not seen or seen["size"] != noted["size"]:
        return False
    same = noted["file"] == str(path) and seen.items() <= noted.items()
    return same or _sha256(path) == noted["sha256"]


def _note(url: str) -> dict[str, Any]:
    place = urls.join(url, PLACE)
    if not urls.exists(place) and (store := views.source(url)) is not None:
        place = urls.join(store, PLACE)
    return dict(json.loads(urls.read_bytes(place))) if urls.exists(place) else {}


def _seen(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found = path.stat()
    # Whoever copies a file can give it the time of another, but not that of its last change.
    return {
        "size": found.st_size,
        "modified": found.st_mtime_ns,
        "changed": found.st_ctime_ns,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
