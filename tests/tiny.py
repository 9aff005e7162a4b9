"""Configurations of OpenCLIP models so small that a test makes one in no time."""

import json
from pathlib import Path
from typing import Any

VISION = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 3, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
# Where no text is ever encoded, by the tokenizer's words.
FEW_WORDS = {"context_length": 8, "vocab_size": 100}


def tiny(
    vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **top: Any
) -> dict[str, Any]:
    """A configuration that differs from the tiniest in what is given."""
    towers = {"vision_cfg": {**VISION, **(vision or {})}, "text_cfg": {**TEXT, **(text or {})}}
    return {"embed_dim": 24, **towers, **top}


def write_config(folder: Path, config: dict[str, Any], name: str = "tiny.json") -> str:
    """The file that ``--model`` takes."""
    path = folder / name
    path.write_text(json.dumps(config))
    return str(path)
