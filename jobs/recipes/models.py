"""The recipe of ``facet models``: names found, as tables or for machines."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from humanize import naturalsize
from rich.box import SIMPLE
from rich.table import Table

from jobs.console import console, show_next, show_table
from jobs.models import ModelsConfig
from jobs.settings import command
from pipeline.extraction.components import component_faults
from pipeline.models.catalogue import Entry, entries, exact, find, sizes_of, stored
from pipeline.models.family import Sizes
from pipeline.models.names import parse
from pipeline.models.spec import ModelSpec, check_supported
from pipeline.models.supported import near
from storage import layout, urls
from storage.errors import FacetError

# Of names that are refused for one reason, those that are shown.
SHOWN = 4


def run(config: ModelsConfig) -> list[Entry]:
    """Find names and print what is known of them."""
    one = exact(config.word) if config.word else None
    found = [one] if one is not None else find(config.word)
    if not found:
        good = [entry.name for entry in entries() if not entry.why]
        # A word may be a part of a name.
        parts = {part: name for name in good for part in (name, *re.split(r"[-_.:/]", name))}
        names = dict.fromkeys(parts[part] for part in near(config.word, tuple(parts)))
        hint = f": near names that are supported: {', '.join(names)}" if names else ""
        raise FacetError(f"no name or family of a model holds {config.word!r}{hint}")
    if config.format == "json":
        print(json.dumps([asdict(entry) for entry in found], indent=1))
    elif config.format != "table":
        _flat(config, found)
    elif one is not None:
        _show_one(one)
    else:
        # Of all names those that no family comes near are many, and asked for by few.
        _show([e for e in found if config.word or not e.far])
    return found


def _flat(config: ModelsConfig, found: Sequence[Entry]) -> None:
    import pandas as pd

    rows = pd.DataFrame([{**asdict(entry), "tags": " ".join(entry.tags)} for entry in found])
    if config.format == "csv":
        print(rows.to_csv(index=False), end="")
    else:
        urls.put_bytes(urls.absolute(str(config.out)), rows.to_parquet(index=False))


def _show(found: Sequence[Entry]) -> None:
    """The supported family by family, then the refused reason by reason."""
    families: dict[str, list[Entry]] = {}
    reasons: dict[str, list[str]] = {}
    for entry in found:
        if entry.why:
            reasons.setdefault(entry.why, []).append(entry.name)
        else:
            families.setdefault(entry.family, []).append(entry)
    for family, members in families.items():
        title = f"{family}: {len(members)} name{'s' * (len(members) > 1)}"
        table = Table(title=title, title_justify="left", box=SIMPLE)
        table.add_column("name", overflow="fold")
        for column in ("tail", "layers × heads × dim", "tokens", "embed", "an image", "texts"):
            table.add_column(column)
        table.add_column("weights", overflow="fold")
        for entry in members:
            table.add_row(entry.name, *_cells(entry).values())
        console.print(table)
    if reasons:
        table = Table(title="not supported", title_justify="left", box=SIMPLE)
        table.add_column("names", overflow="fold")
        table.add_column("why", overflow="fold")
        for why, names in reasons.items():
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            table.add_row(f"{', '.join(names[:SHOWN])}{more}", why)
        console.print(table)


def _cells(entry: Entry) -> dict[str, str]:
    more = f" and {len(entry.tags) - 1} more" if len(entry.tags) > 1 else ""
    return {
        "tail": entry.reading,
        "layers × heads × dim": f"{entry.layers} × {entry.heads} × {entry.head_dim}",
        "tokens": f"{entry.tokens:,}",
        "embed": f"{entry.embed:,}",
        "an image": naturalsize(entry.bytes),
        "texts": entry.texts,
        "weights": f"{entry.tags[0]}{more}" if entry.tags else "none",
    }


def _show_one(entry: Entry) -> None:
    if entry.why:
        show_table(entry.name, {"not supported": entry.why})
        return
    architecture = check_supported(ModelSpec(entry.name, "none"))
    sizes = sizes_of(entry.name)
    rows: dict[str, object] = {
        "family": entry.family,
        **{n: cell for n, cell in _cells(entry).items() if n not in ("an image", "weights")},
        "width": f"{sizes.width:,}",
        "neurons a layer": f"{sizes.mlp_width:,}",
        **_trunk(sizes),
        "patches": " × ".join(map(str, sizes.grid)),
        "tokens before them": sizes.prefix,
        "activation": sizes.activation,
        "pictures": _pictures(architecture.preprocess.identity()),
    }
    show_table(entry.name, rows)
    show_table("an image in a store", _components(entry.name))
    show_table("weights", {tag: parse(entry.name).spelled + "/" + tag for tag in entry.tags})
    if entry.tags:
        model = f"{entry.name}/{entry.tags[0]}"
        show_next(command("extract", model=model, images="PLACE", store="STORE"))


def _trunk(sizes: Sizes) -> dict[str, str]:
    """Of an attention pool, what comes before it."""
    if not sizes.trunk_layers:
        return {}
    return {
        "before the pool": f"{sizes.trunk_layers} layers, {sizes.trunk_mlp_width:,} neurons each"
    }


def _pictures(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name != "decoding")


def _components(name: str) -> dict[str, object]:
    """Bytes of each component that the model has."""
    sizes = sizes_of(name)
    nothing = layout.bytes_per_image(stored(sizes, ()))
    found: dict[str, object] = {"always": naturalsize(nothing)}
    for component in layout.COMPONENTS:
        if component_faults(sizes, (component,)):
            continue
        whole = layout.bytes_per_image(stored(sizes, (component,)))
        found[component] = naturalsize(whole - nothing)
    return found
