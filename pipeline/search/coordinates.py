"""Coordinates in which a few numbers have the inner products of the joint space.

A head's contributions are u·M/σ, M = head_map (K × E), and lie in K dimensions at the most. With
the polar decomposition M = S Q, where S = (M Mᵀ)^½ and Q has orthonormal rows, y = u S/σ has K
numbers and ⟨y, y'⟩ is the inner product of the contributions; a text t is Q t there. S follows
from M alone, whatever a machine's LAPACK makes of signs. Where K ≥ E, y = u M/σ and Q = 1.

All is on the published scale: divided by the norm of the image's embedding, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from storage.layout import BLOCKS, HEADS, part_numbers
from storage.store import Store

from .choices import Space

if TYPE_CHECKING:
    from pipeline.heads.parts import StoredParts
    from pipeline.models import ModelMaps


@dataclass(frozen=True, eq=False)
class PartCoordinates:
    """Coordinates of one part; ``r`` is their number, the smaller of K and E.

    Attributes
    ----------
    into_kr : (K, r) float32
        From what a store keeps.
    texts_re : (r, E) float32
        From the joint space.
    """

    into_kr: NDArray[np.float32]
    texts_re: NDArray[np.float32]

    @classmethod
    def of_map(cls, map_ke: ArrayLike) -> PartCoordinates:
        """Of a part that has this map to the joint space."""
        joint = np.asarray(map_ke, np.float64)
        inner, embed = joint.shape
        if inner >= embed:
            into, texts = joint, np.eye(embed)
        else:
            left, lengths, right = np.linalg.svd(joint, full_matrices=False)
            into, texts = (left * lengths) @ left.T, left @ right
        return cls(into.astype(np.float32), texts.astype(np.float32))

    def rows(self, values_bk: NDArray, scale_b: NDArray) -> NDArray[np.float32]:
        """Coordinates of images, (N, r): ``scale_b`` is what brings them to the published scale."""
        rows: NDArray[np.float32] = values_bk.astype(np.float32) @ self.into_kr
        rows /= scale_b[:, None].astype(np.float32)
        return rows


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Coordinates of a space: those of its parts, one after the other.

    Attributes
    ----------
    space : Space
    by_part : dict of str to PartCoordinates
        In the order of the space's parts.
    """

    space: Space
    by_part: dict[str, PartCoordinates]

    @classmethod
    def of(cls, maps: Store | ModelMaps, space: Space) -> Coordinates:
        """Of a space of a store, or of a model whose maps these are."""
        joint: Any = maps.model() if isinstance(maps, Store) else maps
        by_part, shared = {}, None
        for part in space.parts:
            numbers = part_numbers(part)
            if part.startswith(f"{HEADS}/"):
                layer, head = numbers
                by_part[part] = PartCoordinates.of_map(joint.head_map[layer, head])
            elif part.startswith(f"{BLOCKS}/"):
                shared = shared or PartCoordinates.of_map(joint.mlp_map)  # the same of all
                by_part[part] = shared
            else:
                by_part[part] = PartCoordinates.of_map(np.eye(joint.mlp_map.shape[1]))
        return cls(space, by_part)

    @property
    def width(self) -> int:
        """Numbers of an image or a text."""
        return sum(part.into_kr.shape[1] for part in self.by_part.values())

    def texts(self, texts_me: ArrayLike) -> NDArray[np.float32]:
        """Texts, unit rows of the joint space, (m, width)."""
        texts = np.asarray(texts_me, np.float32)
        return np.concatenate([texts @ part.texts_re.T for part in self.by_part.values()], 1)

    def parts(self, parts: StoredParts) -> NDArray[np.float32]:
        """Images, (N, width), not centred."""
        rows = []
        for name, part in self.by_part.items():
            numbers = part_numbers(name)
            if name.startswith(f"{HEADS}/"):
                layer, head = numbers
                rows.append(part.rows(np.asarray(parts.heads_blhk)[:, layer, head], parts.scale_b))
            elif name.startswith(f"{BLOCKS}/"):
                rows.append(part.rows(np.asarray(parts.mlps_bsd)[:, numbers[0]], parts.scale_b))
            else:
                rows.append(part.rows(np.asarray(parts.embedding_be), parts.norm_b))
        return np.concatenate(rows, 1)
