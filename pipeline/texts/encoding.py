"""Text embeddings of a store's own model, kept with the store's results."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import xarray as xr
from humanize import naturaldelta
from numpy.typing import NDArray

from pipeline.images.decoding import decode_of
from pipeline.models import (
    Architecture,
    ModelError,
    ModelSpec,
    VisionModel,
    check_supported,
    hf_texts,
    load_model,
    open_clip,
)
from pipeline.models.checkpoint import WEIGHT_SUFFIXES
from pipeline.provenance import revision, versions
from pipeline.telling import SILENT, Teller
from storage import urls
from storage.arrays import refuse_not_finite
from storage.errors import FacetError, StoreError, StoreMismatch
from storage.metadata import Metadata
from storage.records import config_digest
from storage.results import Result, find_result, result_url, save_result
from storage.store import Store
from storage.weights import remember, remembered

from .classes import PoolError, texts_digest
from .embedding import Passes, Tokenizer, count_too_long
from .kept import met_before, read_parts, remove_parts, write_part
from .towers import refuse_without_texts

JOB = "encode_texts"
# A part is kept after so much work: what a stop can cost.
PART_SECONDS = 20.0
# What is said of the time that long work will take is measured for so long.
MEASURED_SECONDS = 2.0
# The table that a result keeps.
TEXTS = pa.schema({"text": pa.string()})


@dataclass(frozen=True, eq=False)
class Encoded:
    """Texts and their unit embeddings, row by row.

    Attributes
    ----------
    result : Result
        Where they are kept.
    texts : tuple of str
    embeddings : (M, E) float32
    too_long : int
        Texts with more tokens than the model reads; the tokenizer cut those off.
    new : bool
        Whether they were embedded now.
    """

    result: Result
    texts: tuple[str, ...]
    embeddings: np.ndarray
    too_long: int
    new: bool


def model_spec(url: str, meta: Metadata, pretrained: str | None = None) -> ModelSpec:
    """What a store's model was loaded from.

    Parameters
    ----------
    url : str
        The store.
    meta : Metadata
    pretrained : str, optional
        The weights file, where the store was made from one and that is no longer where it was.

    Raises
    ------
    FacetError
        If there was a file and it is not known where, or no longer there.
    """
    of = partial(ModelSpec, meta.architecture, decode=decode_of(meta.preprocessing))
    if pretrained is not None:
        return of(pretrained)
    kind, _, seed = meta.weights.partition(":")
    if kind == "none":
        return of("none", int(seed or 0))
    if not meta.weights.endswith(WEIGHT_SUFFIXES):
        return of(meta.weights)
    file = remembered(url)
    if file is None:
        raise FacetError(
            f"the store's weights came from a file called {meta.weights}: say where it is with "
            "`pretrained` FILE"
        )
    if not Path(file).is_file():
        raise FacetError(
            f"the store's weights file {file} is gone, or not on this machine: say where it is "
            "with `pretrained` FILE"
        )
    return of(file)


def store_model(store: Store, pretrained: str | None = None) -> VisionModel:
    """The model that a store was made with, both towers.

    Raises
    ------
    FacetError
        If its weights file is to be named.
    StoreMismatch
        If what was loaded is not that model.
    """
    meta, device = store.meta, "cuda" if torch.cuda.is_available() else "cpu"
    spec = model_spec(store.url, meta, pretrained)
    file = spec.pretrained if spec.pretrained.endswith(WEIGHT_SUFFIXES) else None
    known = file if pretrained is None else None  # from what the store remembers
    try:
        model = load_model(spec, device)
    except ModelError as error:
        if known is None:
            raise
        raise StoreMismatch(
            f"the store's weights file {known} is not what it was: {error}. Give the file that the "
            "store was made with by `pretrained` FILE."
        ) from error
    loaded = {
        "architecture_digest": config_digest(model.config),
        "weights_digest": model.weights_digest,
        "activation": model.activation,
    }
    for name, value in loaded.items():
        if value != getattr(meta, name):
            changed = f"the weights file {known} is not what it was: " if known else ""
            raise StoreMismatch(
                f"{changed}the loaded model is not the one that made the store at {store.url}: "
                f"{name} is {value}, the store has {getattr(meta, name)}. Give the weights that "
                f"the store was made with ({meta.architecture}, {meta.weights}) by `pretrained` "
                "FILE."
            )
    if file is not None and known is None:
        with contextlib.suppress(OSError, StoreError):  # a store that may only be read
            remember(store.url, file)
    return model


def context_length(model: Architecture) -> int:
    """Tokens that a model reads of a text."""
    return int(model.config["text_cfg"].get("context_length", 77))


def tokenizer_of(model: Architecture) -> Tokenizer:
    """open_clip's tokenizer of a model; its weights are not needed.

    Raises
    ------
    FacetError
        If no text can be embedded with the model: see ``refuse_without_texts``.
    """
    refuse_without_texts(model)
    text, length = model.config["text_cfg"], context_length(model)
    given = text.get("tokenizer_kwargs") or {}
    if not text.get("hf_tokenizer_name"):
        return open_clip.SimpleTokenizer(context_length=length, **given)
    folder = hf_texts.tokenizer_folder(model.config, model.name)
    mode = text.get("tokenizer_mode")
    try:
        return open_clip.tokenizer.HFTokenizer(
            str(folder), length, tokenizer_mode=mode, trust_remote_code=False, **given
        )
    except Exception as error:  # damaged files raise nearly anything inside transformers
        said = shorten(f"{type(error).__name__}: {error}", 200, placeholder=" …")
        raise FacetError(
            f"the tokenizer of model {model.name} cannot be made of the files in {folder}: {said}"
        ) from error


def refuse_long(length: int, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """Refuse texts with more tokens than a model reads.

    Raises
    ------
    PoolError
        Which says what would remain of the first.
    """
    for text in texts:
        if not count_too_long(tokenizer, [text], length):
            continue
        words = text.split(" ")
        while len(words) > 1 and count_too_long(tokenizer, [" ".join(words)], length):
            words.pop()
        begun = shorten(text, 60, placeholder=" …")
        raise PoolError(
            f"the text {begun!r} has more than the {length} tokens "
            f"that the model reads: of it would remain {' '.join(words)!r}. Give a shorter one"
        )


class TextEncoder:
    """Embeds lists of texts with a store's model; what was embedded before is read back.

    Parameters
    ----------
    store : Store
    pretrained : str, optional
        See ``model_spec``. The model is loaded when the first new text is met: texts that were
        all met before need none.
    """

    def __init__(self, store: Store, pretrained: str | None = None) -> None:
        self.store, self.pretrained = store, pretrained
        self._model: VisionModel | None = None

    def encode(self, source: str, texts: Sequence[str], teller: Teller = SILENT) -> Encoded:
        """Unit embeddings of texts, from the store's results or, if new, put there.

        What is new is encoded longest first and kept in parts meanwhile: a stop costs the work of
        ``PART_SECONDS`` at most, and the run that goes on makes the same rows, to the last bit.
        Texts that finished results of the same model hold are taken from there: what they passed
        the tower with was another batch, which is below 1e-6.

        Parameters
        ----------
        source : str
            What they are, for people.
        texts : sequence of str
        teller : Teller
            Told how much there is to do, how long it will take, and how far it is.
        """
        config, kept = self._find(texts)
        result = kept or self._encode(source, texts, config, teller)
        rows = result.arrays("embeddings")["embedding"].values
        refuse_not_finite(f"the embeddings in {result.url}", rows)
        return Encoded(result, tuple(texts), rows, result.provenance["too_long"], kept is None)

    def _find(self, texts: Sequence[str]) -> tuple[dict[str, Any], Result | None]:
        """What tells these texts' result, and that, if it is there."""
        config = {
            "texts": texts_digest(texts),
            "count": len(texts),
            "weights_digest": self.store.meta.weights_digest,
            "normalize": True,
        }
        return config, find_result(self.store.url, JOB, config)

    def refuse_long(self, texts: Sequence[str]) -> None:
        """Refuse texts that the model would not read to their ends.

        Raises
        ------
        FacetError
            Which says what would remain of the first.
        """
        _, kept = self._find(texts)
        if kept is not None and not kept.provenance["too_long"]:
            return
        model = self._architecture()
        refuse_without_texts(model, self.store.url)
        refuse_long(context_length(model), tokenizer_of(model), texts)

    def model(self, what: str, teller: Teller = SILENT) -> VisionModel:
        """The store's model, loaded when it is first asked for.

        Parameters
        ----------
        what : str
            What it is to do, for people.
        teller : Teller
        """
        if self._model is None:
            with teller.wait(f"loading the model that {what}"):
                self._model = store_model(self.store, self.pretrained)
        return self._model

    def _architecture(self) -> Architecture:
        return self._model or check_supported(ModelSpec(self.store.meta.architecture, "none"))

    def _encode(
        self, source: str, texts: Sequence[str], config: dict[str, Any], teller: Teller
    ) -> Result:
        url = self.store.url
        refuse_without_texts(self._architecture(), url)
        urls.check_writable(url)
        place = result_url(url, JOB, config)
        rows = np.full((len(texts), self.store.meta.embed), np.nan, np.float32)
        weights = config["weights_digest"]
        before = [
            met_before(of, JOB, weights, texts) for of in dict.fromkeys((self.store.data, url))
        ]
        for at, found in chain(*before, read_parts(place)):
            rows[at] = found
        left_m = np.flatnonzero(np.isnan(rows[:, 0]))
        if len(left_m):
            model = self.model(f"encodes {source}", teller)
            left = [texts[i] for i in left_m.tolist()]
            refuse_without_texts(model, url)  # now it is known what its file held
            passes = Passes(model.module, tokenizer_of(model), left)
            self._fill(source, rows, left_m, passes, place, teller)
        tower = self._architecture()
        result = save_result(
            url,
            JOB,
            config,
            {
                "source": source,
                "differs": {"texts": source},
                "too_long": count_too_long(tokenizer_of(tower), texts, context_length(tower)),
                "activation": self.store.meta.activation,
                "versions": versions(),
                "revision": revision(),
            },
            tables={"texts": pa.table({"text": list(texts)}, TEXTS)},
            arrays={"embeddings": xr.Dataset({"embedding": (("text", "embed"), rows)})},
        )
        remove_parts(place)
        return result

    def _fill(
        self,
        source: str,
        rows: NDArray[np.float32],
        left_m: NDArray[np.int64],
        passes: Passes,
        place: str,
        teller: Teller,
    ) -> None:
        """Encode the texts whose rows are left; parts that were kept stay beside the new ones."""
        total, before = int(passes.tokens_m.sum()), len(rows) - len(left_m)
        teller.say(
            f"{source}: {len(left_m):,} texts to encode, {total:,} tokens"
            + (f"; {before:,} texts were encoded before" if before else "")
        )
        started = kept_at = time.monotonic()
        done, told, part = 0, False, []
        with teller.bar(f"tokens of {source}", total, "finished parts are kept") as move:
            for batch_b in passes.batches:
                at = left_m[batch_b]
                rows[at] = passes.embed(batch_b)
                part.append(at)
                done += int(passes.tokens_m[batch_b].sum())
                move(done)
                now = time.monotonic()
                if not told and now - started >= MEASURED_SECONDS:
                    told = True
                    _say_estimate((now - started) * (total - done) / done, teller)
                if now - kept_at >= PART_SECONDS:
                    write_part(place, np.concatenate(part), rows[np.concatenate(part)])
                    kept_at, part = now, []


def _say_estimate(seconds: float, teller: Teller) -> None:
    if seconds >= PART_SECONDS:
        teller.say(
            f"this takes about {naturaldelta(seconds)} more; what is done is kept every "
            f"{PART_SECONDS:.0f} s, and the same command goes on from it"
        )
