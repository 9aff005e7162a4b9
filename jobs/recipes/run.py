"""The recipe of ``facet run``: a run file's stages, each a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import ray

from jobs.console import console, show_table
from jobs.settings import arguments
from pipeline.cluster import machines
from pipeline.run_file import RunFile, Stage
from pipeline.status import RUNS
from storage import urls
from storage.layout import RESULTS

LINES_KEPT = 12
# The event of a job that finds that it was done before: see `jobs.console.say_found`.
FOUND = "found"


@dataclass
class Outcome:
    """What became of a stage.

    ``status`` is done, skipped, failed or not run; ``result`` is where what it found is kept.
    """

    stage: str
    job: str
    status: str
    seconds: float = 0.0
    message: str = ""
    result: str = ""


def run(run: RunFile) -> None:
    """Run what is not finished, sum up."""
    started = time.monotonic()
    machines.connect()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that children end too
    outcomes = Runner(run).run()
    failed = [o for o in outcomes if o.status in ("failed", "not run")]
    summary = {
        "run": run.name,
        "store": run.store,
        "ok": not failed,
        "finished": datetime.now(UTC).isoformat(),
        "seconds": round(time.monotonic() - started, 1),
        "stages": [asdict(o) for o in outcomes],
    }
    place = urls.join(urls.absolute(run.store), RESULTS, RUNS, f"{run.name}.json")
    urls.put_bytes(place, json.dumps(summary, indent=2).encode())
    show_table(
        f"run {run.name}",
        {
            **{o.stage: f"{o.status}, {o.seconds:.0f} s" for o in outcomes},
            "summary": place,
        },
    )
    if failed:
        for outcome in failed:
            print(f"error: {outcome.stage}: {outcome.message}", file=sys.stderr)
        console.print("the same command again goes on with what is not finished")
        raise SystemExit(1)


class Runner:
    """Runs stages as their own processes on one Ray cluster.

    Parameters
    ----------
    run : RunFile
    """

    def __init__(self, run: RunFile) -> None:
        self.run_file, self.url = run, urls.absolute(run.store)
        self._children: list[subprocess.Popen[str]] = []
        self._printing = threading.Lock()
        address = ray.get_runtime_context().gcs_address
        self._environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONUNBUFFERED": "1"}

    def run(self) -> list[Outcome]:
        """Every stage's outcome, in the run file's order."""
        outcomes: dict[str, Outcome] = {}
        waiting = {stage.name: stage for stage in self.run_file.stages}
        under_way: dict[Future[Outcome], str] = {}
        with ThreadPoolExecutor(max_workers=len(waiting)) as pool:
            try:
                while waiting or under_way:
                    for stage in list(waiting.values()):
                        if all(name in outcomes for name in stage.after):
                            del waiting[stage.name]
                            before = {name: outcomes[name] for name in stage.after}
                            under_way[pool.submit(self._stage, stage, before)] = stage.name
                    ready, _ = wait(under_way, return_when=FIRST_COMPLETED)
                    for future in ready:
                        outcomes[under_way.pop(future)] = future.result()
            finally:
                for child in self._children:
                    child.terminate()
        return [outcomes[stage.name] for stage in self.run_file.stages]

    def _stage(self, stage: Stage, before: dict[str, Outcome]) -> Outcome:
        started = time.monotonic()
        missing = [n for n, o in before.items() if o.status in ("failed", "not run")]
        if missing:
            message = f"it needs {', '.join(missing)}"
            return Outcome(stage.name, stage.job, "not run", message=message)
        status, events, tail = self._process(stage)
        seconds = round(time.monotonic() - started, 1)
        if status:
            message = f"exit status {status}: " + "\n".join(tail)
            return Outcome(stage.name, stage.job, "failed", seconds, message)
        return Outcome(
            stage.name,
            stage.job,
            "skipped" if FOUND in events else "done",
            seconds,
            result=events.get("finished", {}).get("result", ""),
        )

    def _process(self, stage: Stage) -> tuple[int, dict[str, Any], list[str]]:
        """Run one stage; its lines go on, with the stage's name before them.

        Returns its exit status, the events of its log by name, and its last lines.
        """
        command = [sys.executable, "-m", "jobs.cli", stage.job, *arguments(stage.settings)]
        child = subprocess.Popen(
            command,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._children.append(child)
        tail: deque[str] = deque(maxlen=LINES_KEPT)
        events: dict[str, Any] = {}
        assert child.stdout is not None  # it is a pipe
        for line in child.stdout:
            tail.append(line.rstrip())
            if (entry := logged(line)) is not None:
                events[entry["event"]] = entry
            with self._printing:
                print(f"[{stage.name}] {line}", end="", flush=True)
        return child.wait(), events, list(tail)


def logged(line: str) -> dict[str, Any] | None:
    """A line of a job's log; None of what it says to people."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "event" in entry else None
