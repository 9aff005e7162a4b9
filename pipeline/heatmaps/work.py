"""Pictures of a store held to their masks: what a worker does, shard by shard.

A shard's figures are written whole and by the shard's number, so doing it again is safe.
"""

from __future__ import annotations

import math
import platform
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cluster.loop import over_shards
from pipeline.cluster.work import WORKER_CPUS, Needs, Report, Work, Workers
from pipeline.extraction.feed import Link
from pipeline.extraction.finite import finite_rows, refuse_pass
from pipeline.extraction.unchanged import refuse_changed
from pipeline.images.bad import BadImages
from pipeline.images.masks import MaskSource
from pipeline.models import VisionModel
from pipeline.models.arithmetic import TF32, placed, settle
from pipeline.telling import SILENT, Teller, several
from pipeline.texts.classes import Classes
from storage import ledger, urls
from storage.errors import FacetError
from storage.layout import CONTRIBUTIONS
from storage.metadata import Metadata
from storage.tables import StoreTables

from .asked import Asked
from .bench import Bench, makers
from .choices import METHODS, method_of
from .erasure import Erasure
from .parts import picture_rows, write_part
from .pictures import Kept, Masked, chosen_images, load_masked, masked_calls
from .scores import relevance, score
from .shards import done_shards, note_done, pictures_url
from .sheet import Sheet
from .summary import cases


