"""Which models are supported, and what to say of a name that is not."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from . import openclip_files as open_clip
from . import timm_names
from .configs import WORLD, of_world
from .families import family_of
from .names import Name, open_clip_hubs

NEAR = 5
LIBRARIES = ("open_clip", "timm")


def configuration(library: str, name: str) -> dict[str, Any]:
    """A library's configuration of one of its models; timm's of the tag that is its own choice."""
    if library == "microworld":
        return of_world(name).config
    if library == "open_clip":
        return open_clip.get_model_config(name)
    if name in timm_names.refused():
        return {"architecture": name}
    return timm_names.config(name, timm_names.settings(name))


@cache
def supported(library: str) -> tuple[str, ...]:
    """A library's own names of models that a family here takes."""
    names = open_clip.list_models() if library == "open_clip" else timm_names.list_models()
    return tuple(name for name in names if family_of(configuration(library, name)))


def supported_models() -> tuple[str, ...]:
    """Names of all supported models, as they are given: timm's begin with ``timm:``."""
    return (*supported("open_clip"), *(f"timm:{name}" for name in supported("timm")))


def near(text: str, names: tuple[str, ...]) -> list[str]:
    """Names that are most like a text."""
    folded = {name.lower(): name for name in names}
    return [folded[n] for n in get_close_matches(text.lower(), folded, n=NEAR, cutoff=0.5)]


def others(name: Name) -> str:
    """What there is in place of a name, in words."""
    library = "timm" if name.library == "timm" else "open_clip"
    named = tuple(n for n in supported(library) if n != name.name)
    prefix = "timm:" if library == "timm" else ""
    found = [prefix + n for n in near(name.name, named)]
    hint = f"Near names that can: {', '.join(found)}. " if found else ""
    return f"{hint}{_counts()}"


def unknown(name: Name) -> str:
    """That a library has no model of a name, and what may be meant."""
    if name.library == "microworld":
        return f"unknown model {name.spelled!r}: the embedded world's are {', '.join(WORLD)}"
    said = f"unknown model {name.spelled!r}"
    if name.library == "timm":
        found = [f"timm:{n}" for n in near(name.name, supported("timm"))]
    else:
        bare = name.name.partition("/")[0].partition(".")[0]
        if bare in timm_names.list_models() or bare in timm_names.refused():
            return f"{said}: timm's names are written timm:{name.name}"
        if Path(name.name).expanduser().is_dir():
            return f"model {name.name} is a folder: write local-dir:{name.name}"
        if hub := open_clip_hubs().get(name.name):
            return f"{said}: write {hub[0]}/{hub[1]}, or hf-hub:{name.name}"
        if name.name.count("/") == 1 and not name.name.startswith((".", "/", "~")):
            said += f"; if it is a repository of Hugging Face's hub, write hf-hub:{name.name}"
        found = near(name.name.replace("/", "-"), (*supported("open_clip"), *WORLD))
    hint = f"; near names: {', '.join(found)}" if found else ""
    return f"{said}{hint}. {_counts()}"


def _counts() -> str:
    return (
        f"Supported are {len(supported('open_clip'))} of open_clip's names and "
        f"{len(supported('timm'))} of timm's"
    )


def tags(name: Name) -> list[str]:
    """Tags of a model's weights."""
    if name.library == "open_clip":
        return open_clip.list_pretrained_tags_by_model(name.name)
    return timm_names.tags(name.name) if name.library == "timm" else [*filter(None, [name.usual])]


def unsaid(name: Name) -> str:
    """That a name does not say which weights, and how it would."""
    known = tags(name)
    if not known:
        return (
            f"model {name.spelled}: say by which weights, as `pretrained` FILE, or none for random "
            "weights"
        )
    more = f" and {len(known) - NEAR} more" if len(known) > NEAR else ""
    return (
        f"model {name.spelled}: say by which weights, as {name.spelled}/{known[0]}; its tags: "
        f"{', '.join(known[:NEAR])}{more}"
    )
