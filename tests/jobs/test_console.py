"""How a job's run begins and ends in the log and by its exit status."""

import json
import logging
from dataclasses import dataclass

import pytest

from jobs import encode_texts, second_order, textspan
from jobs.console import run_job
from pipeline.logs import logger
from storage.errors import FacetError


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
        (KeyboardInterrupt(), SystemExit, 130, "stopped; finished shards are kept"),
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
    assert entries[1]["error"] in (repr(error), str(error))
    assert rest.startswith(message)


def test_a_run_that_ends_well_is_finished_once(capsys):
    run_job(lambda config: None, StoppedConfig())
    assert [e["event"] for e in said(capsys)[0]] == ["started", "finished"]


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
