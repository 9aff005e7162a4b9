"""Find units that different models share: the same maps for the same images.

    facet rosetta --images photos/ --models timm:resnet50 timm:vit_base_patch16_224.dino \\
        --out shared/

With ``--generator G --seeds 1600`` the images are made by a generator, whose own units are then
compared, too. The same command again goes on where a stopped run ended; more models may be named
later.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import pandas as pd
import pyarrow as pa
import tyro
from humanize import naturalsize

from jobs.console import console, progress_bar, run_job, show_next, show_table
from jobs.settings import refuse_unused
from pipeline.cluster import machines
from pipeline.extraction.growth import KnownImages
from pipeline.extraction.run import Workers, choose_workers
from pipeline.extraction.unchanged import sample, settle
from pipeline.images.bad import BadImages
from pipeline.images.listing import list_images, ray_mapper
from pipeline.images.rows import FIXED, ListingReport
from pipeline.provenance import revision, versions
from pipeline.rosetta import matching, plan, run
from pipeline.rosetta.models import UnitModel, left_out_words, load_units
from storage import urls
from storage.errors import FacetError, command
from storage.images import ListDigest, write_images
from storage.results import Result, save_result
from storage.rosetta import (
    Card,
    Setup,
    Tile,
    find_setup,
    keep_card,
    pair_of,
    require_same,
    tiles,
    write_setup,
)


@dataclass(frozen=True)
class RosettaConfig:
    """Find units that different models share: the same maps for the same images."""

    models: tuple[str, ...]
    """family:name[/pretrained][@layers] of timm, open_clip, torchvision, import:module:function;
    or microworld, microworld-cnn, microworld-mae."""
    out: str
    """Where sums and results are or will be: a local path or an object-store URL."""
    images: str | None = None
    """Folder, WebDataset tars, Parquet files, or microworld:n=2000,seed=7,split=test."""
    generator: str | None = None
    """A generator that makes the images instead, such as microworld-generator."""
    seeds: int = 1600
    """Images that the generator makes: of seeds 0 … N-1."""
    hub: str | None = None
    """The model that matches are merged through; by default the generator, else the first."""
    neighbours: int = 5
    """K: units that match are among each other's K nearest."""
    shard_size: int = 256
    """Images whose sums are kept at once."""
    batch_size: int = 16
    """Images in one forward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What runs the models."""
    num_actors: Literal["auto"] | int = "auto"
    """Copies of the models at work; auto: one a GPU, or one a CPU while memory lasts."""
    max_bad: float = 0.01
    """Fraction of the images that may be bad before the job stops."""
    limit: int | None = None
    """Use only the first images of the list."""


@dataclass(frozen=True, eq=False)
class RosettaRun:
    """What was found.

    Attributes
    ----------
    result : Result
    concepts, buddies, units : DataFrame
        The result's tables.
    """

    result: Result
    concepts: pd.DataFrame
    buddies: pd.DataFrame
    units: pd.DataFrame


def main(config: RosettaConfig) -> RosettaRun:
    """Check all that can be checked, sum what is lacking, correlate, match, sum up."""
    started = time.monotonic()
    url = urls.absolute(config.out)
    check(config, url)
    models = load_all(config)
    cards = {slug: model.card for slug, model in models.items()}
    hub = hub_of(config, cards)
    machines.connect()
    report = ListingReport()
    setup = open_or_create(config, url, cards, report)
    wanted = plan.wanted_tiles(cards.values(), hub)
    workers, hold = choose(config, setup, models)
    work = plan.items(run.left_over(url, wanted), setup, cards, hold)
    show_plan(url, setup, models, wanted, work, workers, run.need_bytes(models, workers, hold))
    total = sum(stop - start for item in work for start, stop in [setup.rows(item.shard)])
    with progress_bar("images", total, "finished sums are kept") as move:
        bad = run.mine(
            url, setup, models, wanted, workers, hold,
            max_bad=config.max_bad, report=move, say=console.print,
        )  # fmt: skip
    with progress_bar("correlations: tiles", len(wanted), "finished tiles are kept") as move:
        run.correlate(url, cards, wanted, move)
    found = match(url, cards, hub, config.neighbours)
    result = save(config, url, setup, models, hub, found)
    outcome = RosettaRun(result, *found)
    show_summary(outcome, models, hub, setup, report, bad, time.monotonic() - started)
    show_next(command("show", "rosetta", store=url))
    return outcome