class Segmenter:
    """Owns a model and what makes maps; turns shards of decoded pictures into numbers.

    Parameters
    ----------
    work : Segmentation
    """

    def __init__(self, work: Segmentation) -> None:
        settle(work.workers.threads, TF32)
        self.work, self.bench, self._seen = work, work.bench, 0
        self.model = placed(work.model, work.workers.device, work.meta.precision)
        self._link = Link(self.model.device)
        self._makers = makers(self.model, self.bench)
        self._erasure = Erasure(self.model, self.bench.steps) if self.bench.steps else None
        self._texts_ce = torch.from_numpy(self.bench.texts_ce).to(**self.model.wide)
        # One at a time: a second shard is only here so that its pictures are decoded meanwhile.
        self._computing = threading.Lock()

    def progress(self) -> int:
        """Images computed since it was made."""
        return self._seen

    def do(self, shard: int, batches: Iterable[Masked]) -> Report[None]:
        """Hold one shard's pictures to their masks and write what they came to."""
        # Pictures are on their way before it is their turn.
        with self._link.placed(batches) as fed, self._computing:
            started = time.monotonic()
            start, _ = self.work.meta.rows(shard)
            known = ledger.read_part(self.work.data, shard)
            found, left_out = [], BadImages()
            for batch, pixels_bhwc in fed:
                was = known.take(batch.images - start)
                refuse_changed(was, batch.read, batch.keys, "the store was made")
                faults = zip(was["error"].to_pylist(), batch.masks.error, strict=True)
                reasons = [of_picture or of_mask for of_picture, of_mask in faults]
                left_out.add(BadImages.of(batch.keys, reasons).facts())
                keep = np.array([reason is None for reason in reasons])
                if keep.any():
                    found += self._numbers(batch.kept(keep, pixels_bhwc))
                self._seen += len(batch.keys)
        computed = time.monotonic()
        if found:
            write_part(pictures_url(self.work.place, shard), found)
        facts = {**left_out.facts(), "pictures": bool(found)}
        note_done(self.work.place, shard, facts)
        return Report(
            shard,
            self.work.images(shard),
            facts,
            compute_seconds=computed - started,
            write_seconds=time.monotonic() - computed,
            node=platform.node(),
        )

    def _numbers(self, pictures: Kept) -> list[pa.Table]:
        """A table a row of the table of methods and protocol."""
        images_bchw, asked = self._asked(pictures)
        maps = self._maps(images_bchw, asked)
        erased = self._erasure(images_bchw, asked, maps) if self._erasure else {}
        named = [self.bench.classes[of] for of in asked.classes_b.tolist()]
        tables = []
        for protocol, masks in pictures.masks.items():
            masks_bhw = torch.from_numpy(masks).to(self.model.device)
            for row, maps_bhw in maps.items():
                facts = METHODS[method_of(row)]
                shown_bhw = relevance(maps_bhw, self.model.preprocess.size, facts.clipped)
                scores = score(shown_bhw, masks_bhw, facts.threshold)
                areas = [area_b.cpu().numpy() for area_b in erased.get(row, ())]
                tables.append(
                    picture_rows(
                        pictures.images, pictures.keys, named, row, protocol, scores, *areas
                    )
                )
        return tables

    def look(self, masked: Masked) -> tuple[Kept, list[str], NDArray[np.float32]]:
        """Pictures, their classes and their maps, (picture, method, row, column)."""
        with self._link.placed([masked]) as fed:
            [(masked, pixels_bhwc)] = fed
        pictures = masked.kept(np.ones(len(masked.keys), bool), pixels_bhwc)
        images_bchw, asked = self._asked(pictures)
        maps = torch.stack(list(self._maps(images_bchw, asked).values()), 1)
        classes = [self.bench.classes[of] for of in asked.classes_b.tolist()]
        return pictures, classes, maps.float().cpu().numpy()

    def _asked(self, pictures: Kept) -> tuple[Tensor, Asked]:
        """Pictures as the model takes them, and of which classes their maps are."""
        if self.work.labels is not None:
            classes = self.work.labels.truth(pictures.labels)
        else:
            group: Any = urls.open_group(urls.join(self.work.data, CONTRIBUTIONS), mode="r")
            first, last = int(pictures.images[0]), int(pictures.images[-1])
            embedding_be = np.asarray(group["embedding"][first : last + 1])
            classes = (embedding_be[pictures.images - first] @ self.bench.texts_ce.T).argmax(1)
        device = self.model.device
        return self.model.preprocess.to_tensor(pictures.pixels), Asked(
            torch.from_numpy(classes).to(device),
            self._texts_ce,
            torch.from_numpy(pictures.images),
        )

    def _maps(self, images_bchw: Tensor, asked: Asked) -> dict[str, Tensor]:
        """Maps of every row of the table of methods, (batch, rows, columns) each.

        Raises
        ------
        NotFinite
            If a map is not.
        """
        found: dict[str, Tensor] = {}
        for maker in self._makers:
            found |= maker(images_bchw, asked)
        for row, maps_bhw in found.items():
            finite_b = finite_rows(maps_bhw)
            refuse_pass(self.model, f"the maps of {row}", images_bchw, asked.images_b, finite_b)
        return {row: found[row] for row in self.bench.rows}


@dataclass(frozen=True, eq=False)
class Segmentation(Work[int, None]):
    """Shards of a store whose pictures are held to their masks.

    Attributes
    ----------
    url, data : str
        Of the store, and of its images.
    meta : Metadata
    place : str
        Where the result will be.
    model : VisionModel
        On the CPU, float32.
    bench : Bench
    source : MaskSource
    where : str or None
        Which pictures.
    label_column : str
        Of the image table.
    labels : Classes or None
        What labels mean, where they say whose map is made; else it is the predicted class's.
    counts : dict of int to int
        Pictures that are chosen, by shard, where there are any.
    workers : Workers
    memory : int
        Bytes that a worker needs.
    """

    url: str
    data: str
    meta: Metadata
    place: str
    model: VisionModel
    bench: Bench
    source: MaskSource
    where: str | None
    label_column: str
    labels: Classes | None
    counts: Mapping[int, int]
    workers: Workers
    memory: int

    @property
    def needs(self) -> Needs:
        """A GPU of its own if it uses one, and its projected memory."""
        return Needs(WORKER_CPUS, int(self.workers.device == "cuda"), self.memory)

    def start(self) -> Segmenter:
        """The model, in place."""
        return Segmenter(self)

    def ahead(self, shard: int) -> Sequence[tuple[Any, ...]]:
        """The shard's pictures and their masks, decoded."""
        images = chosen_images(StoreTables(self.url, self.data, self.meta), shard, self.where)
        resize = self.model.preprocess.resize
        return masked_calls(
            self.data, images, self.workers.batch_size,
            self.source, resize, self.bench.protocols, self.label_column,
        )  # fmt: skip

    def shard(self, shard: int) -> int:
        """Itself."""
        return shard

    def images(self, shard: int) -> int:
        """How many of it are chosen."""
        return self.counts[shard]

    def decoded_bytes(self, shard: int) -> int:
        """Of its pictures."""
        return self.images(shard) * 3 * math.prod(self.model.preprocess.size)

    def recover(self, shard: int) -> Report[None] | None:
        """From what was noted of it."""
        facts = done_shards(self.place, [shard]).get(shard)
        return None if facts is None else Report(shard, self.images(shard), facts)


