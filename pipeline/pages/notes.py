"""What warns of taking a finding for more than it is."""

from __future__ import annotations

import pandas as pd

from pipeline.status import ExtractionStatus
from storage.metadata import Metadata

from . import sentences

# Bad images are many from here on.
MANY_BAD = 0.01
# Texts say little of a head that they explain less than so many times what chance explains of.
LITTLE = 2


def random_weights(meta: Metadata) -> list[str]:
    """A model that was never trained."""
    if not meta.weights.startswith("none:"):
        return []
    return [
        "The weights of this model are random: it was never trained. The parts sum exactly all the "
        "same, but what texts, ablations and neurons seem to say of it means nothing."
    ]


def unfinished(found: ExtractionStatus) -> list[str]:
    """Images that are not in, or not in yet."""
    said = []
    if found.shards_done < found.shards:
        said.append(
            f"{found.shards - found.shards_done:,} of {found.shards:,} shards are not finished: "
            "their images count nowhere."
        )
    done = found.images_ok + found.images_bad
    if found.images_bad > MANY_BAD * done:
        kinds = "; ".join(f"{n:,} × {kind}" for kind, n in list(found.bad.items())[:3])
        said.append(
            f"{found.images_bad:,} of {done:,} images ({found.images_bad / done:.1%}) are bad and "
            f"count nowhere, so that what is found may not hold for all of them: {kinds}."
        )
    return said


def older(is_older: bool) -> list[str]:
    """A result over other images."""
    if not is_older:
        return []
    return [
        "This was found over other images than those that are finished in the store now; the "
        "command below, typed again, counts them in."
    ]


def little(shares: pd.Series, head_dim: int) -> list[str]:
    """Heads that the pool does not describe; ``shares`` are what the first texts explain."""
    chance = sentences.by_chance(head_dim)
    few = int((shares < LITTLE * chance).sum())
    if not few:
        return []
    return [
        f"The first {sentences.TOP} texts of {few:,} of {len(shares):,} heads explain less than "
        f"{LITTLE * chance:.0%} of what they write, twice what as many random directions do: this "
        "pool does not say what they are about."
    ]


def at_chance(baseline: pd.Series, classes: int) -> bool:
    """Whether the model does no better than guessing, as far as so many images tell."""
    return bool(baseline["low"] <= 1 / classes)


def chance(baseline: pd.Series, classes: int) -> list[str]:
    """A model that does no better than guessing."""
    if not at_chance(baseline, classes):
        return []
    return [
        f"The model is at chance: the interval from {baseline['low']:.1%} to "
        f"{baseline['high']:.1%} does not lie above the {1 / classes:.1%} of guessing among "
        f"{classes} classes. These ablations say nothing: there is no accuracy to lose."
    ]
