"""Where a job's results go: ``results/<job>/<digest of its configuration>/``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from . import urls
from .layout import RESULTS


def config_digest(config: Mapping[str, Any]) -> str:
    """First 16 hex digits of the sha256 of a JSON-able configuration."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def start_result(
    url: str, job: str, config: Mapping[str, Any], provenance: Mapping[str, Any]
) -> str:
    """Write ``config.json`` and ``provenance.json`` of one run; returns the run's URL."""
    place = urls.join(url, RESULTS, job, config_digest(config))
    for name, content in (("config.json", config), ("provenance.json", provenance)):
        text = json.dumps(content, indent=2, sort_keys=True)
        urls.put_bytes(urls.join(place, name), text.encode())
    return place
