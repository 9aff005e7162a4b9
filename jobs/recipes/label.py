"""The recipe of ``facet label``: heads labelled by a judge, with evidence and scores."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from jobs.console import TELLER, console
from jobs.label import Asked, LabelConfig
from jobs.scaffold import found_or_made, save, show_done
from jobs.settings import command
from jobs.steps import embedded, opened, reduced
from pipeline.heads.choices import Head
from pipeline.heads.describe import describe_heads, description_table, heads_of, refuse_one_image
from pipeline.heads.roles import head_variances, known_roles
from pipeline.identity import over, settings
from pipeline.labels import by_model
from pipeline.labels.answers import Labels, labelled
from pipeline.labels.by_lexicon import Properties, property_shares
from pipeline.labels.choices import FIRST
from pipeline.labels.found import JOB
from pipeline.labels.judged import (
    by_properties,
    first_texts,
    label_table,
    property_table,
    score_table,
    text_table,
)
from pipeline.labels.tables import LABELS
from pipeline.language.loading import choice_identity, load_writer
from pipeline.pages import tables
from pipeline.texts.classes import texts_digest
from storage import urls
from storage.reductions import Reductions
from storage.results import Result, result_url
from storage.store import Store


@dataclass(frozen=True, eq=False)
class LabelRun:
    """What was found."""

    result: Result
    found: Labels


def run(config: LabelConfig, asked: Asked) -> LabelRun:
    """Make what is missing, label the heads, hold the labels against the truth where known."""
    started = time.monotonic()
    console.print(asked.pool.report)
    store = opened(config.store)
    reductions = reduced(store, config.where, ("heads",))
    refuse_one_image(reductions)
    identity = identity_of(config, asked, store, reductions)
    result = found_or_made(
        store.url, JOB, identity, lambda: label(config, asked, identity, store, reductions)
    )
    found = labelled(result)
    console.print(tables.labels(found))
    console.print(tables.label_scores(found))
    facts = {
        "images": f"{result.provenance['images']:,}",
        "heads": f"{len(found.labels):,}",
        "judge": found.judge,
    }
    if unread := result.provenance["unread"]:
        facts["answers not read"] = f"{len(unread)} heads: {', '.join(unread)}"
    show_done(facts, time.monotonic() - started, result, command("report", store=config.store))
    return LabelRun(result, found)


def identity_of(
    config: LabelConfig, asked: Asked, store: Store, reductions: Reductions
) -> dict[str, Any]:
    """All that decides the labels: files by what they hold."""
    given = settings(config)
    named = ("with_", "lexicon", "examples")
    return {
        "settings": {name: value for name, value in given.items() if name not in named},
        "judge": choice_identity(asked.judge),
        "over": over(store, reductions.facts.counted("heads")),
        "pool": texts_digest(asked.pool.texts),
        "lexicon": asked.lexicon.digest,
        "examples": [[e.label, list(e.texts), list(e.fits)] for e in asked.examples],
    }


def label(
    config: LabelConfig,
    asked: Asked,
    identity: dict[str, Any],
    store: Store,
    reductions: Reductions,
) -> Result:
    """Describe the heads, have them judged, and keep what was said."""
    from pipeline.texts.encoding import TextEncoder  # brings torch

    encoder = TextEncoder(store, config.pretrained)
    pool = embedded(encoder, asked.pool.source, asked.pool.texts)
    heads = heads_of(config.layers, store)
    span = describe_heads(store, reductions, heads, pool.embeddings, FIRST, teller=TELLER)
    descriptions = description_table(span, heads, pool.texts)
    texts = first_texts(descriptions, heads)
    kept: dict[str, pd.DataFrame] = {}
    made_by: dict[str, Any] = {}
    if asked.judge.kind == "lexicon":
        rows = embedded(encoder, asked.lexicon.source, asked.lexicon.texts).embeddings
        properties = Properties.of(asked.lexicon, rows)
        shares = property_shares(store, reductions, heads, properties, TELLER)
        kept["properties"] = property_table(heads, properties.names, shares)
        judged = by_properties(properties, shares, texts, embeddings_of(texts, pool))
    else:
        place = result_url(store.url, JOB, identity)
        model = load_writer(asked.judge, by_model.SETTINGS, by_model.SHORTER, TELLER)
        made_by = model.made_by
        judged = by_model.judge_heads(
            model.ask, texts, asked.examples, asked.lexicon.names, config.attempts, place,
            model.at_once, TELLER,
        )  # fmt: skip
        kept["answers"] = by_model.answer_table(judged)
    known = known_roles(store, reductions, descriptions, TELLER)
    kept["texts"] = text_table(descriptions, judged)
    kept["labels"] = label_table(
        judged, kept["texts"], span.directions, head_variances(reductions), known
    )
    kept["scores"] = score_table(kept["labels"], span.directions, asked.lexicon.names, known)
    facts = {
        "images": reductions.count(),
        "judge": asked.judge.name,
        "pool": asked.pool.source,
        "lexicon": asked.lexicon.source,
        "examples": identity["examples"],
        "unread": ["{}.{}".format(*head) for head, said in judged.items() if said.unread],
        "texts": pool.result.url,
        **made_by,
    }
    result = save(store.url, JOB, config, facts, identity=identity, tables=kept, schemas=LABELS)
    urls.remove(urls.join(result.url, by_model.PARTS))
    return result


def embeddings_of(texts: dict[Head, list[str]], pool: Any) -> dict[str, NDArray[np.float32]]:
    """Embeddings of the texts that heads have."""
    rows = {text: i for i, text in enumerate(pool.texts)}
    return {text: pool.embeddings[rows[text]] for of in texts.values() for text in of}
