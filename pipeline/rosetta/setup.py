"""What a run compares, before it does: its models, its images, its workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from pipeline.cluster import machines, pace
from pipeline.cluster.room import refuse_memory
from pipeline.cluster.tasks import each, listed
from pipeline.cluster.work import Workers, choose_workers
from pipeline.extraction.growth import KnownImages
from pipeline.extraction.unchanged import sample, settle
from pipeline.images.decoding import Decode, refuse_other_decode
from pipeline.images.listing import list_images
from pipeline.images.rows import FIXED, ListingReport
from pipeline.provenance import revision, versions
from pipeline.telling import SILENT, Teller
from storage.errors import FacetError
from storage.images import ListDigest, write_images
from storage.rosetta import (
    Card,
    Setup,
    Tile,
    find_setup,
    keep_card,
    read_cards,
    require_same,
    write_setup,
)

from . import plan, run
from .models import UnitModel, load_units

# Operations of a pass over an image, for a parameter: 330 of a ResNet-50, 390 of a ViT-B/16.
PRODUCTS_A_PARAMETER = 400


@dataclass(frozen=True)
class MiningSpec:
    """Which images models are compared over.

    Attributes
    ----------
    images, generator : str or None
        Where the images are, or the model that makes them: one of the two.
    seeds : int
        How many a generator makes.
    limit : int or None
        Only so many images of the list.
    shard_size, batch_size : int
        Images whose sums are kept at once, and in one forward pass.
    """

    images: str | None
    generator: str | None
    seeds: int
    limit: int | None
    shard_size: int
    batch_size: int

    @property
    def source(self) -> str:
        """What the images are of."""
        return self.images or self.generator or ""

    def rows(self, report: ListingReport, teller: Teller = SILENT) -> Iterator[pa.Table]:
        """The image table."""
        if self.images is not None:
            mapper = partial(listed, teller.say)
            return list_images(self.images, limit=self.limit, mapper=mapper, report=report)
        return seed_rows(self.source, self.seeds)


def load_all(
    names: Iterable[str], generator: str | None = None, decode: Decode = "exact"
) -> dict[str, UnitModel]:
    """Every model by slug, the generator first; each is run once on noise to learn its maps.

    Raises
    ------
    FacetError
        If two are the same model, or would be kept under one name.
    """
    models: dict[str, UnitModel] = {}
    for name in filter(None, [generator, *names]):
        model = load_units(name, generator=name == generator, decode=decode)
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


def refuse_other_pictures(url: str, decode: Decode) -> None:
    """Refuse sums of pictures that were read in another way, before models are loaded."""
    for card in read_cards(url).values():
        if card.preprocessing:  # a generator's are not read
            refuse_other_decode(url, card.preprocessing, decode)


def open_or_create(
    url: str, spec: MiningSpec, cards: Mapping[str, Card], teller: Teller = SILENT
) -> tuple[Setup, ListingReport]:
    """The setup that was asked for: the one that stands, if it is the same, or a new one.

    Raises
    ------
    StoreMismatch
        If the one that stands is of other settings, or its images are not those of the source.
    FacetError
        If there is one image only.
    """
    existing = find_setup(url)
    report, digest = ListingReport(), ListDigest()
    known = None
    with teller.wait("listing images"):
        rows = digest.through(spec.rows(report, teller))
        if existing is None:
            write_images(url, rows)
        else:
            of = url, existing.images
            known = KnownImages(*of, sample(*of, existing.shard_size))
            for _ in known.new(rows):
                pass
    if digest.rows < 2:
        raise FacetError(
            f"{spec.source} has one image only: units are correlated over images, give more"
        )
    setup = Setup(
        image_list_digest=digest.hexdigest(),
        images=digest.rows,
        shard_size=spec.shard_size,
        batch_size=spec.batch_size,
        generator=spec.generator,
        source=spec.source,
        versions=versions(),
        revision=revision(),
    )
    if existing is not None and known is not None:
        require_same(url, existing, setup)
        setup = existing
        if spec.generator is None:
            _follow(url, setup, known, spec.source, teller)
    for card in cards.values():
        keep_card(url, card)
    if existing is None:
        write_setup(url, setup)
    return setup, report


def _follow(url: str, setup: Setup, known: KnownImages, source: str, teller: Teller) -> None:
    """Refuse a source whose images are not those that were mined; note where they lie now."""
    with teller.wait("reading images again"):
        notes = settle(
            url, setup.images, setup.shard_size, known, source,
            place="`out`", must_read=False, mapper=each,
        )  # fmt: skip
    for note in notes:
        teller.say(note)


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


def seconds_here(
    models: Mapping[str, UnitModel], wanted: Iterable[Tile], images: int, device: str
) -> float:
    """How long one process of this machine would take for so many images."""
    cards = {slug: model.card for slug, model in models.items()}
    parameters = sum(p.numel() for m in models.values() for p in m.module.parameters())
    positions = max(h * w for card in cards.values() for h, w in card.sizes)
    products = sum(cards[a].units * cards[b].units for a, b in {(t.a, t.b) for t in wanted})
    flops = PRODUCTS_A_PARAMETER * parameters + 2 * positions * products
    return pace.of_images(images, flops, device)


def choose(
    setup: Setup,
    models: Mapping[str, UnitModel],
    wanted: Iterable[Tile],
    device: str,
    actors: int | None,
) -> tuple[Workers, int]:
    """Workers, and the bytes of sums that each may hold; refused where no machine can."""
    resources = machines.resources()
    likely = actors or (1 if machines.here() else max(1, int(resources["GPU"] or resources["CPU"])))
    cards = {slug: model.card for slug, model in models.items()}
    all_sums = plan.pass_bytes(wanted, cards)
    hold = min(plan.HOLD_BYTES, machines.memory() // (4 * likely), all_sums)
    need = run.need_bytes(models, Workers(device, 1, 1, setup.batch_size), hold)
    refuse_memory(need, "lower `batch_size`, or choose fewer layers")
    workers = choose_workers(
        resources,
        device,
        actors,
        setup.batch_size,
        shards=setup.shards,
        fit=lambda batch: machines.memory() // need,
    )
    return workers, hold
