"""The recipe of ``make demo``: every job on the embedded world, and the page of what they found."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from jobs import (
    ablate,
    adversarial,
    concepts,
    extract,
    label,
    omp,
    repair,
    rosetta,
    search,
    second_order,
    segment,
    textspan,
)
from jobs.console import console, show_next, show_table
from jobs.demo import DemoConfig
from jobs.pages import as_typed, reader, write
from jobs.settings import command
from pipeline.cluster import machines
from pipeline.labels.found import heads_with
from pipeline.pages.heads import heads_of
from pipeline.pages.html import Made, Section, link, section
from pipeline.pages.planted import planted_section
from pipeline.pages.reader import Reader
from pipeline.pages.report import store_page
from pipeline.rosetta.page import find_dictionary, write_dictionary
from storage import open_store, urls

# The last layer whose neurons have second-order effects, and the texts of a neuron's code.
MLP_LAYER, TERMS = "2", 8
# Maps of some methods, of what the pictures are known to show.
SEGMENTED = segment.SegmentConfig(
    store="",
    classes="microworld:shape",
    methods=(
        "tokens", "neurons", "raw-attention", "rollout", "gradcam", "transformer-attribution",
        "random",
    ),
    class_="label",
    layers=("all",),
    mlp_layers=MLP_LAYER,
    where="index < 300",
)  # fmt: skip
# What heads are good for, once it is known what they are about.
REPAIRED = repair.RepairConfig(
    store="",
    classes="microworld:shape=star,heart",
    groups="background",
    property="background",
    where='label in ("star", "heart")',
)
SEARCHED = search.SearchConfig(
    store="", image=("0", "1", "2"), property="colour", top=8, random=True
)
# What neurons say of three pictures, beside the other ways; and stars that are taken for hearts.
SAID = concepts.ConceptsConfig(
    store="", image=("0", "1", "2"), method=("neurons", "published", "heads", "embedding")
)
FOOLED = adversarial.AdversarialConfig(
    store="",
    drawn="star",
    target="heart",
    sources=("second-order", "random", "similar", "none"),
    pictures=5,
)
# What is shared between models is shown on fewer pictures, and stands in a folder of its own.
SHARED_AT = "rosetta"
SHARED = rosetta.RosettaConfig(
    images="microworld:n=200,seed=7,split=test",
    models=("microworld", "microworld-cnn", "microworld-mae"),
    out="",
    shard_size=100,
)


def run(config: DemoConfig) -> None:
    """Run every job in order and write the page."""
    started = time.monotonic()
    url = str(config.out / "store")
    store = extract.main(
        extract.ExtractConfig(
            images=config.images,
            model="microworld",
            pretrained="microworld",
            store=url,
            shard_size=500,
        )
    )
    described = textspan.main(textspan.TextSpanConfig(store=url, pool="microworld"))
    second_order.main(second_order.SecondOrderConfig(store=url, mlp_layers=MLP_LAYER))
    omp.main(omp.OmpConfig(store=url, mlp_layers=MLP_LAYER, pool="microworld", terms=TERMS))
    concepts.main(replace(SAID, store=url))
    adversarial.main(replace(FOOLED, store=url))
    ablate.main(ablate.AblateConfig(store=url, classes="microworld:shape"))
    label.main(label.LabelConfig(store=url))
    repair.main(replace(REPAIRED, store=url))
    search.main(replace(SEARCHED, store=url))
    read = reader(store, url)
    segment.main(replace(SEGMENTED, store=url))
    planted = planted_pair(url, described.descriptions, read)
    shared = shared_units(config.out)
    machines.work("here")  # the page takes no help
    write(str(config.out / "index.html"), store_page(read, [planted], [shared]))
    console.print(f"all of it took {time.monotonic() - started:.0f} s")
    show_table("on pictures of your own, type", {str(i): line for i, line in enumerate(own(), 1)})
    show_next(command("explore", store=url, rosetta=str(config.out / SHARED_AT)))


def planted_pair(url: str, descriptions: pd.DataFrame, read: Reader) -> Section:
    """Stars against hearts, with and without the heads that are labelled background."""
    chosen = heads_with(open_store(url), "background")
    found = ablate.main(
        ablate.AblateConfig(
            store=url,
            classes="microworld:shape=star,heart",
            study=("chosen",),
            where='label in ("star", "heart")',
            heads=tuple(f"{layer}.{head}" for layer, head in chosen),
        )
    )
    heads = heads_of(descriptions)
    return planted_section(found.accuracy, list(chosen), heads, read.made(found.result))


def shared_units(out: Path) -> Section:
    """Find the units that three models share; a link to a page of their own, and how true."""
    mined = str(out / SHARED_AT)
    asked = replace(SHARED, out=mined)
    rosetta.main(asked)
    found = find_dictionary(mined, concepts=8, images=100, draws=1)
    write_dictionary(found, urls.absolute(str(out / "dictionary")))
    pictures = link("the dictionary with pictures", "dictionary/dictionary.html")
    told = f"Concepts: {found.facts.pop('concepts')}."
    rows = list(found.facts.items())
    made = Made(as_typed("rosetta", asdict(asked)))
    return section("Units that models share", found=told, rows=rows, links=[pictures], made=made)


def own() -> list[str]:
    """Three commands for one's own pictures."""
    return [
        command(
            "extract",
            images="pictures",
            model="ViT-B-32-quickgelu",
            pretrained="openai",
            store="mine",
        ),
        command("textspan", store="mine", pool="general"),
        command("report", store="mine"),
    ]
