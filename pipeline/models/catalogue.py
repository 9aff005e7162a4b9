"""All models by name: which are supported, what they look like, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from storage import layout
from storage.metadata import Metadata

from . import openclip_files as open_clip
from . import timm_names
from .configs import WORLD
from .families import FAMILIES, family_of, faults
from .family import Sizes
from .names import parse
from .supported import configuration, tags

# What a store keeps where nothing else is said.
COMPONENTS = ("heads", "mlps")


@dataclass(frozen=True)
class Entry:
    """One model's name, and what a store of it would hold."""

    name: str
    """As it is given: timm's begin with ``timm:``."""
    family: str
    """Empty where no family takes it."""
    reading: str
    layers: int
    heads: int
    head_dim: int
    tokens: int
    width: int
    embed: int
    bytes: int
    """Of an image in a store, heads and MLPs in float16, before compression."""
    texts: str
    """``own`` text tower, Hugging Face's name of it, or none."""
    tags: tuple[str, ...]
    """Of weights, the library's own choice first."""
    why: str
    """Why it cannot be decomposed; empty where it can."""

    @property
    def far(self) -> bool:
        """Whether it is a model of timm's of a class that no family takes."""
        return self.name.removeprefix("timm:") in timm_names.refused()


@cache
def entries() -> tuple[Entry, ...]:
    """Every name of the embedded world, of open_clip and of timm."""
    return tuple(_entries())


def find(word: str) -> list[Entry]:
    """Entries whose name or family holds a word, or fits it where it has ``*`` or ``?``."""
    low = word.lower()
    pattern = low if any(c in low for c in "*?[") else f"*{low}*"
    return [
        entry
        for entry in entries()
        if fnmatchcase(entry.name.lower(), pattern) or fnmatchcase(entry.family, pattern)
    ]


def exact(word: str) -> Entry | None:
    """The entry that a name means, in any of its spellings; None where it means none."""
    name = parse(word).spelled.replace("/", "-")
    return next((entry for entry in entries() if entry.name == name), None)


def stored(sizes: Sizes, components: tuple[str, ...]) -> Metadata:
    """The metadata of a store of one image of a model: axes alone, no identity."""
    rows, columns = sizes.grid
    return Metadata(
        architecture="", architecture_digest="", weights="", weights_digest="",
        activation=sizes.activation, preprocessing={}, precision="fp32", store_dtype="float16",
        components=components, token_layers=(), image_list_digest="", images=1, shard_size=1,
        layers=sizes.layers, heads=sizes.heads, head_dim=sizes.head_dim, width=sizes.width,
        mlp_width=sizes.mlp_width, embed=sizes.embed_dim, tokens=sizes.prefix + rows * columns,
        grid=sizes.grid, prefix=sizes.prefix, reading=sizes.reading,
        varying_bias=sizes.varying_bias, trunk_layers=sizes.trunk_layers,
        trunk_mlp_width=sizes.trunk_mlp_width,
    )  # fmt: skip


def sizes_of(name: str) -> Sizes:
    """Sizes of a supported model, by its entry's name."""
    config = _config(name)
    family = family_of(config)
    assert family is not None  # entries say which are supported
    return FAMILIES[family].sizes(config)


def _entries() -> Iterator[Entry]:
    for name in WORLD:
        yield _entry(name)
    for name in open_clip.list_models():
        yield _entry(name)
    for name in timm_names.list_models():
        yield _entry(f"timm:{name}")
    for name, file in timm_names.refused().items():
        why = f"no family here is built like timm's {file}"
        yield Entry(f"timm:{name}", "", "", 0, 0, 0, 0, 0, 0, 0, "none", (), why)


def _entry(name: str) -> Entry:
    config = _config(name)
    texts = _texts(config)
    known = tuple(tags(parse(name)))
    family = family_of(config)
    if family is None:
        why = " and ".join(faults(config))
        return Entry(name, "", "", 0, 0, 0, 0, 0, 0, 0, texts, known, why)
    sizes = FAMILIES[family].sizes(config)
    meta = stored(sizes, tuple(c for c in COMPONENTS if sizes.heads or c != "heads"))
    return Entry(
        name=name,
        family=family,
        reading=meta.reading,
        layers=meta.layers,
        heads=meta.heads,
        head_dim=meta.head_dim,
        tokens=meta.tokens,
        width=meta.width,
        embed=meta.embed,
        bytes=layout.bytes_per_image(meta),
        texts=texts,
        tags=known,
        why="",
    )


def _config(name: str) -> dict[str, Any]:
    library, _, bare = name.partition(":")
    if library == "timm":
        return configuration("timm", bare)
    if library == "microworld":
        return configuration("microworld", name)
    return configuration("open_clip", name)


def _texts(config: dict[str, Any]) -> str:
    text = config.get("text_cfg")
    return "none" if text is None else str(text.get("hf_model_name") or "own")
