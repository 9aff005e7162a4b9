"""What is to be summed by whom: pure arithmetic over tiles, shards and bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.cluster.work import LIBRARIES
from storage.rosetta import HALVES, Card, Setup, Span, Tile, outermost, pair_of, tiles

# Most that the growing sums of one actor may take.
HOLD_BYTES = 3 << 28
# Copies of a batch's maps alive at once: as captured, and brought to other sizes.
MAP_COPIES = 3


@dataclass(frozen=True)
class Item:
    """One actor's work: a shard's images through the models, into the sums of some tiles."""

    shard: int
    tiles: tuple[Tile, ...]

    @property
    def models(self) -> set[str]:
        return {slug for tile in self.tiles for slug in (tile.a, tile.b)}


def wanted_tiles(cards: Iterable[Card], hub: Card) -> list[Tile]:
    """Tiles of every pair of different models, and of the hub with itself."""
    cards = list(cards)
    pairs = [pair_of(one, other) for i, one in enumerate(cards) for other in cards[:i]]
    return [tile for pair in sorted([*pairs, (hub, hub)], key=slugs) for tile in tiles(*pair)]


def slugs(pair: tuple[Card, Card]) -> tuple[str, str]:
    return pair[0].slug, pair[1].slug


def covered(spans: Iterable[Span]) -> set[int]:
    """Shards in any of the spans."""
    return {shard for first, last in outermost(spans) for shard in range(first, last + 1)}


def tile_bytes(tile: Tile, cards: Mapping[str, Card]) -> int:
    """Bytes of a tile's co-moments, both halves."""
    return 8 * len(HALVES) * (tile.stop - tile.start) * cards[tile.b].units


def items(
    done: Mapping[Tile, set[int]], setup: Setup, cards: Mapping[str, Card], hold: int
) -> list[Item]:
    """Work that is left, shard by shard; no item's sums pass ``hold`` bytes (one tile may).

    Parameters
    ----------
    done : dict of Tile to set of int
        Shards that are summed, of every tile that is wanted.
    """
    missing: dict[int, list[Tile]] = defaultdict(list)
    for tile, shards in done.items():
        for shard in range(setup.shards):
            if shard not in shards:
                missing[shard].append(tile)
    found = []
    for shard in sorted(missing):
        group: list[Tile] = []
        size = 0
        for tile in missing[shard]:
            more = tile_bytes(tile, cards)
            if group and size + more > hold:
                found.append(Item(shard, tuple(group)))
                group, size = [], 0
            group.append(tile)
            size += more
        found.append(Item(shard, tuple(group)))
    return found


def map_bytes(cards: Iterable[Card]) -> int:
    """Bytes of one image's maps, float32."""
    return sum(4 * x.units * x.height * x.width for card in cards for x in card.layers)


def actor_bytes(cards: Iterable[Card], batch_size: int, parameters: int, hold: int) -> int:
    """Bytes that one actor will need: its process, the models, a batch's maps and the sums."""
    maps = MAP_COPIES * batch_size * map_bytes(cards)
    return LIBRARIES + 4 * parameters + maps + hold


def pass_bytes(done: Iterable[Tile], cards: Mapping[str, Card]) -> int:
    """Bytes of all sums of one shard."""
    return sum(tile_bytes(tile, cards) for tile in done)
