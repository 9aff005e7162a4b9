"""Where weights come from, told before any are fetched."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ModelError

# What a file of weights ends in; an index names the files that hold a model's parts.
INDEX = ".index.json"
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", INDEX)
# Which of a folder's files is meant, as open_clip, timm and transformers write them.
PREFERRED = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth", "model.safetensors",
    "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "pytorch_model.pth", "model.pth",
)  # fmt: skip


@dataclass(frozen=True)
class HubFile:
    """A file of a repository of Hugging Face's hub, or of its cache on this machine."""

    repo: str
    """``organisation/name``."""
    names: tuple[str, ...]
    """Of the file; where there are several, the first that is there is meant."""
    revision: str | None = None
    """A branch, tag or commit; None for the newest."""


def hub_file_of(tag: Mapping[str, Any]) -> HubFile | None:
    """The file of an entry of open_clip's table of tags, where it is on the hub.

    As open_clip has it: safetensors before pickles.
    """
    repo, name = os.path.split(tag.get("hf_hub", ""))
    if not repo or "file" in tag:
        return None
    if not name or name == "open_clip_pytorch_model.bin":
        return HubFile(repo, ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"))
    root, suffix = os.path.splitext(name)
    safe = (f"{root}.safetensors",) if suffix in (".bin", ".pth") else ()
    return HubFile(repo, (*safe, name))


def weights_in(folder: Path) -> Path:
    """The file that holds a folder's weights.

    Raises
    ------
    ModelError
        If there is none, or several of which none has a name that settles it.
    """
    if found := next((folder / name for name in PREFERRED if (folder / name).is_file()), None):
        return found
    files = sorted(f for f in folder.glob("*") if f.name.endswith(WEIGHT_SUFFIXES))
    if len(files) != 1:
        held = ", ".join(f.name for f in files) or "none"
        raise ModelError(
            f"folder {folder} must hold one file of weights ({', '.join(WEIGHT_SUFFIXES)}), or "
            f"one called {PREFERRED[0]}; it has {held}"
        )
    return files[0]
