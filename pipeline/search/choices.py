"""What may be searched, and how images are compared; light, as it is read before any work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.heads.choices import Head
from storage.errors import FacetError, StoreError
from storage.layout import EMBEDDING, block_part, head_part
from storage.metadata import Metadata

# The cosine between images, or their inner product.
Metric = Literal["cosine", "dot"]


@dataclass(frozen=True)
class Space:
    """What images are compared in: the concatenation of its parts.

    Attributes
    ----------
    heads : tuple of (layer, head)
    blocks : tuple of int
    embedding : bool
    """

    heads: tuple[Head, ...]
    blocks: tuple[int, ...] = ()
    embedding: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of its parts in the index, in their order."""
        names = [*(head_part(*head) for head in self.heads), *map(block_part, self.blocks)]
        return (*names, *([EMBEDDING] if self.embedding else []))


def refuse_parts(url: str, meta: Metadata, space: Space) -> None:
    """Refuse parts that the store at a URL does not keep."""
    needed = (["heads"] if space.heads else []) + (["mlps"] if space.blocks else [])
    if lacking := [name for name in needed if name not in meta.components]:
        raise StoreError(
            f"the store at {url} has no {', '.join(lacking)}; it was extracted with `components` "
            + " ".join(meta.components)
        )


def faiss_or_refuse() -> Any:
    """The library of approximate indices.

    Raises
    ------
    FacetError
        If it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise FacetError(
            "`approximate` needs faiss: pip install 'facet-interp[ann]'; or leave it out"
        ) from error
    return faiss
