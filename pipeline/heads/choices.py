"""What may be chosen of heads, by name; light, as it is read before any work."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from storage.errors import FacetError, StoreError
from storage.metadata import Metadata

# What a text is scored by.
Objective = Literal["projection", "explained-variance"]
# Of contributions to the output; those of neurons stand in their wing.
DirectStudy = Literal["mlps", "layers", "heads", "class-token", "textspan", "chosen", "edits"]
Study = DirectStudy | Literal["neurons", "effects"]
Head = tuple[int, int]


def refuse_studies(url: str, meta: Metadata, studies: Collection[str]) -> None:
    """Refuse studies that the store at a URL cannot answer."""
    direct = [study for study in studies if study not in ("neurons", "effects")]
    of_heads = [study for study in direct if study not in ("mlps", "edits")]
    if of_heads and not meta.heads:
        raise StoreError(
            f"ablations of {', '.join(of_heads)} are of attention heads, and the model of the "
            f"store at {url} has none: its blocks can be ablated, by mlps"
        )
    if "class-token" in studies and not meta.prefix:
        raise StoreError(
            f"the model of the store at {url} has no class token (it is read by {meta.reading}): "
            "choose other ablations"
        )
    needed = [*(["heads"] if meta.heads else []), "mlps"] if direct else []
    needed += ["tokens"] if "class-token" in studies else []
    if lacking := [n for n in needed if n not in meta.components]:
        raise StoreError(
            f"these ablations need {', '.join(needed)}, and the store at {url} has no "
            f"{', '.join(lacking)}: extract with `components` {' '.join(needed)} into a new store"
        )


def parse_heads(texts: Iterable[str], layers: int, heads: int) -> tuple[Head, ...]:
    """``3.0``, or several as ``3.0,3.2``, of a model that has so many layers and heads.

    Each once, in the order in which they are named.
    """
    named = (one.strip() for text in texts for one in text.split(","))
    return tuple(dict.fromkeys(_parse_head(text, layers, heads) for text in named))


def _parse_head(text: str, layers: int, heads: int) -> Head:
    layer, _, number = text.partition(".")
    if not (layer.isdecimal() and number.isdecimal()):
        raise FacetError(f"`heads` {text!r}: write layer.head, such as 3.0")
    if int(layer) >= layers or int(number) >= heads:
        raise FacetError(
            f"`heads` {text}: the model has layers 0-{layers - 1}, heads 0-{heads - 1}"
        )
    return int(layer), int(number)
