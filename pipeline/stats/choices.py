"""What may be reduced of a store; light, as it is read before any work."""

from __future__ import annotations

from collections.abc import Sequence

from storage.errors import StoreError
from storage.metadata import Metadata


def available_components(meta: Metadata) -> tuple[str, ...]:
    """What can be reduced: the store's own components, and the embedding."""
    return (*meta.components, "embedding")


def refuse_components(url: str, meta: Metadata, components: Sequence[str]) -> None:
    """Refuse components that the store at a URL does not have."""
    refuse_no_heads(url, meta, components)
    available = available_components(meta)
    if absent := [c for c in components if c not in available]:
        raise StoreError(
            f"components {', '.join(absent)} cannot be reduced: the store at {url} has "
            f"{', '.join(available)}"
        )


def refuse_no_heads(url: str, meta: Metadata, components: Sequence[str]) -> None:
    """Refuse what is of heads where the model of the store at a URL has none."""
    if not meta.heads and {"heads", "tokens"} & set(components):
        raise StoreError(
            f"this is told of attention heads, and the model of the store at {url} has none: what "
            "its blocks wrote is kept (mlps), reduced, ablated and searched"
        )
