"""How a model is named: of which library, under which name there, with which weights.

``ViT-B-32``, ``open_clip:ViT-B-32/openai``, ``timm:NAME/TAG``, ``timm:NAME.TAG``,
``hf-hub:ORG/NAME``, ``local-dir:PATH``, the path or URL of a configuration (.json),
``microworld``, ``microworld:mae``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from . import openclip_files as open_clip
from . import timm_names
from .errors import ModelError

Library = Literal["open_clip", "timm", "hf-hub", "local-dir", "config", "microworld"]
PREFIXES: tuple[Library, ...] = ("open_clip", "timm", "hf-hub", "local-dir", "microworld")
HUBS = ("https://huggingface.co/", "hf://")
# transformers' names of weights that open_clip has, too.
OPENAI = {
    "base-patch32": "ViT-B-32-quickgelu",
    "base-patch16": "ViT-B-16-quickgelu",
    "large-patch14": "ViT-L-14-quickgelu",
    "large-patch14-336": "ViT-L-14-336-quickgelu",
}
OWN = "own"
"""The weights that stand beside a configuration, in a folder or a repository of the hub."""


@dataclass(frozen=True)
class Name:
    """What a model's name says; nothing is known yet of whether there is such a model."""

    library: Library
    name: str
    """Under which the library has it; a path, URL or repository where there is none."""
    spelled: str
    """As it was written, without what is said of weights: a store calls its model so."""
    weights: str = ""
    """A tag, a weights file or ``none``; empty where the name says nothing of them."""
    usual: str = ""
    """Those that are meant where nothing is said; empty where that is not certain."""


def parse(text: str) -> Name:
    """What a name means.

    Raises
    ------
    ModelError
        If nothing stands behind the library, or weights are named twice and not the same.
    """
    library, colon, rest = text.partition(":")
    if text.partition("/")[0].partition(":")[0] == "microworld":
        spelled, _, weights = text.partition("/")
        return Name("microworld", spelled, spelled, weights, usual="microworld")
    if colon and library in PREFIXES and not rest.strip("/"):
        raise ModelError(f"model {text!r}: write what is meant behind {library}:")
    if colon and library == "timm":
        return _timm(text, rest)
    if colon and library == "local-dir":
        return Name("local-dir", rest, text, usual=OWN)
    if text.endswith(".json"):
        return Name("config", text, text)
    for host in HUBS:
        if text.startswith(host):
            library, colon, rest = "hf-hub", ":", text.removeprefix(host)
    if colon and library == "hf-hub":
        return _hub(text, rest.strip("/"))
    return _open_clip(rest if colon and library == "open_clip" else text)


def _open_clip(text: str) -> Name:
    """A name with slashes in it, too: OpenAI wrote ViT-B/32."""
    known, parts = set(open_clip.list_models()), text.split("/")
    for n in range(len(parts), 0, -1):
        if (name := "-".join(parts[:n])) in known:
            tags = open_clip.list_pretrained_tags_by_model(name)
            usual = tags[0] if len(tags) == 1 else ""
            return Name("open_clip", name, "/".join(parts[:n]), "/".join(parts[n:]), usual)
    return Name("open_clip", text, text)


def _timm(text: str, rest: str) -> Name:
    full, _, weights = rest.partition("/")
    name, _, tag = full.partition(".")
    if tag and weights and tag != weights:
        raise ModelError(f"model {text!r} names two weights, {tag} and {weights}: write one")
    usual = next(iter(timm_names.tags(name)), "")
    return Name("timm", name, f"timm:{name}", tag or weights, usual)


def _hub(text: str, place: str) -> Name:
    """A repository; one whose weights a library has a tag for is that library's model."""
    repo, _, revision = place.partition("@")
    if repo.count("/") != 1:
        raise ModelError(f"model {text!r}: write hf-hub:ORGANISATION/NAME")
    if not revision and (known := open_clip_hubs().get(repo)):
        return Name("open_clip", known[0], known[0], usual=known[1])
    if not revision and (known := timm_names.of_hub(repo)):
        return Name("timm", known[0], f"timm:{known[0]}", usual=known[1])
    return Name("hf-hub", place, f"hf-hub:{place}", usual=OWN)


@cache
def open_clip_hubs() -> dict[str, tuple[str, str]]:
    """Repositories of the hub that hold weights of open_clip's tags: model and tag of each."""
    found = {f"openai/clip-vit-{old}": (new, "openai") for old, new in OPENAI.items()}
    for name in open_clip.list_models():
        for tag in open_clip.list_pretrained_tags_by_model(name):
            entry = open_clip.get_pretrained_cfg(name, tag)
            place = entry.get("hf_hub", "").split("/")
            if len(place) > 1 and bool(entry.get("quick_gelu")) == name.endswith("-quickgelu"):
                found.setdefault("/".join(place[:2]), (name, tag))
    return found
