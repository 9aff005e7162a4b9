"""timm's models of the families that are known here, their tags, and where weights are.

Told by ``timm_known.json``, which ``python -m pipeline.models.timm_table`` makes: timm itself takes
seconds to import.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from .checkpoint import HubFile

TABLE = Path(__file__).with_name("timm_known.json")
# Under which names repositories of timm keep weights, in timm's own order.
FILES = ("model.safetensors", "pytorch_model.bin")


@cache
def table() -> dict[str, Any]:
    """All that is known of timm's models."""
    content: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return content


def list_models() -> list[str]:
    """Names of models whose class some family here takes."""
    return list(table()["models"])


@cache
def refused() -> dict[str, str]:
    """Names of all other models, and in which of timm's files each is."""
    return {name: file for file, names in table()["refused"].items() for name in names}


def tags(name: str) -> list[str]:
    """A model's tags that have weights, its own choice first."""
    found = table()["models"].get(name, {}).get("tags", {})
    return [tag for tag, (_, hub, url) in found.items() if hub or url]


def settings(name: str, tag: str = "") -> dict[str, Any]:
    """timm's ``pretrained_cfg`` of a tag, as far as pictures and sizes need it.

    Parameters
    ----------
    name : str
        Of `list_models`.
    tag : str
        If it is none of the model's, those of its first.
    """
    found = table()["models"][name]["tags"]
    number, _, _ = found.get(tag) or next(iter(found.values()))
    of: dict[str, Any] = table()["settings"][number]
    return dict(of)


def checkpoint(name: str, tag: str) -> HubFile | dict[str, Any]:
    """Where a tag's weights are: a file of the hub, or, as open_clip writes it, a URL."""
    _, hub, url = table()["models"][name]["tags"][tag]
    if not hub:
        return {"url": url}
    repo, _, revision = _repository(name, tag, hub).partition("@")
    return HubFile(repo, FILES, revision or None)


def pool(name: str) -> str | None:
    """How a model pools by its own choice, where timm has a word for it."""
    found: str | None = table()["models"].get(name, {}).get("pool")
    return found


@cache
def _hubs() -> dict[str, tuple[str, str]]:
    return {
        _repository(name, tag, hub): (name, tag)
        for name, model in table()["models"].items()
        for tag, (_, hub, _) in model["tags"].items()
        if hub
    }


def of_hub(repo: str) -> tuple[str, str] | None:
    """Name and tag of the model whose weights a repository of the hub holds."""
    return _hubs().get(repo)


def _repository(name: str, tag: str, hub: str) -> str:
    """Most stand under timm's own name: the table keeps ``timm/`` of those."""
    return f"{hub}{name}.{tag}" if hub == "timm/" else str(hub)


def config(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A model's configuration as timm's hub lays it out: what decides how it is built.

    DINOv3 is read at its class token, as Meta publishes it; timm's own choice is the mean of its
    patches, which a configuration file with the ``global_pool`` "avg" asks for.

    Parameters
    ----------
    name : str
    settings : dict
        A ``pretrained_cfg``.
    """
    pooled = {"global_pool": "token"} if "_dinov3" in name else {}
    return {
        "architecture": name,
        "num_classes": settings["num_classes"],
        **pooled,
        "pretrained_cfg": {"input_size": list(settings["input_size"])},
    }
