"""An approximate index of a space, for sets that a scan takes too long over: faiss's lists.

Rows go into the list of the centre that they lie nearest to, and a search looks into a few lists
alone. They are kept whole, in float32 and as a scan compares them, so that scores are a scan's:
what may be lacking is images. What share of them is found is measured against the scan itself.

The lists are files, one for every span of images, that faiss maps into memory: they lie on a disk
of this machine.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from storage import head_index, urls
from storage.errors import FacetError
from storage.layout import APPROXIMATE, shards_per_run
from storage.records import config_digest, of_json
from storage.store import Store

from .chance import without_own
from .choices import Metric, Space, faiss_or_refuse
from .scan import Best, Nearest, Queries, Search, nearest

# Lists of so many images: this times the square root. What centres are found from: rows of each
# list, of which faiss wants 39 at the least, and numbers of all rows at the most.
LISTS, ROWS_OF_A_LIST, LEAST_OF_A_LIST, LOOKED_AT = 2, 64, 39, 1 << 26
# Lists that a search looks into, or more: those that hold so many times the images it wants.
PROBED, SPARE = 128, 4
# Bytes of rows that are held before they are written.
HELD = 512 << 20
# Images of the store that the recall is measured on, as many random directions, and their seed.
SAMPLE, SEED = 100, 0
FACTS, SPANS = "facet.json", "span-*.faiss"


@dataclass(frozen=True)
class Recall:
    """What share of the nearest images of a scan a search of the lists finds.

    Attributes
    ----------
    images : float
        Mean over queries that are images of the store.
    directions : float
        Mean over queries that are random directions: from images they lie further, as texts do.
    queries : int
        Of each kind.
    """

    images: float
    directions: float
    queries: int


@dataclass(frozen=True)
class Facts:
    """What an approximate index says of itself.

    Attributes
    ----------
    rows : str
        Digest of what the parts of the index said of themselves when it was made.
    images : int
        Rows that are in it.
    sizes : dict of str to int
        Bytes of its files, by name.
    recall : dict of str to Recall
        By the number of images that were wanted.
    """

    rows: str
    images: int
    sizes: dict[str, int]
    recall: dict[str, Recall]


@dataclass(frozen=True)
class Lists:
    """The approximate index of a space, by one metric, centred or not.

    Attributes
    ----------
    store : Store
        On this machine's disk, with an index of the space.
    space : Space
    metric : {"cosine", "dot"}
    centred : bool
    """

    store: Store
    space: Space
    metric: Metric
    centred: bool

    @property
    def place(self) -> Path:
        """Its folder."""
        named = {"parts": self.space.parts, "metric": self.metric, "centred": self.centred}
        return Path(urls.absolute(urls.join(self.store.url, APPROXIMATE, config_digest(named))))

    def bytes(self) -> int:
        """Of its rows and their numbers, about."""
        search = self._search(None, 1)
        return search.counts[0] * (4 * search.vectors_qw.shape[1] + 8)

    def facts(self) -> Facts | None:
        """What it says of itself; None where there is none of the rows that are there now."""
        (raw,) = urls.read_each([str(self.place / FACTS)])
        if raw is None:
            return None
        try:
            facts = of_json(Facts, json.loads(raw), str(self.place / FACTS))
            whole = all((self.place / n).stat().st_size == s for n, s in facts.sizes.items())
        except (ValueError, LookupError, TypeError, OSError):
            return None  # it is made anew
        return facts if whole and facts.rows == self._rows() else None

    def build(self, report: Callable[[int], None] = lambda images: None) -> None:
        """Make it, in two passes over the index, in place of what was there.

        Parameters
        ----------
        report : callable
            Called with the number of images looked at so far, of twice as many as the store has.
        """
        faiss = faiss_or_refuse()

        search, rows = self._search(None, 1), self._rows()
        count, width = search.counts[0], search.vectors_qw.shape[1]
        wanted = LISTS * int(count**0.5) * ROWS_OF_A_LIST
        wanted = max(1, min(wanted, LOOKED_AT // width))
        step = max(1, count // wanted)
        seen = [block[::step] for _, block in self._blocks(search, report)]
        looked = np.concatenate(seen) if seen else np.zeros((0, width), np.float32)
        lists = max(1, min(LISTS * int(count**0.5), len(looked) // LEAST_OF_A_LIST))
        quantizer = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFFlat(quantizer, width, lists, faiss.METRIC_INNER_PRODUCT)
        if len(looked):
            index.train(looked)
        del seen, looked
        self.place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".building-", dir=self.place.parent))
        try:
            spans: list[Path] = []
            images = 0

            def write_span() -> None:
                spans.append(made / SPANS.replace("*", f"{len(spans):03d}"))
                faiss.write_index(index, str(spans[-1]))
                index.reset()

            passed = self.store.meta.images
            for numbers, block in self._blocks(search, lambda done: report(passed + done)):
                index.add_with_ids(block, numbers)
                images += len(numbers)
                if index.ntotal * 4 * width > HELD:
                    write_span()
            if index.ntotal or not spans:
                write_span()
            _put(made, Facts(rows, images, {p.name: p.stat().st_size for p in spans}, {}))
            shutil.rmtree(self.place, ignore_errors=True)
            made.rename(self.place)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def nearest(self, queries: Queries, top: int) -> Nearest:
        """The images most like the queries, of those in the lists that are looked into.

        Parameters
        ----------
        queries : Queries
            As for a scan.
        top : int
        """
        faiss = faiss_or_refuse()
        search = self._search(queries, top)
        vectors = search.vectors_qw / _units(search)
        best = Best(len(vectors), top, 0)
        for span in sorted(self.place.glob(SPANS)):
            index = faiss.read_index(str(span), faiss.IO_FLAG_MMAP)
            needed = -(-SPARE * top * index.nlist // max(1, index.ntotal))
            index.nprobe = min(index.nlist, max(PROBED, needed))
            scores_qk, rows_qk = index.search(vectors, top)
            query, rank = np.nonzero(rows_qk >= 0)
            best.keep(query, rows_qk[query, rank], scores_qk[query, rank])
        return best.nearest()

    def recall(self, top: int, report: Callable[[int], None] = lambda images: None) -> Recall:
        """Measured against a scan, once for every number of images that is wanted.

        No image is found as its own query.

        Parameters
        ----------
        top : int
        report : callable
            As for a scan.
        """
        facts = self.facts()
        assert facts is not None  # it was built
        if str(top) in facts.recall:
            return facts.recall[str(top)]
        own, queries = self._sample()
        scanned = nearest(
            self.store, self.space, queries, metric=self.metric, top=top + 1,
            centred=self.centred, report=report,
        )  # fmt: skip
        right, found = (
            without_own(of, own, top).rows_qk for of in (scanned, self.nearest(queries, top + 1))
        )
        shares = np.array(
            [
                np.isin(wanted[wanted >= 0], got).mean() if (wanted >= 0).any() else 1.0
                for wanted, got in zip(right, found, strict=True)
            ]
        )
        are_texts = queries.are_texts_q
        recall = Recall(
            float(shares[~are_texts].mean()), float(shares[are_texts].mean()), len(shares) // 2
        )
        _put(self.place, replace(facts, recall=facts.recall | {str(top): recall}))
        return recall

    def _rows(self) -> str:
        """Rows are known by their number and sum, which the index keeps of each part."""
        facts = head_index.open_parts(self.store, self.space.parts)
        return config_digest({part: asdict(of) for part, of in facts.items()})

    def _search(self, queries: Queries | None, top: int) -> Search:
        if queries is None:
            facts = head_index.open_parts(self.store, self.space.parts).values()
            width = sum(len(of.offset) for of in facts)
            queries = Queries(np.zeros((0, width), np.float32), np.zeros(0, bool))
        return Search.of(self.store, self.space, queries, self.metric, top, self.centred)

    def _blocks(
        self, search: Search, report: Callable[[int], None]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Numbers of images and their rows, as they are compared, in the coordinates' own units."""
        arrays = {part: head_index.open_array(search.url, part) for part in search.parts}
        per_run = shards_per_run(self.store.meta) * self.store.meta.shard_size
        units = _units(search)
        for run in range(-(-self.store.meta.images // per_run)):
            rows, keep, start = search.read(self.store, arrays, run)
            block_nw = torch.empty(len(keep), len(units))
            search.compared(rows, block_nw)
            block = block_nw.numpy() * units
            keep &= np.isfinite(block[:, 0])
            yield np.flatnonzero(keep) + start, block[keep]
            report(start + len(keep))

    def _sample(self) -> tuple[list[int | None], Queries]:
        """Images drawn at random, by their rows in the coordinates, and as many directions."""
        facts = head_index.open_parts(self.store, self.space.parts)
        arrays = {part: head_index.open_array(self.store.url, part) for part in facts}
        counted = next(iter(facts.values())).counted()
        images, size = self.store.meta.images, self.store.meta.shard_size
        rng = np.random.default_rng(SEED)
        own: list[int] = []
        vectors = []
        for image in np.sort(rng.choice(images, min(images, SAMPLE), replace=False)).tolist():
            rows = [
                np.array(facts[part].offset)
                + facts[part].unit
                * head_index.read_rows(self.store.url, part, array, image, image + 1)[0]
                for part, array in arrays.items()
            ]
            if image // size in counted and np.isfinite(rows[0][0]):
                own.append(image)
                vectors.append(np.concatenate(rows))
        if not own:
            raise FacetError("none of the images that were drawn to measure recall by is there")
        directions = rng.standard_normal(np.shape(vectors))
        stacked = np.concatenate([vectors, directions]).astype(np.float32)
        return [*own, *[None] * len(own)], Queries(stacked, np.arange(len(stacked)) >= len(own))


def _units(search: Search) -> NDArray[np.float32]:
    """Of every number of a row."""
    units: list[Any] = [np.full(len(shift), unit) for unit, shift in search.parts.values()]
    return np.concatenate(units).astype(np.float32)


def _put(place: Path, facts: Facts) -> None:
    urls.put_bytes(str(place / FACTS), json.dumps(asdict(facts)).encode())
