"""What jobs know and a page shows: the commands that made results, and those that would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from jobs import cli
from jobs.console import console, show_table
from jobs.settings import ELIDED, command, describing, pool_of
from pipeline.pages.reader import Reader
from storage import urls
from storage.store import Store


def write(place: str, shown: str) -> None:
    """Write a page and say where it is and what is in it."""
    content = shown.encode()
    urls.put_bytes(place, content)
    pictures = shown.count("<img ")
    show_table("done", {"pictures": pictures, "size": f"{len(content) / 1e6:.1f} MB"})
    console.print(place)


def reader(store: Store, typed: str, pretrained: str | None = None) -> Reader:
    """What reads a store's results for a page; ``typed`` is the store's address as it was given."""
    return Reader(store, as_typed, following(store, typed), pretrained)


def as_typed(job: str, config: Mapping[str, Any]) -> str:
    """The command of a job with the settings that a result keeps, less those left as they are.

    Empty where no job of that name makes results: they came with those of another.
    """
    if job not in cli.JOBS:
        return ""
    given = {}
    for f in fields(cli.config_of(job)):
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        default = list(default) if isinstance(default, tuple) else default
        value = config.get(f.name, default)
        if value != default:
            given[f.name] = value
    return command(job, **given)


def following(store: Store, typed: str) -> dict[str, str]:
    """The command that finds each kind of result, as far as it can be known."""
    meta = store.meta
    world = meta.source.startswith("microworld")
    pool, classes = pool_of(meta.source), "microworld:shape" if world else ELIDED
    last = str(max(meta.second_order_layers - 1, 0))
    return {
        "extract": command(
            "extract", images=meta.source, model=meta.architecture, pretrained=ELIDED, store=typed
        ),
        "reduce": command("reduce", store=typed),
        "index": command("index", store=typed, layers="all", embedding=True),
        "textspan": describing(typed, meta),
        "label": command("label", store=typed),
        "ablate": command("ablate", store=typed, classes=classes),
        "compare": command("compare", store=typed, a=ELIDED, b=ELIDED),
        "second-order": command("second-order", store=typed, mlp_layers=last),
        "omp": command("omp", store=typed, mlp_layers=last, pool=pool),
        "segment": command(
            "segment", store=typed, classes=classes, masks=None if world else ELIDED
        ),
    }
