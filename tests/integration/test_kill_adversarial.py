"""Kill -9 of a chain of adversarial images, between its stages and inside each of them.

What was kept is not made again, and the same command ends in the result of a run that nobody
disturbed.
"""

import multiprocessing
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest

from jobs import adversarial, omp
from jobs.adversarial import AdversarialConfig
from pipeline.adversarial import indirect
from pipeline.adversarial.answers import STAGES
from pipeline.language.choices import BASE_URL
from pipeline.language.servers import AT_ONCE
from pipeline.microworld.world import COLOURS
from storage import urls
from storage.results import Result, finished_results
from tests.jobs.neuron_store import KEPT, neuron_store
from tests.pipeline.language.chat_kit import content, served

# After which write a run is killed: what was written, and for which time.
KILLS = [
    ("indirect/.*/parts/", 2),
    ("indirect/.*/provenance.json", 1),
    ("adversarial_cues/.*/cues.parquet", 1),
    ("adversarial_cues/.*/provenance.json", 1),
    ("adversarial_descriptions/.*/answers/", 2),
    ("adversarial_descriptions/.*/provenance.json", 1),
    ("adversarial_pictures/.*/pictures/", 7),
    ("adversarial_pictures/.*/drawn/", 3),
    ("adversarial_pictures/.*/provenance.json", 1),
    ("adversarial/.*/margins/", 1),
    ("adversarial/.*/judged.parquet", 1),
]
# What is written once, and kept until a stage is done, or for good.
ONCE = re.compile("/(parts|pictures|margins)/")


def answer(body: dict) -> tuple[int, str]:
    """Descriptions that the question's seed decides; two of eight cannot be used."""
    rng = np.random.default_rng(body["seed"])
    colours = rng.choice(COLOURS, 6, replace=False)
    settings = rng.choice(["on snow", "at night", "on grass"], 6)
    lines = [f"a {c} star {s}" for c, s in zip(colours, settings, strict=True)]
    return content("\n".join(f"- {line}" for line in [*lines, "a heart", "a thing"]))


def run(config: AdversarialConfig, log: Path, pattern: str = "", times: int = 0) -> None:
    """Run the job and note what it writes; after that many writes of a pattern it is killed."""
    put = urls.put_bytes

    def put_and_die(url: str, data: bytes) -> None:
        nonlocal times
        put(url, data)
        with log.open("a") as file:
            file.write(f"{url.removeprefix(config.store)}\n")
        times -= bool(pattern and re.search(pattern, url))
        if pattern and times == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(urls, "put_bytes", put_and_die)
        patch.setattr(indirect, "BLOCK", 8)
        adversarial.main(config)


def stages(url: str) -> dict[str, Result]:
    """The one result of every stage."""
    found = {}
    for job in (indirect.JOB, *STAGES.values(), "adversarial"):
        (found[job],) = finished_results(url, job)
    return found


def written(log: Path) -> Counter[str]:
    """How often what is written once was written."""
    return Counter(line for line in log.read_text().splitlines() if ONCE.search(line))


@contextmanager
def forks_with_libraries() -> Iterator[ForkServerContext]:
    """Makes forks of a process that has the libraries, and no threads.

    There is one such server in a process, and other tests want one without libraries: it ends.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jobs.recipes.adversarial", "open_clip", __name__])
    forkserver._forkserver._stop()
    try:
        yield context
    finally:
        forkserver._forkserver._stop()


def test_a_killed_chain_ends_in_the_same_result(tmp_path, monkeypatch):
    store = neuron_store(tmp_path)
    omp.main(omp.OmpConfig(store.url, str(KEPT), "microworld", terms=4, workers="here"))
    plain = shutil.copytree(store.url, tmp_path / "plain")
    config = AdversarialConfig(
        store.url, "star", "heart", sources=("second-order", "indirect", "none"), repeats=2,
        describe_with="openai:small", ask=8, descriptions=3, pictures=2, workers="here",
    )  # fmt: skip
    logs = tmp_path / "log", tmp_path / "plain.log"

    with served(answer) as chat, forks_with_libraries() as processes:

        def ended(*told: object) -> int | None:
            one = processes.Process(target=run, args=told)
            one.start()
            one.join(120)
            return one.exitcode

        monkeypatch.setenv(BASE_URL, chat.url)
        assert ended(replace(config, store=str(plain)), logs[1]) == 0
        asked = len(chat.asked)
        for pattern, times in KILLS:
            assert ended(config, logs[0], pattern, times) == -signal.SIGKILL, pattern
        assert ended(config, logs[0]) == 0
        again = len(chat.asked) - asked
    found, undisturbed = stages(store.url), stages(str(plain))
    for job, result in found.items():
        assert result.name == undisturbed[job].name
        places = [Path(result.url), Path(undisturbed[job].url)]
        names, others = ({p.relative_to(at).as_posix() for p in at.rglob("*")} for at in places)
        assert names == others, "parts were left, or a file is missing"
        for name in sorted(n for n in names if n.endswith((".parquet", ".png"))):
            one, two = (at / name for at in places)
            assert one.read_bytes() == two.read_bytes(), f"{job}/{name}"
    assert found["adversarial"].arrays("maps").identical(undisturbed["adversarial"].arrays("maps"))
    # Nothing was made twice but a picture whose row was not kept yet; nothing was asked twice but
    # what was under way.
    made, once = written(logs[0]), written(logs[1])
    assert set(once.values()) == {1}
    assert made.keys() == once.keys()
    (twice,) = (made - once).elements()
    assert "/pictures/" in twice
    assert again <= asked + AT_ONCE
