"""What has become of a store's images, told from the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.images.bad import BadImages, TooManyBadImages
from storage import ledger
from storage.store import Store


@dataclass
class Progress:
    """What has become of a store's images.

    Attributes
    ----------
    images : int
        Computed in this run.
    bad : BadImages
        Of all finished shards.
    sums, largest : dict of str to float
        Of ``residual`` and ``rounding``, over the images of all finished shards that are ok.
    """

    images: int = 0
    bad: BadImages = field(default_factory=BadImages)
    sums: dict[str, float] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)

    def count(self, facts: dict[str, dict[str, Any]]) -> None:
        """Take in what the ledger keeps of a finished shard."""
        self.bad.add(facts)
        for name in facts.keys() & {"residual", "rounding"}:
            self.sums[name] = self.sums.get(name, 0.0) + facts[name]["sum"]
            self.largest[name] = max(self.largest.get(name, 0.0), facts[name]["max"])


def so_far(store: Store, max_bad: float) -> Progress:
    """Of the shards that are finished.

    Raises
    ------
    TooManyBadImages
        If more than this fraction of the store's images is bad.
    """
    progress = Progress()
    for facts in ledger.read_facts(store.url, sorted(store.done_shards())):
        progress.count(facts)
    check_bad(store, progress, max_bad)
    return progress


def check_bad(store: Store, progress: Progress, max_bad: float) -> None:
    """Refuse more bad images than this fraction of the store's."""
    bad, images = progress.bad.total(), store.meta.images
    if bad <= max_bad * images:
        return
    raise TooManyBadImages(
        f"{bad} of {images} images are bad, more than `max_bad` {max_bad:g} allows:\n"
        f"{progress.bad.lines()}\nThe shards done are kept and the ledger names every image. Mend "
        "the images and use a new `store`, or run again with a larger `max_bad`."
    )
