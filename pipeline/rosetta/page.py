"""From what the job found to its dictionary: pictures, truth where it is known, the page."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.pages.html import section
from pipeline.provenance import revision, versions
from storage import urls
from storage.errors import FacetError
from storage.results import as_table, save_result

from . import truth
from .dictionary import (
    CONCEPTS,
    IMAGES,
    Concept,
    concepts_of,
    dictionary_sections,
    entries,
    pictures_of,
    write_dictionary,
)
from .replay import open_mined
from .tables import TRUTH


@dataclass(frozen=True)
class Shown:
    """What a dictionary shows.

    Attributes
    ----------
    page : str
        URL of ``dictionary.html``; pictures lie beside it.
    concepts : list of Concept
    facts : dict of str to str
    """

    page: str
    concepts: list[Concept]
    facts: dict[str, str]


def make_dictionary(
    url: str,
    out: str | None = None,
    *,
    concepts: int = CONCEPTS,
    images: int = IMAGES,
    draws: int = truth.DRAWS,
) -> Shown:
    """Write the dictionary of what the job found last at a URL.

    Parameters
    ----------
    url : str
        Where the job wrote.
    out : str, optional
        Folder of the page; by default that of the result.
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
    folder = found.result.url if out is None else urls.absolute(out)
    urls.check_writable(folder, "out")
    shown = entries(found, every[:concepts], images)
    facts = {
        "concepts": f"{len(every):,} shared by {len(found.models)} models, "
        f"{sum(c.replicates for c in every):,} of them in both halves; {len(shown):,} shown",
        "examples from": f"{min(images, found.setup.images):,} of {found.setup.images:,} images",
    }
    if found.changed:
        some = ", ".join(sorted(found.changed)[:3])
        facts["left out"] = f"{len(found.changed):,} images that are not what they were ({some})"
    sections = []
    if truth.known(found):
        table = truth.truth_table(found, every[: truth.CONCEPTS], images, draws)
        save_result(
            url, "rosetta_truth",
            {"of": found.result.url, "images": images, "draws": draws, "seed": truth.SEED},
            {"versions": versions(), "revision": revision()},
            tables={"truth": as_table(table, TRUTH["truth"])},
        )  # fmt: skip
        against = truth.truth_facts(table)
        facts |= against
        roles = table[table["pairing"] == "shared"]
        text = "Which attribute value each concept tells best, and whether it lies on objects."
        sections = [
            section("Against the truth", text, rows=list(against.items())),
            section(
                "What each concept is about",
                header=("concept", "value", "AUC", "all models agree", "AUC inside objects"),
                rows=[
                    (r.concept, f"{r.attribute} {r.value}", f"{r.auc:.2f}",
                     "yes" if r.agrees else "no", f"{r.inside:.2f}")
                    for r in roles.itertuples()
                ],
            ),
        ]  # fmt: skip
    pictures = pictures_of(shown)
    page = write_dictionary(
        folder,
        "Units that models share",
        f"{', '.join(found.models)} over {found.setup.source}, through {found.hub}. "
        + f"{facts['concepts']}.",
        [*sections, *dictionary_sections(shown, pictures)],
        pictures,
    )
    return Shown(page, every[:concepts], facts)
