"""A configuration that tests of models change a little, and its file."""

from pathlib import Path
from typing import Any

from tests import tiny

CONFIG = tiny.tiny(
    {"image_size": 16, "width": 24, "layers": 2, "head_width": 8},
    {"context_length": 8, "vocab_size": 64},
    embed_dim=12,
)


def write_config(
    folder: Path,
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    name: str = "tiny.json",
    **top: Any,
) -> str:
    """`CONFIG` with what is given in place of its own."""
    towers = {
        "vision_cfg": {**CONFIG["vision_cfg"], **(vision or {})},
        "text_cfg": {**CONFIG["text_cfg"], **(text or {})},
    }
    return tiny.write_config(folder, {**CONFIG, **towers, **top}, name)
