"""Classes of a zero-shot test, what images' labels mean, and the digests by which classes and
pools are known; needs no model and no torch.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from storage.errors import FacetError


class PoolError(FacetError):
    """A pool or a set of classes that cannot be had, and what to do."""


@dataclass(frozen=True)
class Classes:
    """Classes of a zero-shot test.

    Attributes
    ----------
    names : tuple of str
        One per class, in the order of the logits.
    prompts : tuple of tuple of str
        Texts of every class; their unit embeddings are averaged.
    index : dict of str to int
        Every label of an image table that means a class, and which.
    """

    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    index: Mapping[str, int]

    @property
    def flat(self) -> tuple[str, ...]:
        """The prompts of all classes, one after the other."""
        return tuple(text for prompts in self.prompts for text in prompts)

    def truth(self, labels: Iterable[str | None]) -> np.ndarray:
        """Class of every label, (N,) int64; unknown and missing labels are an error."""
        labels = list(labels)
        missing = [i for i, label in enumerate(labels) if label is None]
        if missing:
            raise PoolError(
                f"{len(missing)} of {len(labels)} images have no label, the first at row "
                f"{missing[0]}: leave them out with `where`, or label them in the image table"
            )
        unknown = sorted({str(label) for label in labels} - set(self.index))
        if unknown:
            near = nearest(unknown[0], self.index)
            raise PoolError(
                f"{len(unknown)} labels are no class of this set, such as {unknown[0]!r}{near}: "
                f"its {len(self.names)} classes are {_some(self.names)}"
            )
        return np.array([self.index[str(label)] for label in labels], np.int64)


def texts_digest(texts: Sequence[str]) -> str:
    """sha256 of texts in their order, hex; no text holds a line's end."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def classes_digest(classes: Classes | None) -> str | None:
    """sha256 of classes, their prompts and the labels that mean them, hex; None of none."""
    if classes is None:
        return None
    content = [classes.names, classes.prompts, sorted(classes.index.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def class_means(rows: np.ndarray, classes: Classes) -> np.ndarray:
    """Unit embeddings of classes from those of their prompts, ``classes.flat``, (C, E) float32."""
    ends = np.cumsum([len(prompts) for prompts in classes.prompts])
    means = np.stack([part.mean(0) for part in np.split(rows.astype(np.float64), ends[:-1])])
    return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that a misspelt one is closest to, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