def check(config: RosettaConfig, url: str) -> None:
    """Refuse what cannot work before a model is loaded."""
    if (config.images is None) == (config.generator is None):
        raise FacetError("give either --images SOURCE or --generator MODEL (with --seeds N)")
    if config.generator is None:
        refuse_unused(config, ["seeds"], "--generator")
    else:
        refuse_unused(config, ["limit"], "--images")
    names = [*config.models, *filter(None, [config.generator])]
    if len(names) < 2:
        raise FacetError(
            f"one model alone ({', '.join(names) or 'none'}): name two --models at least, or one "
            "and a --generator"
        )
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise FacetError(f"{', '.join(twice)} is named twice: a model is compared with others")
    for flag, value, least in (
        ("--neighbours", config.neighbours, 1),
        ("--shard-size", config.shard_size, 2),
        ("--batch-size", config.batch_size, 1),
        ("--seeds", config.seeds, 2),
    ):
        if value < least:
            raise FacetError(f"{flag} {value}: must be at least {least}")
    if not 0 <= config.max_bad <= 1:
        raise FacetError(f"--max-bad {config.max_bad}: is a fraction between 0 and 1")
    if config.hub is not None and config.hub not in names:
        raise FacetError(f"--hub {config.hub} is none of the models: {', '.join(names)}")
    machines.check_device(config.device)
    urls.check_writable(url, "--out")


def load_all(config: RosettaConfig) -> dict[str, UnitModel]:
    """Every model by slug, the generator first; each is run once on noise to learn its maps."""
    models: dict[str, UnitModel] = {}
    with console.status("loading models"):
        for name in filter(None, [config.generator, *config.models]):
            model = load_units(name, generator=name == config.generator)
            for other in models.values():
                if other.card.weights_digest == model.card.weights_digest:
                    raise FacetError(
                        f"{other.card.name} and {name} are the same model, with the same weights: "
                        "name it once, with all its layers after one @"
                    )
            if model.card.slug in models:
                raise FacetError(
                    f"{models[model.card.slug].card.name} and {name} would be kept under one name"
                )
            models[model.card.slug] = model
    return models


def hub_of(config: RosettaConfig, cards: dict[str, Card]) -> Card:
    """The model that matches are merged through."""
    name = config.hub or config.generator or config.models[0]
    return next(card for card in cards.values() if card.name == name)


def open_or_create(
    config: RosettaConfig, url: str, cards: dict[str, Card], report: ListingReport
) -> Setup:
    """The setup of this configuration: the one that stands, if it is the same, or a new one."""
    existing = find_setup(url)
    digest = ListDigest()
    if config.generator is None:
        assert config.images is not None  # check sees to it
        listed = list_images(config.images, limit=config.limit, mapper=ray_mapper, report=report)
        source = config.images
    else:
        listed, source = seed_rows(config.generator, config.seeds), config.generator
    known = None
    with console.status("listing images"):
        if existing is None:
            write_images(url, digest.through(listed))
        else:
            of = url, existing.images
            known = KnownImages(*of, sample(*of, existing.shard_size))
            for _ in known.new(digest.through(listed)):
                pass
    if digest.rows < 2:
        raise FacetError(
            f"{source} has one image only: units are correlated over images, give more"
        )
    setup = Setup(
        image_list_digest=digest.hexdigest(),
        images=digest.rows,
        shard_size=config.shard_size,
        batch_size=config.batch_size,
        generator=config.generator,
        source=source,
        versions=versions(),
        revision=revision(),
    )
    if existing is not None and known is not None:
        require_same(url, existing, setup)
        setup = existing
        if config.generator is None:
            follow(url, setup, known, source)
    for card in cards.values():
        keep_card(url, card)
    if existing is None:
        write_setup(url, setup)
    return setup


def follow(url: str, setup: Setup, known: KnownImages, source: str) -> None:
    """Refuse a source whose images are not those that were mined; note where they lie now."""
    with console.status("reading images again"):
        notes = settle(
            url, setup.images, setup.shard_size, known, source,
            place="--out", must_read=False, mapper=ray_mapper,
        )  # fmt: skip
    for note in notes:
        console.print(note)


def seed_rows(generator: str, seeds: int) -> Iterator[pa.Table]:
    """Rows of the image table for a generator's images."""
    n = range(seeds)
    yield pa.table(
        {
            "index": n,
            "key": [f"seed-{i:08d}" for i in n],
            "uri": [f"generator:{generator}"] * seeds,
            "offset": n,
            **{name: [None] * seeds for name in ("length", "label", "caption")},
        },
        schema=pa.schema([("index", pa.int64()), *FIXED]),
    )


