"""From what the job found to its dictionary: pictures, truth where it is known, the page."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from pipeline.pages.html import Section, link, page, section
from pipeline.provenance import revision, versions
from storage import urls
from storage.errors import FacetError
from storage.results import as_table, save_result

from . import truth
from .answers import Concept, best_and_worst, concepts_of
from .dictionary import CONCEPTS, IMAGES, Entry, dictionary_sections, entries
from .replay import open_mined
from .tables import TRUTH


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Concepts that all models share.

    Attributes
    ----------
    result : str
        URL of the result that they are from.
    models : list of str
    hub, source : str
        The model that concepts go through, and where the images are from.
    concepts : list of Concept
    entries : list of Entry
        The same with examples; concepts without any are left out.
    truth : DataFrame or None
        As ``tables.TRUTH`` has it, where the truth is known.
    facts : dict of str to str
        What all of this is over, in words.
    """

    result: str
    models: list[str]
    hub: str
    source: str
    concepts: list[Concept]
    entries: list[Entry]
    truth: pd.DataFrame | None
    facts: dict[str, str]


def find_dictionary(
    url: str, *, concepts: int = CONCEPTS, images: int = IMAGES, draws: int = truth.DRAWS
) -> Dictionary:
    """The dictionary of what the job found last at a URL.

    Parameters
    ----------
    url : str
        Where the job wrote.
    concepts, images : int
        Concepts shown at most, and images that examples are taken from.
    draws : int
        Draws of random units that the truth is set beside.

    Raises
    ------
    FacetError
        If nothing was found there, or no concept is shared.
    """
    found = open_mined(url)
    every = concepts_of(found.result.table("concepts").to_pandas(), found.hub)
    if not every:
        raise FacetError(
            f"the models of {found.result.url} share no concept: mine them over more "
            "images, or with larger `neighbours`"
        )
    listed = best_and_worst(every, concepts)
    shown = entries(found, listed, images)
    facts = {
        "concepts": f"{len(every):,} shared by {len(found.models)} models, "
        f"{sum(c.replicates for c in every):,} of them in both halves; {len(shown):,} shown"
        + (", the weakest among them" if len(listed) < len(every) else ""),
        "examples from": f"{min(images, found.setup.images):,} of {found.setup.images:,} images",
    }
    if found.changed:
        some = ", ".join(sorted(found.changed)[:3])
        facts["left out"] = f"{len(found.changed):,} images that are not what they were ({some})"
    table = None
    if truth.known(found):
        table = truth.truth_table(found, every[: truth.CONCEPTS], images, draws)
        save_result(
            url, "rosetta_truth",
            {"of": found.result.url, "images": images, "draws": draws, "seed": truth.SEED},
            {"versions": versions(), "revision": revision()},
            tables={"truth": as_table(table, TRUTH["truth"])},
        )  # fmt: skip
        facts |= truth.truth_facts(table)
    return Dictionary(
        found.result.url,
        list(found.models),
        found.hub,
        found.setup.source,
        listed,
        shown,
        table,
        facts,
    )


def write_dictionary(found: Dictionary, folder: str) -> str:
    """Write ``dictionary.html``, with its pictures inside, at a URL; returns the page's."""
    place = urls.join(folder, "dictionary.html")
    urls.put_bytes(place, dictionary_page(found).encode())
    return place


def dictionary_page(found: Dictionary) -> str:
    """The dictionary as a page, with its pictures inside."""
    lead = (
        f"{', '.join(found.models)} over {found.source}, through {found.hub}. "
        f"{found.facts['concepts']}."
    )
    sections = [
        *truth_section(found.truth),
        *dictionary_sections(found.entries, found.truth),
        *values_section(found.truth, {e.concept.number for e in found.entries}),
    ]
    return page("Units that models share", lead, sections)


def truth_section(table: pd.DataFrame | None) -> list[Section]:
    """How true concepts are, beside random units; nothing where the truth is not known."""
    if table is None:
        return []
    text = (
        "Which attribute value each concept tells best, and whether it lies on objects, beside "
        "random units. AUC: area under the ROC curve, 0.5 is chance and 1 tells all images apart."
    )
    return [section("Against the truth", text, rows=list(truth.truth_facts(table).items()))]


def values_section(table: pd.DataFrame | None, shown: set[int]) -> list[Section]:
    """What each concept is about; those that the page shows are linked."""
    if table is None:
        return []
    rows = [
        (link(str(r["concept"]), f"#concept-{r['concept']}") if r["concept"] in shown
         else r["concept"], f"{r['attribute']} {r['value']}", f"{r['auc']:.2f}",
         "yes" if r["agrees"] else "no", f"{r['inside']:.2f}")
        for r in table[table["pairing"] == "shared"].to_dict("records")
    ]  # fmt: skip
    header = ("concept", "value", "AUC", "all models agree", "AUC inside objects")
    return [section("What each concept is about", header=header, rows=rows)]
