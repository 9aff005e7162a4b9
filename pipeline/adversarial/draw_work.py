"""Drawing with a pipeline as work: one pipeline a GPU, a description at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from pipeline.cluster import machines
from pipeline.cluster.loop import over_shards
from pipeline.cluster.work import LIBRARIES, Needs, Report, Work
from pipeline.telling import Teller, several

from .drawing import Rows, Wanted, drawn

# What a picture takes a large pipeline, on a GPU and on CPUs: it only decides whether Ray is worth
# starting.
SECONDS = {"cuda": 3.0, "cpu": 60.0}


@dataclass(frozen=True)
class DrawWork(Work[Wanted, Rows]):
    """Pictures of descriptions.

    Attributes
    ----------
    model : str
        The pipeline's folder or name.
    device : {"cpu", "cuda"}
    place : str
        Where pictures are kept as they come.
    """

    model: str
    device: str
    place: str

    @property
    def needs(self) -> Needs:
        """A CPU, the GPU, and memory for the libraries and a folder's weights, which pass it."""
        files = [path for path in Path(self.model).rglob("*") if path.is_file()]
        weights = sum(path.stat().st_size for path in files)
        return Needs(1, float(self.device == "cuda"), LIBRARIES + weights)

    def start(self) -> _Artist:
        """Load the pipeline."""
        return _Artist(self)

    def ahead(self, item: Wanted) -> Sequence[tuple[Any, ...]]:
        """Nothing need be done before."""
        return ()

    def shard(self, item: Wanted) -> int:
        """Its description's number."""
        return item.description

    def images(self, item: Wanted) -> int:
        """Pictures of the description."""
        return len(item.seeds)


class _Artist:
    """A worker with its pipeline."""

    def __init__(self, work: DrawWork) -> None:
        from .drawers import PipelineDrawer

        self._draw, self._place = PipelineDrawer(work.model, work.device), work.place
        self._done, self._one = 0, Lock()

    def do(self, item: Wanted, batches: Iterable[Any]) -> Report[Rows]:
        with self._one:  # a pipeline draws one picture after the other
            rows = drawn(item, self._draw, self._place, self._count)
        return Report(item.description, len(rows), value=rows)

    def progress(self) -> int:
        return self._done

    def _count(self) -> None:
        self._done += 1


def draw_by_pipeline(model: str, todo: Sequence[Wanted], place: str, teller: Teller) -> list[Rows]:
    """Draw with a pipeline, on every GPU of the cluster; without one, on this machine's CPUs."""
    pictures = sum(len(asked.seeds) for asked in todo)
    own = "cuda" if machines.own_gpu() else "cpu"
    machines.settle(SECONDS[own] * pictures, several(pictures, "picture"), teller.say)
    gpus = int(machines.resources()["GPU"])
    folder = Path(model)
    model = str(folder.resolve()) if folder.is_dir() else model  # wherever a worker runs
    work = DrawWork(model, "cuda" if gpus else "cpu", place)
    with (
        teller.bar("pictures drawn", pictures, "pictures so far are kept") as move,
        over_shards(
            work, todo, max(1, gpus), in_order=True, report=move, say=teller.say
        ) as reports,
    ):
        return [report.value or [] for report in reports]
