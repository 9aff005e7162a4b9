"""How a job's run begins and ends in the log and by its exit status."""

import json
import logging
import pickle
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from ray.exceptions import RayTaskError

from jobs import encode_texts, second_order, textspan
from jobs.console import of_the_system, progress_bar, run_job, told
from pipeline.cluster.logs import logger
from storage.errors import FacetError, Remedy, StoreError
from storage.results import Result


@dataclass(frozen=True)
class StoppedConfig:
    store: str = "s"


@pytest.fixture(autouse=True)
def log():
    yield
    logger.handlers.clear()
    logger.addHandler(logging.NullHandler())


def said(capsys) -> tuple[list[dict], str]:
    """The log's lines, and the rest of standard error."""
    lines = capsys.readouterr().err.splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return entries, "\n".join(line for line in lines if not line.startswith("{"))


@pytest.mark.parametrize(
    ("error", "raised", "status", "message"),
    [
        (FacetError("no such store"), SystemExit, 2, "error: no such store"),
        (KeyboardInterrupt(), SystemExit, 130, "stopped; what was written is kept"),
        (
            PermissionError(13, "Permission denied", "/s/x"),
            SystemExit,
            2,
            "error: /s/x: Permission denied. Finished shards and results are kept: make room",
        ),
        (OSError(28, "No space left on device"), SystemExit, 2, "error: No space left on device. "),
        (ConnectionResetError("peer"), SystemExit, 2, "error: peer"),
        (ZeroDivisionError("a fault"), ZeroDivisionError, None, ""),
        (SystemExit(1), SystemExit, 1, ""),
    ],
)
def test_however_it_ends_the_log_says_so(capsys, error, raised, status, message):
    def main(config: StoppedConfig) -> None:
        raise error

    with pytest.raises(raised) as caught:
        run_job(main, StoppedConfig())
    assert getattr(caught.value, "code", None) == status
    entries, rest = said(capsys)
    assert [e["event"] for e in entries] == ["started", "failed"]
    assert entries[1]["level"] == "error"
    assert entries[1]["error"] in (repr(error), rest.removeprefix("error: "))
    assert rest.startswith(message)


def test_a_stop_says_what_is_left_of_what_was_under_way(capsys):
    def main(config: StoppedConfig) -> None:
        kept = ("finished shards are kept",) if config.store == "shards" else ()
        with progress_bar("images", 3, *kept) as move:
            move(1)
            raise KeyboardInterrupt

    for store, words in (("shards", "finished shards are kept"), ("s", "nothing of that is kept")):
        with pytest.raises(SystemExit) as caught:
            run_job(main, StoppedConfig(store))
        assert caught.value.code == 130
        assert said(capsys)[1].startswith(f"stopped during images: {words}; the same command")


def test_an_error_of_the_system_under_a_worker_is_its_own_line():
    """Ray's errors are instances of the worker's, and print the worker's trace."""
    cause = PermissionError(13, "Permission denied", "/s/x")
    error = RayTaskError("write", "Traceback (most recent call last)…", cause)
    told = of_the_system(error.as_instanceof_cause())
    assert told is not None
    assert told.startswith("/s/x: Permission denied. ")
    assert of_the_system(KeyError("x")) is None


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_settings_are_finite(capsys, value):
    @dataclass(frozen=True)
    class Config:
        images_per_second: float

    with pytest.raises(SystemExit) as caught:
        run_job(lambda config: None, Config(float(value)))
    assert caught.value.code == 2
    words = f"error: --images-per-second {value}: must be a finite number"
    assert said(capsys)[1] == words


def test_a_run_that_ends_well_is_finished_once(capsys):
    run_job(lambda config: None, StoppedConfig())
    assert [e["event"] for e in said(capsys)[0]] == ["started", "finished"]


@pytest.mark.parametrize("result", ["s/results/one", Result("s/results/one", "one", {}, {})])
def test_where_a_result_is_stands_in_the_log(capsys, result):
    run_job(lambda config: SimpleNamespace(result=result), StoppedConfig())
    assert said(capsys)[0][-1]["result"] == "s/results/one"


@pytest.mark.parametrize(
    ("job", "config"),
    [
        (textspan, textspan.TextSpanConfig("nowhere", "microworld")),
        (encode_texts, encode_texts.EncodeTextsConfig("nowhere", "microworld")),
        (second_order, second_order.SecondOrderConfig("nowhere")),
    ],
)
def test_the_log_calls_a_job_what_the_store_calls_it(capsys, tmp_path, monkeypatch, job, config):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run_job(job.main, config)
    assert {e["job"] for e in said(capsys)[0]} == {job.__name__.removeprefix("jobs.")}


def test_settings_are_told_as_flags_and_what_would_help_as_a_command():
    error = StoreError("lower `batch_size`", Remedy.anew("second_order", "s", mlp_layers="1,2"))
    again = pickle.loads(pickle.dumps(error))  # as Ray brings a worker's error
    assert told(again) == (
        "lower --batch-size: run `facet second-order --store s --mlp-layers 1,2` again"
    )
    mined = FacetError("nothing at {o}", Remedy.first("rosetta", "o"))
    assert told(mined) == "nothing at {o}: run `facet rosetta --out o …` first"
