"""One shard from pictures, or seeds, to the sums of its tiles."""

from __future__ import annotations

import hashlib
import platform
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import numpy as np
import pyarrow as pa
import torch

from pipeline.cluster.work import Report
from pipeline.extraction.feed import Link
from pipeline.extraction.unchanged import refuse_changed
from pipeline.images.bad import BadImages
from pipeline.models.arithmetic import NO_TF32, settle
from storage import ledger
from storage.errors import NotFinite
from storage.rosetta import HALVES, Card, Tile, write_sums

from .models import UnitModel, latents, pictures
from .pictures import ROWS, ReadImages, ResizedImages, resized
from .plan import Item
from .sums import HalfMaps, Layout, PairSums


class Miner:
    """Owns the models; turns shards of pictures into sums.

    Parameters
    ----------
    url : str
    models : dict of str to UnitModel
        By slug, on the CPU.
    device : str
    threads : int
        Torch's threads on the CPU.
    """

    def __init__(self, url: str, models: Mapping[str, UnitModel], device: str, threads: int):
        settle(threads, NO_TF32)
        self.url, self.device = url, torch.device(device)
        self.models = {slug: model.to(self.device) for slug, model in models.items()}
        placed = self.models.values()
        self._generator = next((m for m in placed if m.card.latent is not None), None)
        self._link = Link(self.device)
        self._seen = 0
        # One at a time: a second shard is only here so that its pictures are decoded meanwhile.
        self._computing = threading.Lock()

    def progress(self) -> int:
        """Images that have gone through the models since this miner was made."""
        return self._seen

    def do(
        self, item: Item, batches: Iterable[ReadImages] | Iterable[range]
    ) -> Report[tuple[Tile, ...]]:
        """Sum one shard's images for some tiles, write the sums and declare them finished.

        Parameters
        ----------
        batches : iterable of ReadImages or range
            Where a generator is among the models, seeds of the images that it makes.
        """
        with self._fed(batches) as fed, self._computing:
            return self._do(item, fed)

    @contextmanager
    def _fed(
        self, batches: Iterable[ReadImages] | Iterable[range]
    ) -> Iterator[Iterable[ResizedImages | range]]:
        """Pictures that were read are on their way to the device before it is their turn."""
        if self._generator is not None:
            yield cast(Iterable[range], batches)
            return
        with self._link.placed(cast(Iterable[ReadImages], batches)) as fed:
            yield (batch.resized(pixels) for batch, pixels in fed)

    def _do(self, item: Item, batches: Iterable[ResizedImages | range]) -> Report[tuple[Tile, ...]]:
        started = time.monotonic()
        cards = {slug: model.card for slug, model in self.models.items()}
        sums = {
            tile: PairSums(Layout(cards[tile.a], cards[tile.b], tile), self.device)
            for tile in item.tiles
        }
        rows, known = [], None
        if item.shard in ledger.done_shards(self.url):
            known = ledger.read_part(self.url, item.shard)
        with torch.inference_mode():
            for batch in batches:
                if isinstance(batch, ResizedImages) and known is not None:
                    batch = self._held(batch, known)
                rows.append(self._add(batch, item, sums))
        table = pa.concat_tables(rows)
        facts = BadImages.of(table["key"].to_pylist(), table["error"].to_pylist()).facts()
        computed = time.monotonic()
        # What became of the images is written first: sums that are there are never made again.
        ledger.write_part(self.url, item.shard, table.drop_columns("key"), facts)
        written = 0
        for tile in item.tiles:  # each gives its memory back before the next is written
            written += self._write(tile, item.shard, sums.pop(tile))
        return Report(
            item.shard,
            len(table),
            facts,
            bytes=written,
            compute_seconds=computed - started,
            write_seconds=time.monotonic() - computed,
            node=platform.node(),
            value=item.tiles,
        )

    def _write(self, tile: Tile, shard: int, sums: PairSums) -> int:
        """A tile's sums, into the store; how many bytes they are."""
        arrays = sums.sums().arrays()
        write_sums(self.url, tile, (shard, shard), arrays)
        return sum(values.nbytes for values in arrays.values())

    def _held(self, batch: ResizedImages, known: pa.Table) -> ResizedImages:
        """The batch with the ledger's rows: models that are added see what the first ones saw."""
        rows = known.slice(batch.start - known["index"][0].as_py(), len(batch.rows))
        keys = batch.rows["key"]
        refuse_changed(rows, batch.rows, keys.to_pylist(), "the first models saw it")
        return replace(batch, rows=rows.append_column("key", keys))

    def _add(self, batch: ResizedImages | range, item: Item, sums: dict) -> pa.Table:
        made: dict[str, list[torch.Tensor]] = {}
        if isinstance(batch, range):
            batch, made = self._generate(batch, item.models)
        index = np.asarray(batch.rows["index"])
        ok = np.asarray(batch.rows["ok"])
        # Even images first, so that each half is one run of the maps.
        order = [np.flatnonzero(ok & (index % len(HALVES) == h)) for h in range(len(HALVES))]
        chosen = torch.from_numpy(np.concatenate(order))
        if len(chosen):
            maps = {}
            for slug in sorted(item.models):
                if slug in made:
                    maps[slug] = [m[chosen.to(m.device)] for m in made.pop(slug)]
                else:
                    maps[slug] = self._maps(self.models[slug], batch, chosen)
            first = 0
            for half, members in enumerate(order):
                if len(members):
                    part = {
                        slug: HalfMaps([m[first : first + len(members)] for m in all_maps])
                        for slug, all_maps in maps.items()
                    }
                    for tile, grown in sums.items():
                        grown.add(half, part[tile.a], part[tile.b])
                first += len(members)
        self._seen += len(index)
        return batch.rows

    def _maps(
        self, model: UnitModel, batch: ResizedImages, chosen: torch.Tensor
    ) -> list[torch.Tensor]:
        assert model.preprocess is not None  # a generator's maps were made with its pictures
        pixels = torch.as_tensor(batch.pixels[model.preprocess.resize])
        pixels = pixels[chosen.to(pixels.device)].to(self.device)
        _, maps = model.maps(model.preprocess.to_tensor(pixels))
        refuse_not_finite(model.card, maps)
        return maps

    def _generate(
        self, seeds: range, slugs: set[str]
    ) -> tuple[ResizedImages, dict[str, list[torch.Tensor]]]:
        """The generator's pictures of some seeds, and its maps from the same pass."""
        generator = self._generator
        assert generator is not None  # else there are no seeds
        assert generator.card.latent is not None
        output, maps = generator.maps(latents(seeds, generator.card.latent).to(self.device))
        refuse_not_finite(generator.card, maps, output)
        others = (self.models[slug].preprocess for slug in slugs)
        pixels = pictures(output)
        n, height, width = pixels.shape[:3]
        rows = pa.table(
            {
                "index": list(seeds),
                "ok": [True] * n,
                "error": [None] * n,
                "sha256": [hashlib.sha256(p.tobytes()).hexdigest() for p in pixels],
                "width": [width] * n,
                "height": [height] * n,
                "key": [str(seed) for seed in seeds],
            },
            schema=ROWS,
        )
        sizes = {p.resize for p in others if p is not None}
        return ResizedImages(seeds.start, resized(pixels, sizes), rows), {generator.card.slug: maps}


def refuse_not_finite(
    card: Card, maps: list[torch.Tensor], pictures: torch.Tensor | None = None
) -> None:
    """NaN or infinity in a map would spoil every sum of its unit; in pictures, what others see."""
    named = {f"layer {layer.name}": m for layer, m in zip(card.layers, maps, strict=True)}
    named |= {} if pictures is None else {"the picture": pictures}
    for name, values in named.items():
        if not torch.isfinite(values.sum()):
            raise NotFinite(
                f"model {card.name}: {name} is the first of those read that holds NaN or infinite "
                "numbers: its weights are finite and their numbers are not; it cannot be run in "
                "float32. Give other weights"
            )
