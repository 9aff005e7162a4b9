"""From pictures to a page that shows what was found, on the embedded world: ``make demo``."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from jobs import ablate, extract, omp, rosetta, second_order, textspan
from jobs.console import console, run_job
from pipeline.heads.shares import shares
from pipeline.neurons.about import NeuronReader
from pipeline.neurons.answers import most_selective
from pipeline.pages.heads import ablation_sections, textspan_sections
from pipeline.pages.html import Section, extraction_sections, link, page, section
from pipeline.pages.neurons import neuron_sections
from pipeline.rosetta.page import find_dictionary, write_dictionary
from pipeline.texts.encoding import store_model
from storage import urls

# The last layer whose neurons have second-order effects, and the texts of a neuron's code.
MLP_LAYER, TERMS = 2, 8
# What is shared between models is shown on fewer pictures.
SHARED = rosetta.RosettaConfig(
    images="microworld:n=200,seed=7,split=test",
    models=("microworld", "microworld-cnn", "microworld-mae"),
    out="",
    shard_size=100,
)


@dataclass(frozen=True)
class DemoConfig:
    """From pictures to a page, on the embedded world."""

    out: Path = Path("demo")
    """Where the store and index.html go."""
    images: str = "microworld:n=2000,seed=7,split=test"
    """The pictures."""


def main(config: DemoConfig) -> None:
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
    effects = second_order.main(
        second_order.SecondOrderConfig(store=url, mlp_layers=str(MLP_LAYER))
    )
    coded = omp.main(
        omp.OmpConfig(store=url, mlp_layers=str(MLP_LAYER), pool="microworld", terms=TERMS)
    )
    ablated = ablate.main(ablate.AblateConfig(store=url, classes="microworld:shape"))
    reader = NeuronReader(store, store_model(store), MLP_LAYER, effects.result, coded.result)
    chosen = [reader.about(n) for n in most_selective(effects.neurons, MLP_LAYER)]
    place = config.out / "index.html"
    shown = page(
        "Facet: what was found",
        f"{store.meta.architecture} taken apart over {store.meta.source}.",
        [
            *extraction_sections(store, shares(store)),
            *textspan_sections(described.descriptions, described.known),
            *neuron_sections(chosen, coded.truths.get(MLP_LAYER)),
            *ablation_sections(ablated.accuracy),
            shared_section(config.out),
        ],
    )
    urls.put_bytes(str(place), shown.encode())
    console.print(f"{place.absolute()} shows what was found ({time.monotonic() - started:.0f} s)")


def shared_section(out: Path) -> Section:
    """Find the units that three models share; a link to a page of their own, and how true."""
    mined = str(out / "rosetta")
    rosetta.main(replace(SHARED, out=mined))
    found = find_dictionary(mined, concepts=8, images=100, draws=1)
    write_dictionary(found, urls.absolute(str(out / "dictionary")))
    pictures = link("the dictionary with pictures", "dictionary/dictionary.html")
    return section("Units that models share", rows=list(found.facts.items()), links=[pictures])


if __name__ == "__main__":
    run_job(main, tyro.cli(DemoConfig, description=__doc__))
