"""What a store holds of images, as everything that is told of heads and blocks begins with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from storage.errors import NotFinite
from storage.metadata import Metadata

if TYPE_CHECKING:  # what a store holds is read without torch
    from pipeline.extraction.decompose import Parts


def part_arrays(meta: Metadata) -> tuple[str, ...]:
    """Arrays of a store whose contributions add up to the embedding, and what scales them."""
    heads = ("heads",) if meta.heads else ()
    varying = ("bias_weights",) if meta.varying_bias else ()
    return (*heads, "mlps", "embedding", "ln_std", *varying)


def keeps_parts(meta: Metadata) -> bool:
    """Whether a store has all of them."""
    return {"mlps", *(("heads",) if meta.heads else ())} <= set(meta.components)


@dataclass(frozen=True, eq=False)
class StoredParts:
    """What a store holds of N images that are ok, one row an image.

    Attributes
    ----------
    heads_blhk : (N, L, H, K) float
    mlps_bsd : (N, L + 1, D) float
    embedding_be : (N, E) float
        The model's output, not normalised.
    ln_std_b : (N,) float
    class_token_be : (N, E) float, optional
        What the heads write from the class token itself: row 0 of the store's ``tokens``.
    bias_weights_bl : (N, L) float, optional
        What each layer's ``bias_map`` counts, in models that have one.
    """

    heads_blhk: np.ndarray
    mlps_bsd: np.ndarray
    embedding_be: np.ndarray
    ln_std_b: np.ndarray
    class_token_be: np.ndarray | None = None
    bias_weights_bl: np.ndarray | None = None

    @classmethod
    def of(
        cls, rows: Mapping[str, np.ndarray], class_token_be: np.ndarray | None = None
    ) -> StoredParts:
        """Rows of the arrays that `part_arrays` names; a model without heads has none of them."""
        n, blocks = rows["mlps"].shape[:2]
        none = np.zeros((n, blocks - 1, 0, 0), np.float32)
        return cls(
            rows.get("heads", none),
            rows["mlps"],
            rows["embedding"],
            rows["ln_std"],
            class_token_be,
            rows.get("bias_weights"),
        )

    @classmethod
    def passed(cls, wrote: Parts) -> StoredParts:
        """What a pass of the model gave, heads and MLPs among it; float64."""
        given = (
            wrote.heads_blhk, wrote.mlps_bsd, wrote.embedding_be, wrote.ln_std_b,
            None, wrote.bias_weights_bl,
        )  # fmt: skip
        return cls(*(a if a is None else a.double().cpu().numpy() for a in given))  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        if not np.isfinite(self.scale_b).all():
            row = int(np.flatnonzero(~np.isfinite(self.scale_b))[0])
            raise NotFinite(
                f"row {row} has no embedding: its image is not ok, or the store was made from "
                "weights that hold NaN; leave it out, or extract a new store"
            )

    @cached_property
    def norm_b(self) -> np.ndarray:
        """‖embedding‖, (N,) float64."""
        return np.linalg.norm(np.asarray(self.embedding_be, np.float64), axis=1)

    @cached_property
    def scale_b(self) -> np.ndarray:
        """What contributions are divided by on the published scale, (N,) float64."""
        return np.asarray(self.ln_std_b, np.float64) * self.norm_b

    def biases(
        self, losses_l: np.ndarray, attention_bias_lx: np.ndarray, bias_map_lx: np.ndarray | None
    ) -> np.ndarray:
        """What the attention's biases of layers write, on the published scale, each times a number
        of its layer, through any maps, (N, X) float64."""
        total = np.outer(1 / self.scale_b, losses_l @ attention_bias_lx)
        if bias_map_lx is not None:
            assert self.bias_weights_bl is not None  # whoever has the map has them
            weights_bl = np.asarray(self.bias_weights_bl, np.float64) / self.scale_b[:, None]
            total += (weights_bl * losses_l) @ bias_map_lx
        return total
