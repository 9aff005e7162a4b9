"""What maps are asked of, and what makes them: the contract of every method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Asked:
    """Of a batch of pictures: the class whose map is wanted, one a picture.

    Classes and texts are on the model's device, texts as wide as its residual stream.

    Attributes
    ----------
    classes_b : (batch,) int64
        Numbers of the classes.
    texts_ce : (class, embed)
        Unit embeddings of all classes.
    images_b : (batch,) int64
        The pictures' numbers in their store: what is random is drawn from these.
    """

    classes_b: Tensor
    texts_ce: Tensor
    images_b: Tensor

    @property
    def texts_be(self) -> Tensor:
        """Unit embeddings of the classes that are asked for, (batch, embed)."""
        return self.texts_ce[self.classes_b]


class MapMaker(Protocol):
    """Makes the maps of one or several methods in one pass, a batch at a time."""

    def __call__(self, images_bchw: Tensor, asked: Asked) -> Mapping[str, Tensor]:
        """Maps over the patch grid, (batch, rows, columns), by row of the table of methods.

        A row is a method's name, with what tells its variants apart behind a space:
        ``tokens last:4``. Maps are as their formulae have them: not scaled, not clipped.
        """
