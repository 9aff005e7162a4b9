"""The embedded world's models that are no CLIP: what their configurations and weights are.

A configuration is the zoo's own arguments of the model and, under ``microworld``, its name there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.microworld.cards import WEIGHTS

KINDS = ("mae", "cnn")
# The zoo's, for all its models.
PICTURES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def configuration(kind: str) -> dict[str, Any]:
    """The configuration of one of `KINDS`."""
    return {"microworld": kind, **json.loads((WEIGHTS / f"{kind}.json").read_text())}


def arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The zoo's arguments in a configuration."""
    return {name: value for name, value in config.items() if name != "microworld"}


def weights(kind: str) -> Path:
    """The trained weights of one of `KINDS`, or of ``clip``."""
    return WEIGHTS / f"{kind}.safetensors"
