"""The recipe of ``facet rosetta``: units that models share.

Long for what it says of every model: in its plan, and when it is done.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from humanize import naturalsize

from jobs.console import TELLER, console, progress_bar, show_table
from jobs.rosetta import RosettaConfig
from jobs.scaffold import actors, of_workers, save, show_done
from jobs.settings import command
from pipeline.cluster import machines
from pipeline.cluster.work import Workers
from pipeline.identity import settings
from pipeline.images.bad import BadImages
from pipeline.images.rows import ListingReport
from pipeline.models.arithmetic import NO_TF32
from pipeline.rosetta import plan
from pipeline.rosetta import run as mining
from pipeline.rosetta.concepts import SharedUnits, match
from pipeline.rosetta.models import UnitModel, left_out_words
from pipeline.rosetta.setup import (
    MiningSpec,
    choose,
    load_all,
    open_or_create,
    refuse_other_pictures,
    seconds_here,
)
from pipeline.rosetta.tables import SHARED
from pipeline.telling import several
from storage import urls
from storage.results import Result
from storage.rosetta import Card, Setup, Tile


@dataclass(frozen=True, eq=False)
class RosettaRun(SharedUnits):
    """What was found, and where it is kept."""

    result: Result


def run(config: RosettaConfig) -> RosettaRun:
    """Sum what is lacking, correlate, match, sum up."""
    started = time.monotonic()
    url = urls.absolute(config.out)
    refuse_other_pictures(url, config.decode)
    with console.status("loading models"):
        models = load_all(config.models, config.generator, config.decode)
    cards = {slug: model.card for slug, model in models.items()}
    hub = hub_of(config, cards)
    setup, report = open_or_create(url, spec_of(config), cards, TELLER)
    wanted = plan.wanted_tiles(cards.values(), hub)
    lacking = max(setup.shards - len(done) for done in mining.left_over(url, wanted).values())
    machines.settle(
        seconds_here(models, wanted, lacking * setup.shard_size, config.device),
        f"{len(models)} models over {setup.images:,} images",
        TELLER.say,
    )
    workers, hold = choose(setup, models, wanted, config.device, actors(config))
    work = plan.items(mining.left_over(url, wanted), setup, cards, hold)
    show_plan(url, setup, models, wanted, work, workers, mining.need_bytes(models, workers, hold))
    total = sum(stop - start for item in work for start, stop in [setup.rows(item.shard)])
    with progress_bar("images", total, "finished sums are kept") as move:
        bad = mining.mine(
            url, setup, models, wanted, workers, hold,
            max_bad=config.max_bad, report=move, say=TELLER.say,
        )  # fmt: skip
    with progress_bar("correlations: tiles", len(wanted), "finished tiles are kept") as move:
        mining.correlate(url, cards, wanted, move)
    shared = match(url, cards, hub, config.neighbours, TELLER)
    facts = {
        "images": setup.images,
        "hub": hub.name,
        "layers_left_out": {m.card.name: m.left_out for m in models.values() if m.left_out},
        "tf32": NO_TF32,
    }
    identity = {
        "settings": settings(config),
        "images": setup.image_list_digest,
        "models": {card.name: card.weights_digest for card in cards.values()},
    }
    result = save(
        url, "rosetta", config, facts, identity=identity, tables=vars(shared), schemas=SHARED
    )
    show_done(
        summary(shared, models, hub, setup, report, bad),
        time.monotonic() - started,
        result,
        command("show", "rosetta", store=url),
    )
    return RosettaRun(**vars(shared), result=result)


def spec_of(config: RosettaConfig) -> MiningSpec:
    """Which images are meant."""
    return MiningSpec(
        images=config.images,
        generator=config.generator,
        seeds=config.seeds,
        limit=config.limit,
        shard_size=config.shard_size,
        batch_size=config.batch_size,
    )


def hub_of(config: RosettaConfig, cards: dict[str, Card]) -> Card:
    """The model that matches are merged through."""
    name = config.hub or config.generator or config.models[0]
    return next(card for card in cards.values() if card.name == name)


def show_plan(
    url: str,
    setup: Setup,
    models: dict[str, UnitModel],
    wanted: list[Tile],
    work: list[plan.Item],
    workers: Workers,
    need: int,
) -> None:
    """Models, bytes and workers, before anything long starts."""
    cards = {slug: model.card for slug, model in models.items()}
    size = plan.pass_bytes(wanted, cards)
    pairs = {(t.a, t.b) for t in wanted}
    kept = sum(3 * 4 * cards[a].units * cards[b].units for a, b in pairs)
    passes = max((sum(i.shard == w.shard for i in work) for w in work), default=0)
    show_table(
        f"{len(cards)} models over {setup.source}",
        {
            **{
                card.name: f"{card.units:,} units in {len(card.layers)} layers, maps "
                + ", ".join(f"{h}×{w}" for h, w in card.sizes)
                for card in cards.values()
            },
            **{
                f"  left out of {model.card.name}": "; ".join(left_out_words(model.left_out))
                for model in models.values()
                if model.left_out
            },
            "images": f"{setup.images:,} in {several(setup.shards, 'shard')} of "
            f"{setup.shard_size:,}",
            "pairs": f"{len(pairs):,} in {len(wanted):,} tiles",
            "left to do": f"{len({item.shard for item in work}):,} shards, every image up to "
            f"{passes} time(s) through the models",
            "will write": f"{naturalsize(kept)} of correlations, and {naturalsize(size)} of sums "
            "a shard, merged as they come",
            "workers": of_workers(workers),
            "memory": f"{naturalsize(need)} an actor",
            "out": url,
        },
    )


def summary(
    shared: SharedUnits,
    models: dict[str, UnitModel],
    hub: Card,
    setup: Setup,
    report: ListingReport,
    bad: BadImages,
) -> dict[str, object]:
    """Concepts, units that say nothing, layers and images left out."""
    concepts, buddies, units = shared.concepts, shared.buddies, shared.units
    lost = units[units["state"] != "alive"].groupby("model")["state"].value_counts()
    pairs = buddies[buddies["model_a"] != buddies["model_b"]]
    facts: dict[str, object] = {
        "images": f"{setup.images - bad.total():,} ok, {bad.total():,} bad",
        **bad.rows(),
        **report.facts(),
        "best buddies": f"{len(pairs):,} over all pairs of models, "
        f"{int(pairs['replicates'].sum()):,} of them in both halves, too",
        "concepts": f"{concepts['concept'].nunique():,} shared by all {len(models)} models "
        f"(through {hub.name}), {shared.replicated():,} of them in both halves",
    }
    for model in models.values():
        card = model.card
        kinds = {k: int(lost.get((card.name, k), 0)) for k in ("dead", "constant")}
        facts[f"  {card.name}"] = "; ".join(
            [
                f"{card.units:,} units, " + ", ".join(f"{n:,} {kind}" for kind, n in kinds.items()),
                *left_out_words(model.left_out),
            ]
        )
    return facts