def choose(
    config: RosettaConfig, setup: Setup, models: dict[str, UnitModel]
) -> tuple[Workers, int]:
    """Workers, and the bytes of sums that each may hold."""
    resources = machines.resources()
    asked = None if config.num_actors == "auto" else config.num_actors
    likely = asked or max(1, int(resources["GPU"] or resources["CPU"]))
    hold = min(plan.HOLD_BYTES, machines.memory() // (4 * likely))
    one = Workers(config.device, 1, 1, config.batch_size)
    need = run.need_bytes(models, one, hold)
    if need > machines.node_memory():
        raise FacetError(
            f"an actor will need {naturalsize(need)} and the largest node has "
            f"{naturalsize(machines.node_memory())}: lower --batch-size, or choose fewer layers"
        )
    workers = choose_workers(
        resources,
        config.device,
        asked,
        config.batch_size,
        shards=setup.shards,
        fit=lambda batch: machines.memory() // need,
    )
    return workers, hold


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
            "images": f"{setup.images:,} in {setup.shards:,} shards of {setup.shard_size:,}",
            "pairs": f"{len(pairs):,} in {len(wanted):,} tiles",
            "left to do": f"{len({item.shard for item in work}):,} shards, every image up to "
            f"{passes} time(s) through the models",
            "will write": f"{naturalsize(kept)} of correlations, and {naturalsize(size)} of sums "
            "a shard, merged as they come",
            "workers": f"{workers.actors} × {workers.device}, {workers.threads} threads, "
            f"batches of {workers.batch_size}",
            "memory": f"{naturalsize(need)} an actor",
            "out": url,
        },
    )


Found = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]


def match(url: str, cards: dict[str, Card], hub: Card, k: int) -> Found:
    """Best buddies of every pair, the concepts that all models share, and every unit's state."""
    buddies: dict[tuple[str, str], matching.Buddies] = {}
    pairs = [pair_of(a, b) for i, a in enumerate(cards.values()) for b in list(cards.values())[:i]]
    pairs = sorted([*pairs, (hub, hub)], key=plan.slugs)
    with progress_bar("matching: pairs", len(pairs)) as move:
        for number, (a, b) in enumerate(pairs, start=1):
            tasks = [(url, tile, k) for tile in tiles(a, b)]
            parts = list(run.on_cluster(matching.tile_nearest, tasks))
            buddies[a.slug, b.slug] = matching.best_buddies(parts, k)
            move(number)
    others = {slug: card for slug, card in cards.items() if slug != hub.slug}
    through = {
        slug: buddies[hub.slug, slug]
        if (hub.slug, slug) in buddies
        else buddies[slug, hub.slug].swapped()
        for slug in others
    }
    concepts = matching.concept_table(hub, others, through, buddies[hub.slug, hub.slug])
    matches = pd.concat(
        [matching.buddy_table(cards[a], cards[b], found) for (a, b), found in buddies.items()],
        ignore_index=True,
    )
    units = pd.concat(
        [matching.unit_table(url, card, hub.slug) for card in cards.values()], ignore_index=True
    )
    return concepts, matches, units


def save(
    config: RosettaConfig,
    url: str,
    setup: Setup,
    models: dict[str, UnitModel],
    hub: Card,
    found: Found,
) -> Result:
    """The three tables, and how they came about."""
    provenance = {
        "images": setup.images,
        "hub": hub.name,
        "layers_left_out": {m.card.name: m.left_out for m in models.values() if m.left_out},
        "versions": versions(),
        "revision": revision(),
    }
    names = ("concepts", "buddies", "units")
    tables = {
        name: pa.Table.from_pandas(table, preserve_index=False)
        for name, table in zip(names, found, strict=True)
    }
    return save_result(url, "rosetta", asdict(config), provenance, tables=tables)


def show_summary(
    outcome: RosettaRun,
    models: dict[str, UnitModel],
    hub: Card,
    setup: Setup,
    report: ListingReport,
    bad: BadImages,
    seconds: float,
) -> None:
    """Concepts, units that say nothing, layers and images left out, time, and where it is."""
    concepts, buddies, units = outcome.concepts, outcome.buddies, outcome.units
    lost = units[units["state"] != "alive"].groupby("model")["state"].value_counts()
    pairs = buddies[buddies["model_a"] != buddies["model_b"]]
    facts: dict[str, object] = {
        "images": f"{setup.images - bad.total():,} ok, {bad.total():,} bad",
        **bad.rows(),
        **report.facts(),
        "best buddies": f"{len(pairs):,} over all pairs of models, "
        f"{int(pairs['replicates'].sum()):,} of them in both halves, too",
        "concepts": f"{concepts['concept'].nunique():,} shared by all {len(models)} models "
        f"(through {hub.name}), {replicated(concepts, len(models) - 1):,} of them in both halves",
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
    facts |= {"this run": f"{seconds:.0f} s", "kept in": outcome.result.url}
    show_table("done", facts)


def replicated(concepts: pd.DataFrame, others: int) -> int:
    """Concepts with a unit of the hub whose matches replicate in every other model."""
    sure = concepts[concepts["replicates"]]
    models = sure.groupby(["concept", "hub_layer", "hub_unit"])["model"].nunique()
    return int(models[models == others].reset_index()["concept"].nunique())


if __name__ == "__main__":
    run_job(main, tyro.cli(RosettaConfig, description=__doc__))