def count(store: StoreTables, where: str | None) -> dict[int, int]:
    """Pictures of the finished shards that a condition picks, where there are any.

    Raises
    ------
    FacetError
        If there are none at all.
    """
    done = sorted(store.done_shards())
    found = {shard: len(chosen_images(store, shard, where)) for shard in done}
    if not any(found.values()):
        raise FacetError(
            f"`where` {where!r} matches no image of the {several(len(done), 'finished shard')} of "
            f"{store.url}: finish the others, or choose other images"
        )
    return {shard: number for shard, number in found.items() if number}


def run(work: Segmentation, teller: Teller = SILENT) -> tuple[list[str], BadImages]:
    """Numbers of every chosen picture; those that a stopped run left are not made again.

    Returns
    -------
    parts : list of str
        Files of the pictures' numbers, shards in their order: see ``parts.py``.
    left_out : BadImages
        Pictures that are in none, by reason.

    Raises
    ------
    FacetError
        If no picture has a mask; as ``over_shards`` does.
    """
    shards = list(work.counts)
    done = done_shards(work.place, shards)
    if done:
        teller.say(f"{len(done):,} of {several(len(shards), 'shard')} were done before")
    pending = [shard for shard in shards if shard not in done]
    total = sum(map(work.images, pending))
    with (
        teller.bar("pictures", total, "figures of finished shards are kept") as move,
        over_shards(work, pending, work.workers.actors, report=move, say=teller.say) as finished,
    ):
        done |= {report.shard: report.facts for report in finished}
    left_out = BadImages()
    for shard in shards:
        left_out.add(done[shard])
    parts = [pictures_url(work.place, shard) for shard in shards if done[shard]["pictures"]]
    if not parts:
        raise FacetError(
            f"none of {several(left_out.total(), 'picture')} could be held to a mask:\n"
            f"{left_out.lines()}"
        )
    return parts, left_out


def look_at(work: Segmentation, parts: Sequence[str]) -> Sheet | None:
    """The worst, the middle and the best pictures of the first row, whose maps are made again; None
    where no mask has any foreground.

    Parameters
    ----------
    work : Segmentation
    parts : sequence of str
        See ``run``.
    """
    bench, resize = work.bench, work.model.preprocess.resize
    protocol = bench.protocols[0]
    chosen = cases(parts, bench.rows[0], protocol)
    if not chosen:
        return None
    shared = (work.source, resize, (protocol,), work.label_column)
    # Here, on its CPU, and one after the other: they are a dozen, and far apart.
    segmenter = Segmenter(replace(work, workers=replace(work.workers, device="cpu")))
    found = (load_masked(work.data, np.array([case.image]), *shared) for case in chosen)
    pictures, classes, maps = zip(*map(segmenter.look, found), strict=True)
    return Sheet(
        protocol,
        bench.rows,
        chosen,
        [key for picture in pictures for key in picture.keys],
        [name for names in classes for name in names],
        torch.cat([picture.pixels for picture in pictures]).numpy(),
        np.concatenate([picture.masks[protocol] for picture in pictures]),
        np.concatenate(maps),
    )
