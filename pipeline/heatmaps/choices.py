"""The methods of heat maps and the protocols of segmentation, by name; light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.extraction.plan import parse_layers
from pipeline.heads.choices import Head, parse_heads
from storage.errors import FacetError
from storage.metadata import Metadata

Method = Literal[
    "tokens",
    "neurons",
    "raw-attention",
    "rollout",
    "gradcam",
    "lrp",
    "partial-lrp",
    "transformer-attribution",
    "gradient-attention",
    "legrad",
    "random",
]
Protocol = Literal["aligned", "published"]


@dataclass(frozen=True)
class MethodFacts:
    """How a method's maps become foreground.

    Attributes
    ----------
    clipped : bool
        Whether what is negative counts as nothing.
    threshold : float or None
        From which relevance, 0 … 1, a pixel is foreground; None: from the picture's own mean.
    """

    clipped: bool = False
    threshold: float | None = None


METHODS: dict[Method, MethodFacts] = {
    "tokens": MethodFacts(clipped=True),
    "neurons": MethodFacts(threshold=0.5),
    "raw-attention": MethodFacts(),
    "rollout": MethodFacts(),
    "gradcam": MethodFacts(),
    "lrp": MethodFacts(),
    "partial-lrp": MethodFacts(),
    "transformer-attribution": MethodFacts(),
    "gradient-attention": MethodFacts(),
    "legrad": MethodFacts(),
    "random": MethodFacts(),
}


# What is told of any reading; the others are defined for models that are read at a class token.
ANY_READING: tuple[Method, ...] = ("tokens", "neurons", "raw-attention", "random")


def refuse_reading(
    meta: Metadata, methods: Sequence[Method], convention: str = "centred", curves: bool = False
) -> None:
    """Refuse maps that are not defined for what a model's tail reads.

    Parameters
    ----------
    meta : Metadata
    methods : sequence of str
    convention : {"centred", "equal-share"}
        Of tokens.
    curves : bool
        Whether patches are deleted and inserted.

    Raises
    ------
    FacetError
    """
    read = f"the model of this store is read by {meta.reading}"
    if not meta.heads and (of_heads := [name for name in methods if name != "random"]):
        raise FacetError(
            f"maps of {', '.join(of_heads)} come from attention, and {read}: it has no attention"
        )
    if meta.reading == "class-token":
        return
    if lacking := [name for name in methods if name not in ANY_READING]:
        raise FacetError(
            f"maps of {', '.join(lacking)} follow what arrives at a class token, and {read}: "
            f"choose {', '.join(ANY_READING)}"
        )
    if curves:
        raise FacetError(
            f"`steps`: patches are deleted until a class token is left alone, and {read}"
        )
    if convention == "equal-share" and meta.reading != "mean":
        raise FacetError(
            f"`convention` equal-share spreads what one last LayerNorm takes away and adds, and "
            f"{read}: choose centred"
        )


def method_of(row: str) -> Method:
    """The method of a row of the table: what stands before the space."""
    return row.split(" ")[0]  # type: ignore[return-value]


def layers_of(meta: Metadata) -> str:
    """The layers whose maps of texts are summed unless others are asked for."""
    if meta.token_layers:
        return ",".join(map(str, meta.token_layers))
    return "last:4" if meta.layers >= 4 else "all"


def token_heads(
    layers: Sequence[str], heads: Sequence[str], meta: Metadata
) -> dict[str, tuple[Head, ...]]:
    """For the method of tokens: the heads that each choice of layers sums, by the choice.

    Parameters
    ----------
    layers : sequence of str
        Such as ``all`` or ``last:4``.
    heads : sequence of str
        Such as ``3.0``: these alone; all of the layers if none is named.
    meta : Metadata
    """
    named = parse_heads(heads, meta.layers, meta.heads)
    found: dict[str, tuple[Head, ...]] = {}
    for text in layers:
        every = [(at, head) for at in parse_layers(text, meta.layers) for head in range(meta.heads)]
        found[text] = tuple(head for head in every if not named or head in named)
        if not found[text]:
            raise FacetError(f"`heads` {' '.join(heads)}: none is of `layers` {text}")
    return found
