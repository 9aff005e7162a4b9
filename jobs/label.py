"""Say what attention heads are about, with evidence, and score how clearly they say it.

    facet label --store out/ --layers last:4
    facet label --store out/ --with openai:MODEL

A judge names the property that a head's first texts have in common: a list of properties, which
needs nothing else; a server of the OpenAI protocol, by its address in OPENAI_BASE_URL; or a
language model on this machine. Moments and text embeddings that are missing are made first. The
scores are those of "Quantifying and Enabling the Interpretability of CLIP-like Models" (2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from jobs.checks import at_place, look, refuse_conditions
from jobs.console import run_job, say_loading
from jobs.settings import choose_place, pool_of, refuse_bounds, refuse_unused
from pipeline.cluster.machines import Where
from pipeline.extraction.plan import parse_layers
from pipeline.labels.choices import JUDGES
from pipeline.labels.examples import Example, load_examples
from pipeline.labels.lexicon import Lexicon, lexicon_of, load_lexicon
from pipeline.language.choices import Chosen, parse_choice, refuse_no_server
from pipeline.stats.choices import refuse_components
from pipeline.texts import Pool, load_pool

if TYPE_CHECKING:
    from jobs.recipes.label import LabelRun
    from storage.metadata import Metadata


@dataclass(frozen=True)
class LabelConfig:
    """Say what attention heads are about, with evidence, and score how clearly they say it."""

    store: str
    """The store: a local path or an object-store URL."""
    with_: Annotated[str, tyro.conf.arg(name="with")] = "lexicon"
    """What judges: lexicon, the list of properties; openai:MODEL, of the server at OPENAI_BASE_URL,
    with the key in OPENAI_API_KEY; transformers:PATH, a folder with a causal language model."""
    pool: str | None = None
    """Texts that may describe heads, as in facet textspan; by default general, or microworld of a
    store of the embedded world."""
    lexicon: str | None = None
    """Properties to choose from: photographs, microworld, or a text file, with a property in
    brackets above its texts; by default photographs, or microworld of a store of the embedded
    world. Language models may name others."""
    examples: str | None = None
    """For language models: a text file of heads labelled by hand, a label in brackets above its
    texts, with a minus before those that it does not fit; by default five of our own."""
    attempts: int = 3
    """For language models: how often one is asked until its answer can be read."""
    layers: str = "last:4"
    """Layers whose heads are labelled: all, last:4, 20-23, 1,3."""
    where: str | None = None
    """Which images describe the heads, by columns of the image table."""
    pretrained: str | None = None
    """The weights file that the store was made from, if it is no longer where it was."""
    out: str | None = None
    """Where what is found is kept, if not in the store, which is then only read: from then on, give
    this place as --store."""
    workers: Where = "auto"
    """Where work is done: ray, on a cluster that is joined or started; here, in this process; auto:
    here where no cluster runs and one process is done in a minute, else on Ray."""


@dataclass(frozen=True)
class Asked:
    """What is asked for, read and checked."""

    judge: Chosen
    pool: Pool
    lexicon: Lexicon
    examples: tuple[Example, ...]


def main(config: LabelConfig) -> LabelRun:
    """Check what can be told at once, then label the heads."""
    choose_place(config)
    asked = check(config)
    config = at_place(config)
    say_loading()
    from jobs.recipes.label import run

    return run(config, asked)


def check(config: LabelConfig, planned: Metadata | None = None) -> Asked:
    """Refuse what cannot work before any array is read; returns what was read on the way."""
    refuse_bounds(config, attempts=1)
    judge = parse_choice("with_", config.with_, JUDGES)
    if judge.kind == "lexicon":
        refuse_unused(config, ["examples", "attempts"], "--with openai:MODEL and transformers:PATH")
    tables, meta = look(config.store, planned, texts=True)
    pool = load_pool(config.pool or pool_of(meta.source))
    lexicon = load_lexicon(config.lexicon or lexicon_of(meta.source))
    examples = () if judge.kind == "lexicon" else load_examples(config.examples)
    parse_layers(config.layers, meta.layers)
    refuse_components(config.store, meta, ("heads",))
    refuse_conditions(tables, where=config.where)
    refuse_no_server(judge)
    return Asked(judge, pool, lexicon, examples)


if __name__ == "__main__":
    run_job(main, tyro.cli(LabelConfig, description=__doc__))
