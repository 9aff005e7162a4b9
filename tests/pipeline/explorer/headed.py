"""Stores of random contributions whose heads are reduced, indexed, described and labelled."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import xarray as xr

from pipeline.explorer.library import Library
from pipeline.heads.choices import Head
from pipeline.heads.describe import describe_heads, description_table
from pipeline.heads.tables import DESCRIPTIONS
from pipeline.labels.by_lexicon import Properties, property_shares
from pipeline.labels.judged import (
    by_properties,
    first_texts,
    label_table,
    property_table,
    score_table,
    text_table,
)
from pipeline.labels.lexicon import Lexicon
from pipeline.labels.tables import LABELS
from pipeline.search.build import build
from pipeline.search.choices import Space
from pipeline.stats.reductions import reduce_store
from storage import open_store
from storage.results import Result, as_table, save_result
from storage.store import Store
from tests.pipeline.search import index_kit
from tests.storage import stores

SIZES = dict(layers=2, heads=3, head_dim=4, width=12, embed=9, components=("heads",))
HEADS = [(layer, head) for layer in range(2) for head in range(3)]
BAD = {5: "truncated", 17: "truncated"}
LEXICON = Lexicon(
    "words",
    {
        "colours": ("red", "green", "blue", "pink", "grey"),
        "shapes": ("round", "square", "long", "flat", "thin"),
        "on/off": ("bright", "dark", "lit", "dim", "pale"),
    },
)


__all__ = ["Space", "build", "index_kit", "reduce_store", "stores"]


def headed(url: str, index: bool = True, **changes) -> Store:
    """40 images, of which 2 are bad; all heads are reduced and, unless said, indexed."""
    store = index_kit.make(url, BAD, **{**SIZES, **changes})
    reduce_store(store)
    if index:
        build(store, Space(tuple(HEADS)))
    return open_store(url)


def embedded(store: Store, source: str = "words") -> Result:
    """Random directions for the texts of the lexicon, as though the model had made them."""
    texts = LEXICON.texts
    rows = np.random.default_rng(3).normal(size=(len(texts), store.meta.embed))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    data = xr.Dataset({"embedding": (("text", "embed"), rows.astype(np.float32))})
    config = {"texts": source, "count": len(texts), "weights_digest": store.meta.weights_digest}
    return save_result(
        store.url, "encode_texts", config, {"source": source, "too_long": 0},
        tables={"texts": pa.table({"text": list(texts)})}, arrays={"embeddings": data},
    )  # fmt: skip


def described(store: Store) -> Result:
    """Five texts of every head."""
    kept = embedded(store)
    rows = kept.arrays("embeddings")["embedding"].values
    found = describe_heads(store, store.reductions(), HEADS, rows, 5)
    table = description_table(found, HEADS, LEXICON.texts)
    return save_result(
        store.url, "textspan", {"where": None, "top_images": 0, "pool": "words"},
        {"texts": kept.url, "truth": False, "images": 38},
        tables={"descriptions": as_table(table, DESCRIPTIONS["descriptions"])},
    )  # fmt: skip


def labelled(store: Store, judge: str = "lexicon") -> Result:
    """Every head's label by the lexicon; none by any other judge."""
    kept = embedded(store)
    rows = kept.arrays("embeddings")["embedding"].values
    reductions = store.reductions()
    found = describe_heads(store, reductions, HEADS, rows, 5)
    descriptions = description_table(found, HEADS, LEXICON.texts)
    properties = Properties.of(LEXICON, rows)
    shares = property_shares(store, reductions, HEADS, properties)
    vectors = dict(zip(LEXICON.texts, rows, strict=True))
    judged = by_properties(properties, shares, first_texts(descriptions, HEADS), vectors)
    texts = text_table(descriptions, judged)
    variances = reductions.array("heads_pca_variance").values.sum(-1)
    labels = label_table(judged, texts, found.directions, variances, None)
    if judge != "lexicon":
        labels["label"] = None
    tables = {
        "labels": labels,
        "texts": texts,
        "properties": property_table(HEADS, properties.names, shares),
        "scores": score_table(labels, found.directions, properties.names, None),
    }
    return save_result(
        store.url, "label", {"with_": judge, "where": None, "layers": "last:4"},
        {"judge": judge, "pool": "words", "lexicon": "words", "texts": kept.url, "images": 38},
        tables={name: as_table(table, LABELS[name]) for name, table in tables.items()},
    )  # fmt: skip


def library(*stores: Store) -> Library:
    """Stores that are looked at, with a word for each job that would find something."""
    jobs = ("index", "label", "textspan", "reduce")
    return Library(
        [s.url for s in stores], [], lambda store, typed: {job: f"facet {job}" for job in jobs}
    )


def contributions(store: Store, at: Head) -> np.ndarray:
    """What a head wrote, on the published scale, (images, E) float64; NaN of bad images."""
    norm = np.linalg.norm(store.embeddings().values.astype(np.float64), axis=1)
    return store.heads(*at).values.astype(np.float64) / norm[:, None]
