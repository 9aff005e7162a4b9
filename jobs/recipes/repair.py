"""The recipe of ``facet repair``: gains, what they bring to held-out images, an edit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from jobs.console import TELLER, console
from jobs.repair import RepairConfig
from jobs.scaffold import found_or_made, save, show_done
from jobs.settings import command
from jobs.steps import embedded, opened, reduced
from pipeline.heads.choices import Head, parse_heads
from pipeline.heads.edits import edit_from, write_edit
from pipeline.identity import over, settings
from pipeline.labels.found import heads_with
from pipeline.pages import tables
from pipeline.repair.answers import Repaired, repaired
from pipeline.repair.finding import Repair, counted, repair
from pipeline.repair.gains import Components
from pipeline.repair.groups import Asked
from pipeline.repair.tables import REPAIRS
from pipeline.texts.classes import class_means, classes_digest
from pipeline.texts.encoding import TextEncoder
from storage.reductions import Reductions
from storage.results import Result
from storage.store import Store

JOB = "repair"
EDIT = "edit.json"


@dataclass(frozen=True, eq=False)
class RepairRun:
    """What was found.

    Attributes
    ----------
    result : Result
    found : Repaired
    """

    result: Result
    found: Repaired


def run(config: RepairConfig, asked: Asked) -> RepairRun:
    """Make what is missing, find or take gains, tell what they bring."""
    started = time.monotonic()
    store = opened(config.store)
    heads = chosen(config, store)
    identity = {
        "settings": settings(config),
        "over": over(store),
        "classes": classes_digest(asked.classes),
        # A label may be given to other heads the next time.
        "heads": None if heads is None else [list(head) for head in heads],
    }
    make = partial(find, config, identity, store, asked, heads)
    result = found_or_made(store.url, JOB, identity, make)
    found = repaired(result)
    console.print(tables.repair(found))
    known = result.provenance
    for warning in known["warnings"]:
        console.print(f"WARNING: {warning}", style="bold red")
    facts = {
        "held out": f"{known['classified']:,} images, {known['groups']} groups",
        "taken away": ", ".join(f"head {head}" for head in found.heads) or "no head",
        "means over": f"{known['reference_images']:,} images",
        "edit": found.edit,
    }
    following = command(
        "ablate", store=config.store, classes=config.classes, edit=found.edit, where=config.where
    )
    show_done(facts, time.monotonic() - started, result, following)
    return RepairRun(result, found)


def chosen(config: RepairConfig, store: Store) -> tuple[Head, ...] | None:
    """The heads that are put at their means, in the store's order; None: gains are found."""
    if config.search:
        return None
    if config.property is not None:
        return heads_with(store, config.property)
    return tuple(sorted(parse_heads(config.heads, store.meta.layers, store.meta.heads)))


def find(
    config: RepairConfig,
    identity: dict[str, Any],
    store: Store,
    asked: Asked,
    heads: tuple[Head, ...] | None,
) -> Result:
    """Count groups, find or take gains, classify, and keep all that with the edit."""
    groups = counted(store, asked, config.search)
    encoder = TextEncoder(store, config.pretrained)
    encoded = embedded(encoder, f"classes {config.classes}", asked.classes.flat)
    reductions = reduced(store, config.means_from, ("heads", "mlps", "embedding"))
    readout = class_means(encoded.embeddings, asked.classes)
    found = repair(store, asked, groups, readout, reductions, heads, TELLER)
    facts = {
        "by": by(config),
        "heads": [f"{layer}.{head}" for layer, head in found.heads],
        "edit": EDIT,
        "reference_images": reductions.count("embedding"),
        "classified": sum(groups.held_out.values()),
        "training": sum(groups.training.values()),
        "groups": len(groups.held_out),
        "classes": len(asked.classes.names),
        "warnings": [*groups.notes(asked, config.search), *found.warnings],
        "search": None if found.searched is None else found.searched.facts,
    }
    kept = {"accuracy": found.accuracy, "gains": found.gains, "groups": groups.table(asked)}
    return save(
        store.url, JOB, config, facts, identity=identity, tables=kept, schemas=REPAIRS,
        files={EDIT: edit_file(store, reductions, found, config)},
    )  # fmt: skip


def by(config: RepairConfig) -> str:
    """How the heads were chosen, in words."""
    if config.property is not None:
        return f"heads labelled {config.property}"
    return "gains found on the training half" if config.search else "heads that were named"


def edit_file(store: Store, reductions: Reductions, found: Repair, config: RepairConfig) -> bytes:
    """The repair as a file that other jobs take."""
    components = Components(store.meta.layers, store.meta.heads)
    heads_lh, _, _ = components.split(found.gains_s)
    gains = {
        (int(layer), int(head)): float(heads_lh[layer, head])
        for layer, head in zip(*np.nonzero(heads_lh != 1), strict=True)
    }
    name = f"repair of {config.groups}: {by(config)}"
    return write_edit(edit_from(store, reductions, name, gains, {}, {}))
