"""What holding methods to masks will need and take: workers, bytes, seconds."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.cluster import machines, pace
from pipeline.cluster.room import refuse_memory
from pipeline.cluster.work import LIBRARIES, Workers, choose_workers
from pipeline.extraction.cost import forward_flops
from pipeline.models import VisionModel
from pipeline.telling import several
from storage.metadata import Metadata

from .bench import Bench
from .gradients import GRADIENT_METHODS
from .memory import gradient_bytes, relevance_bytes
from .plain import PLAIN
from .relevance import RELEVANCE
from .scores import BINS
from .tables import COUNTS, CURVES

# Of a picture's map as wide as the picture, float32: relevance, its bits, sorted, their order.
_COPIES = 24
# A picture's numbers of one row and protocol, as they are gathered and as they are written.
PICTURE_BYTES = 3_000
# What a batch takes at the most where its size is ours to choose.
BATCH_BYTES = 4 << 30


def worker_bytes(meta: Metadata, model: VisionModel, bench: Bench, batch_size: int) -> int:
    """Peak memory of one worker."""
    itemsize = 4 if meta.precision == "fp32" else 2
    parameters = sum(p.numel() for p in model.module.parameters())
    fixed = LIBRARIES + parameters * (4 + itemsize) + 4 * bench.texts_ce.size
    fixed += sum(rows.nbytes for rows in bench.directions.values())
    fixed += 4 * meta.embed * meta.layers * meta.width  # maps of heads
    pictures = min(meta.shard_size, meta.images) * len(bench.rows) * len(bench.protocols)
    fixed += pictures * PICTURE_BYTES
    return fixed + batch_bytes(meta, model, bench, batch_size)


def batch_bytes(meta: Metadata, model: VisionModel, bench: Bench, batch_size: int) -> int:
    """What a batch takes while its maps are made, one maker after the other, and are scored."""
    itemsize = 4 if meta.precision == "fp32" else 2
    # As extraction has it: a block's stream, what it makes of it, and its hidden layer.
    needs = [batch_size * meta.tokens * meta.width * 16 * itemsize]
    if "rollout" in bench.methods:
        needs[0] += batch_size * meta.tokens**2 * 4 * (2 * meta.heads + 3)
    if graded := bench.of(GRADIENT_METHODS):
        needs.append(gradient_bytes(meta, batch_size, graded, itemsize))
    if relevant := bench.of(RELEVANCE):
        needs.append(relevance_bytes(meta, batch_size, relevant))
    height, width = model.preprocess.size
    scored = batch_size * height * width * _COPIES
    maps = batch_size * meta.tokens * 4 * len(bench.rows)
    return max(needs) + maps + scored


def written_bytes(bench: Bench, images: int) -> int:
    """Numbers of pictures before compression, their words aside: counts, means, two curves."""
    row = 8 * (1 + len(COUNTS) + 3) + 4 * BINS * len(CURVES)
    return images * len(bench.rows) * len(bench.protocols) * row


def choose(
    meta: Metadata,
    model: VisionModel,
    bench: Bench,
    device: str,
    actors: int | None,
    batch_size: int | None,
) -> tuple[Workers, int]:
    """Workers that fit the cluster, and the bytes that one needs; see ``choose_workers``.

    A batch size that is ours to choose is halved until its batches fit the machine.

    Raises
    ------
    FacetError
        If a worker fits no machine.
    """

    def workers(batch_size: int | None) -> Workers:
        return choose_workers(
            machines.resources(), device, actors, batch_size, shards=meta.shards,
            fit=lambda batch: machines.memory() // worker_bytes(meta, model, bench, batch),
        )  # fmt: skip

    found = workers(batch_size)
    while batch_size is None and found.batch_size > 1 and not _fits(meta, model, bench, found):
        found = workers(found.batch_size // 2)
    need = worker_bytes(meta, model, bench, found.batch_size)
    refuse_memory(need, "lower `batch_size`, or take fewer `methods`")
    return found, need


def _fits(meta: Metadata, model: VisionModel, bench: Bench, workers: Workers) -> bool:
    given = (meta, model, bench)
    # Relevance has a tower of its own, whatever the batch.
    taken = batch_bytes(*given, workers.batch_size) - batch_bytes(*given, 0)
    need = worker_bytes(*given, workers.batch_size)
    return taken <= BATCH_BYTES and need <= machines.node_memory()


def settle(
    meta: Metadata, model: VisionModel, bench: Bench, images: int, shards: int, device: str,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Settle where so many images are worked on, from what the methods cost."""
    (height, width), (rows, columns) = model.preprocess.size, meta.grid
    flops = forward_flops(meta, 3 * (height // rows) * (width // columns)) * passes(bench)
    seconds = pace.of_images(images, flops, device)
    machines.settle(seconds, f"{several(images, 'image')} in {several(shards, 'shard')}", say)


def passes(bench: Bench) -> int:
    """What the methods cost, in forward passes of the model."""
    graded = 3 * bool(bench.of(GRADIENT_METHODS)) + 7 * bool(bench.of(RELEVANCE))
    erased = bench.steps * len(bench.rows)  # two curves, of half the tokens on average
    return max(1, bool(bench.of(PLAIN)) + graded + erased)
