"""Which texts say the target itself, and so are no cues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.images.lines import decode_text, lines
from storage.errors import FacetError

from .rules import Rules

# Gives the similarity of texts with the target, (len(texts),).
Similarity = Callable[[Sequence[str]], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Synonyms:
    """What says of texts whether they are synonyms of the target.

    Attributes
    ----------
    rules : Rules
        Which know the target's names.
    similarity : callable
    alike : float
        From which similarity on a text counts as a synonym.
    """

    rules: Rules
    similarity: Similarity
    alike: float

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], list[str]]:
        """Similarities, and why each text is a synonym; empty where it is none."""
        alike = self.similarity(texts)
        return alike, [self._why(t, float(s)) for t, s in zip(texts, alike, strict=True)]

    def _why(self, text: str, similarity: float) -> str:
        if met := self.rules.forbidden(text):
            return f"names {met}"
        return f"alike: {similarity:.2f}" if similarity >= self.alike else ""


def read_synonyms(file: str) -> tuple[str, ...]:
    """Names of the target, one a line.

    Raises
    ------
    FacetError
        If there is no such file, or nothing in it.
    """
    if not Path(file).is_file():
        raise FacetError(f"`synonyms` {file}: there is no such file")
    text, undecodable = decode_text(Path(file).read_bytes())
    found = tuple(dict.fromkeys(" ".join(line.split()) for line in lines(text) if line.strip()))
    if undecodable or not found:
        raise FacetError(f"`synonyms` {file}: write names of the target in it, one a line, UTF-8")
    return found


def by_tower(
    texts: Sequence[str], texts_me: NDArray[np.floating], target_e: NDArray[np.floating]
) -> Similarity:
    """Cosines of the pool's texts with the target class, less the pool's mean.

    A text tower puts all texts into a narrow cone: only without their mean are cosines of unrelated
    ones about 0. In the embedded world, whose target ``heart`` is on snow in 98 of 100 training
    pictures, texts that name no heart have at most 0.47, those of snow among them; over all eight
    shapes no text that does not name the target has more than 0.54.

    Parameters
    ----------
    texts : sequence of str
    texts_me : (M, E)
        Unit embeddings of the texts.
    target_e : (E,)
        Unit embedding of the target class.
    """
    number = {text: i for i, text in enumerate(texts)}
    rows_me = texts_me.astype(np.float64)
    mean_e = rows_me.mean(0)
    apart_e = _unit(target_e.astype(np.float64) - mean_e)

    def similarity(asked: Sequence[str]) -> NDArray[np.float64]:
        return _unit(rows_me[[number[text] for text in asked]] - mean_e) @ apart_e

    return similarity


def refuse_sentences(name: str) -> None:
    """Refuse a model of sentences that cannot be loaded, before anything is."""
    if find_spec("sentence_transformers") is None:
        raise FacetError(f"`sentences` {name} needs pip install 'facet-interp[sentences]'")


def by_sentences(name: str, target: str) -> Similarity:
    """Cosines of a sentence-transformers model (Reimers & Gurevych 2019).

    Parameters
    ----------
    name : str
        Of a model that is known by it, or the folder of one.
    target : str

    Raises
    ------
    FacetError
        If it cannot be loaded.
    """
    import sentence_transformers

    try:
        model: Any = sentence_transformers.SentenceTransformer(
            name, device="cpu", trust_remote_code=False, local_files_only=Path(name).is_dir()
        )
    except Exception as error:  # of any library that it loads models by
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FacetError(f"`sentences` {name}: no model of sentences to be had: {line}") from error
    target_e = model.encode([target], normalize_embeddings=True, show_progress_bar=False)[0]

    def similarity(asked: Sequence[str]) -> NDArray[np.float64]:
        rows = model.encode(list(asked), normalize_embeddings=True, show_progress_bar=False)
        return (rows @ target_e).astype(np.float64)

    return similarity


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)
